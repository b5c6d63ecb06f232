"""Swin: attention inside windows of a map, and in the next block inside windows that are shifted by half."""

import drawsvg

from .pen import ACCENT, BAD, LINE, MUTED, Pen

ALT = (
    "Two maps of 8 by 8 tokens. In the first, four windows of 4 by 4; a marked token sees the 16 tokens of its "
    "window. In the second the windows are shifted by two tokens down and right: the same token now shares a "
    "window with tokens of four former windows. At the borders the shifted windows are smaller, and what wrapping "
    "brings together is masked."
)
SIDE, CELL, WINDOW = 8, 19, 4


def field(pen: Pen, x: float, y: float, shift: int) -> None:
    """A map with its windows, and the window of the token at (3, 3)."""

    def window(r: int, c: int) -> tuple[int, int]:
        return (r - shift) // WINDOW, (c - shift) // WINDOW

    marked = window(3, 3)
    pen.grid(x, y, [[0.45 * (window(r, c) == marked) for c in range(SIDE)] for r in range(SIDE)], cell=CELL)
    edges = [0, *range(shift or WINDOW, SIDE, WINDOW), SIDE]
    for at in edges:
        pen.line((x, y + at * CELL), (x + SIDE * CELL, y + at * CELL), color=ACCENT, width=2.4)
        pen.line((x + at * CELL, y), (x + at * CELL, y + SIDE * CELL), color=ACCENT, width=2.4)
    pen.sheet.append(drawsvg.Circle(x + 3.5 * CELL, y + 3.5 * CELL, 6, fill=BAD, stroke=LINE))


def draw() -> Pen:
    pen = Pen(390, 240)
    for x, shift, name in ((20, 0, "block 1: windows"), (218, WINDOW // 2, "block 2: shifted by 2")):
        pen.text(x + SIDE * CELL / 2, 18, name)
        field(pen, x, 34, shift)
    pen.arrow((176, 110), (214, 110))
    words = "the red token sees the tinted ones: in block 2\nfour windows meet; after two blocks, 5 places right"
    pen.text(195, 208, words, size=11.5, color=MUTED)
    return pen
