"""Two networks, the same examples: each layer has a table of who is like whom, and tables can be compared."""

from .pen import ACCENT, GOOD, MUTED, Pen

ALT = (
    "Five images go into two networks, a ViT and a CNN. A layer of each is turned into a table of five by five cells "
    "that says how alike two images are to it. The two tables are compared to one number between zero and one."
)
LIKE = [[0.9, 0.7, 0.1, 0.1, 0.2], [0.7, 0.9, 0.2, 0.1, 0.1], [0.1, 0.2, 0.9, 0.6, 0.1], [0.1, 0.1, 0.6, 0.9, 0.2],
        [0.2, 0.1, 0.1, 0.2, 0.9]]  # fmt: skip
OTHER = [[0.9, 0.6, 0.3, 0.1, 0.1], [0.6, 0.9, 0.1, 0.2, 0.1], [0.3, 0.1, 0.9, 0.4, 0.3], [0.1, 0.2, 0.4, 0.9, 0.1],
         [0.1, 0.1, 0.3, 0.1, 0.9]]  # fmt: skip


def draw() -> Pen:
    pen = Pen(390, 300)
    pen.text(195, 14, "the same five images", size=11.5, color=MUTED)
    for i in range(5):
        pen.token(111 + 42 * i, 38, str(i + 1), w=32)
    pen.arrow((150, 56), (92, 80))
    pen.arrow((240, 56), (298, 80))
    pen.box(42, 82, 100, 30, "a layer of a ViT", edge=ACCENT)
    pen.box(248, 82, 100, 30, "one of a CNN", edge=GOOD)
    pen.arrow((92, 112), (92, 134))
    pen.arrow((298, 112), (298, 134))
    pen.grid(47, 138, LIKE, cell=18)
    pen.grid(253, 138, OTHER, cell=18)
    pen.text(195, 176, "who is like\nwhom?", size=11.5, color=MUTED)
    pen.arrow((92, 232), (150, 262))
    pen.arrow((298, 232), (240, 262))
    pen.box(140, 256, 110, 30, "alignment: 0 to 1")
    return pen
