"""The Transformer of 2017: two stacks around a residual stream, which attention and MLPs add to."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "Two columns. Left, the encoder: tokens with positions enter a thick upward line, the residual stream; six "
    "times self-attention and then an MLP read from it and add to it, with a norm after each. Right, the decoder: "
    "the same stream, with masked self-attention, then attention to the encoder's output, then an MLP, six times; "
    "at the top a linear layer and a softmax give the next token."
)


def stack(pen: Pen, x: float, bottom: float, top: float, parts: list[tuple[str, str]], gap: float = 58) -> list[float]:
    """A residual stream from bottom to top with branches at its right; returns the heights of the branches."""
    pen.arrow((x, bottom), (x, top), width=4.5, color=MUTED)
    heights = []
    for i, (name, color) in enumerate(parts):
        y = bottom - 46 - gap * i
        pen.arrow((x, y + 20), (x + 28, y + 20), (x + 28, y + 13), color=color)
        pen.box(x + 12, y - 13, 96, 26, name, edge=color, size=11.5)
        pen.arrow((x + 28, y - 13), (x + 28, y - 22), (x + 7, y - 22), color=color)
        pen.circle(x, y - 22, 7, "+", edge=color)
        heights.append(y)
    return heights


def draw() -> Pen:
    pen = Pen(390, 432)
    left = stack(pen, 45, 350, 120, [("self-attention", ACCENT), ("MLP", HALF)], gap=66)
    right = stack(pen, 235, 350, 84, [("masked self-att.", ACCENT), ("cross-attention", GOOD), ("MLP", HALF)], gap=66)
    pen.box(24, left[1] - 44, 140, 350 - left[1] + 34, dashed=True, fill="none")
    pen.box(214, right[2] - 44, 140, 350 - right[2] + 34, dashed=True, fill="none")
    pen.text(150, left[1] - 54, "× 6", color=MUTED)
    pen.text(362, right[2] - 34, "× 6", anchor="start", color=MUTED)
    pen.arrow((45, 122), (45, 100), (184, 100), (184, right[1]), (246, right[1]), color=GOOD)
    pen.text(116, 88, "keys and values", size=11.5, color=MUTED)
    for x, words in ((45, "source tokens"), (235, "target tokens so far")):
        pen.arrow((x, 398), (x, 352))
        pen.circle(x, 374, 8, "+")
        pen.text(x + 14, 374, "positions", anchor="start", size=11.5, color=MUTED)
        pen.text(x + 45, 402, words)
    pen.box(190, 48, 92, 26, "linear, softmax", edge=ACCENT, size=11.5)
    pen.arrow((235, 86), (235, 74))
    pen.arrow((235, 48), (235, 26))
    pen.text(235, 14, "the next token")
    pen.text(384, 420, "a norm follows each +", size=11.5, color=MUTED, anchor="end")
    return pen
