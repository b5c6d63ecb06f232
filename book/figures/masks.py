"""Who may look at whom: both sides, the left alone, a band, a source as well."""

from .pen import MUTED, Pen

ALT = (
    "Four grids of 6 by 6 cells, rows are queries and columns are keys, filled cells may be seen. BERT: all "
    "cells. GPT: the lower triangle. GPT-3's banded layers: a band of three below the diagonal. A padded row: the "
    "last two columns are empty."
)
N = 6
MASKS = {
    "both sides (BERT)": lambda i, j: True,
    "left side (GPT)": lambda i, j: j <= i,
    "band of 3 (GPT-3)": lambda i, j: i - 3 < j <= i,
    "padding hidden": lambda i, j: j < N - 2,
}


def draw() -> Pen:
    pen = Pen(390, 290)
    for n, (name, sees) in enumerate(MASKS.items()):
        x, y = 55 + 190 * (n % 2), 30 + 138 * (n // 2)
        pen.text(x + 48, y - 14, name)
        pen.grid(x, y, [[float(sees(i, j)) * 0.7 for j in range(N)] for i in range(N)], cell=16)
        pen.text(x - 8, y + 48, "query", anchor="end", size=11.5, color=MUTED)
        pen.text(x + 48, y + 106, "key", size=11.5, color=MUTED)
    return pen
