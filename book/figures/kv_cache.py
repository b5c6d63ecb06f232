"""The key/value cache: each new token computes one row and looks at all the stored ones."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "Three steps of writing. At each step the new token computes one query, one key and one value. The key and "
    "the value are appended to two tables that keep those of all earlier tokens; the query looks at the whole "
    "table."
)
WORDS = ("import", "os", ".", "path")


def draw() -> Pen:
    pen = Pen(390, 300)
    for step in range(3):
        y, n = 30 + 92 * step, step + 2
        pen.text(8, y, f"step {step + 1}", anchor="start", color=MUTED)
        for i in range(n):
            new = i == n - 1
            x = 150 + 58 * i
            pen.token(x, y, WORDS[i], color=GOOD if new else MUTED, w=52, side=22)
            for row, (name, color) in enumerate((("k", ACCENT), ("v", HALF))):
                pen.box(x - 22, y + 20 + 21 * row, 44, 18, name, edge=color, size=11.5, dashed=not new)
        pen.token(80, y + 40, "q", color=GOOD, w=30)
        pen.line((116, y), (92, y + 28), color=GOOD, dashed=True, opacity=0.0)
        pen.arrow((96, y + 40), (126, y + 40), color=GOOD)
        pen.text(80, y + 64, "one row", size=11.5, color=MUTED)
    pen.text(195, 288, "solid: computed now   ·   dashed: kept from before", size=11.5, color=MUTED)
    return pen
