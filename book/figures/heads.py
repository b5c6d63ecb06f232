"""Multi-head attention with its shapes: three projections, the split into heads, attention in each, and the merge."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "A sequence of N tokens of width 512 is projected three times, to queries, keys and values. Each projection "
    "is cut along its width into 8 heads of 64. In each head queries and keys give an N by N table of weights, "
    "which mixes the values. The 8 results are joined to width 512 again and projected once more."
)


def draw() -> Pen:
    pen = Pen(390, 400)
    pen.box(135, 8, 120, 30, "x   (N, 512)")
    for i, (name, color) in enumerate((("q", ACCENT), ("k", GOOD), ("v", HALF))):
        x = 75 + 120 * i
        pen.arrow((195, 38), (x, 62))
        pen.box(x - 38, 62, 76, 28, f"W_{name}".replace("_", ""), edge=color)
        pen.arrow((x, 90), (x, 112))
        for h in range(8):
            pen.token(x - 49 + 14 * h, 130, color=color, side=24, w=11)
        pen.text(x, 152, f"{name}: 8 heads × (N, 64)", size=11.5, color=MUTED)
    pen.arrow((75, 162), (150, 200), color=ACCENT)
    pen.arrow((195, 162), (175, 200), color=GOOD)
    pen.grid(130, 202, [[0.7, 0.1, 0.2, 0], [0.1, 0.6, 0.1, 0.2], [0.3, 0, 0.5, 0.2], [0.1, 0.2, 0.1, 0.6]], cell=15)
    pen.text(122, 232, "softmax(q kᵀ / √64)", size=11.5, anchor="end", color=MUTED)
    pen.text(160, 274, "(N, N), one for each head", size=11.5, color=MUTED)
    pen.arrow((315, 162), (315, 232), (196, 232), color=HALF)
    pen.text(322, 205, "mixes", size=11.5, anchor="start", color=MUTED)
    pen.arrow((195, 284), (195, 302))
    for h in range(8):
        pen.token(160 + 10 * h, 316, color=HALF, side=22, w=9)
    pen.text(250, 316, "joined: (N, 512)", size=11.5, anchor="start", color=MUTED)
    pen.arrow((195, 330), (195, 346))
    pen.box(157, 346, 76, 26, "W out", edge=ACCENT)
    pen.arrow((195, 372), (195, 396))
    return pen
