"""Two ways from tokens back to pixels: DPT fuses four layers' maps, Segmenter lets class tokens point at patches."""

from .pen import ACCENT, BAD, GOOD, HALF, MUTED, Pen

ALT = (
    "Above, DPT: the tokens of four layers of a Vision Transformer become four maps of different sizes, and three "
    "fusions, coarse to fine, add them up to one value per pixel. Below, Segmenter: the patches of the "
    "last layer and one learned token for each class go through two more layers; the product of a class token with "
    "each patch is that class's mask."
)
SHADES = [[0.1, 0.1, 0.2, 0.1], [0.1, 0.7, 0.8, 0.2], [0.2, 0.8, 0.9, 0.2], [0.4, 0.5, 0.5, 0.4]]
FINE = [[share for share in row for _ in (0, 1)] for row in SHADES for _ in (0, 1)]
MAPS = [FINE, SHADES, [[0.3, 0.4], [0.6, 0.5]], [[0.45]]]


def draw() -> Pen:
    pen = Pen(396, 414)
    pen.text(10, 14, "DPT", anchor="start", bold=True)
    for i in range(4):
        y = 42 + 44 * i
        pen.box(10, y - 15, 92, 30, f"layers {6 * i + 1}–{6 * i + 6}", edge=ACCENT, size=11.5)
        if i:
            pen.arrow((56, y - 29), (56, y - 15))
        pen.arrow((102, y), (138, y))
        pen.grid(140, y - 18, MAPS[i], cell=36 / len(MAPS[i]), color=HALF)
        pen.arrow((178, y), (220, y))
        pen.box(222, y - 13, 60, 26, "fuse" if i < 3 else "start", edge=GOOD, size=11.5)
        if i < 3:
            pen.arrow((252, y + 31), (252, y + 13), color=GOOD)
    pen.arrow((282, 42), (312, 42))
    pen.grid(314, 6, FINE, cell=9, color=GOOD)
    pen.text(350, 98, "a depth\nper pixel", size=11.5, color=MUTED)
    pen.text(338, 176, "coarse to fine,\ntwice the sides\neach time", size=11.5, color=MUTED)
    pen.line((10, 206), (386, 206), color=MUTED, width=0.8, dashed=True)
    pen.text(10, 226, "Segmenter", anchor="start", bold=True)
    for i in range(4):
        pen.token(30 + 34 * i, 258, f"p{i + 1}")
    for i, color in enumerate((BAD, HALF)):
        pen.token(186 + 34 * i, 258, f"c{i + 1}", color=color)
    pen.text(80, 236, "patches of the ViT", size=11.5, color=MUTED, anchor="start")
    pen.text(242, 258, "one learned token\nper class", size=11.5, color=MUTED, anchor="start")
    pen.arrow((110, 272), (110, 290))
    pen.box(14, 292, 224, 30, "two more layers: all see all", edge=ACCENT)
    for i in range(4):
        pen.arrow((30 + 34 * i, 322), (30 + 34 * i, 342))
        pen.token(30 + 34 * i, 356, f"p{i + 1}")
    for i, color in enumerate((BAD, HALF)):
        pen.arrow((186 + 34 * i, 322), (186 + 34 * i, 342), color=color)
        pen.token(186 + 34 * i, 356, f"c{i + 1}", color=color)
    pen.line((186, 370), (186, 386), (30, 386), color=BAD)
    for i in range(4):
        pen.arrow((30 + 34 * i, 386), (30 + 34 * i, 370), color=BAD)
    pen.text(108, 402, "cosines of c1 with the patches", size=11.5, color=MUTED)
    pen.arrow((234, 356), (270, 356))
    pen.grid(276, 322, [[0.1, 0.9], [0.2, 0.8]], cell=16, color=BAD)
    pen.grid(330, 322, [[0.9, 0.1], [0.8, 0.2]], cell=16, color=HALF)
    pen.text(318, 374, "a mask per class", size=11.5, color=MUTED)
    return pen
