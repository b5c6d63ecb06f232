"""Spatial transformer: a localizer predicts a warp, a grid says where to look, a sampler looks there."""

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "An image holds a tilted stroke. One arrow leads from it to a localizer, which is learned and predicts six "
    "numbers. They turn and shrink a regular grid of places, drawn as a lattice over the image. A sampler reads it "
    "at these places and puts what it finds upright into the output, which goes to the classifier. The gradient of "
    "the classifier's loss comes back to the six numbers through the sampler and the grid."
)


def draw() -> Pen:
    pen = Pen(390, 308)
    stroke = [[0.0] * 7 for _ in range(7)]
    for row, column in ((1, 5), (2, 4), (3, 3), (4, 2), (5, 1), (1, 4), (5, 2)):
        stroke[row][column] = 0.9
    pen.text(70, 14, "image", size=12)
    pen.grid(16, 28, stroke, cell=16)
    corners = {(i, j): (72 + 12 * (j - 2) * 1.2 - 12 * (i - 2) * 1.2, 84 + 12 * (j - 2) * 1.2 + 12 * (i - 2) * 1.2)
               for i in range(5) for j in range(5)}  # fmt: skip
    for i in range(5):
        pen.line(*[corners[i, j] for j in range(5)], color=BAD, width=1)
        pen.line(*[corners[j, i] for j in range(5)], color=BAD, width=1)
    pen.text(70, 156, "places where the\noutput's pixels look", size=11.5, color=BAD)
    pen.arrow((130, 56), (166, 56))
    pen.box(168, 38, 96, 36, "localizer", edge=ACCENT)
    pen.text(216, 24, "learned", size=11.5, color=MUTED)
    pen.arrow((264, 56), (296, 56))
    pen.box(298, 38, 80, 36, "θ", edge=MUTED)
    pen.text(338, 86, "6 numbers", size=11.5, color=MUTED)
    pen.arrow((338, 96), (338, 124))
    pen.box(298, 126, 80, 36, "grid", edge=MUTED)
    pen.arrow((298, 144), (266, 144), color=BAD)
    pen.box(168, 126, 96, 36, "sampler", edge=MUTED)
    pen.arrow((130, 104), (216, 104), (216, 124))
    pen.arrow((216, 162), (216, 196))
    pen.text(216, 206, "output", size=12)
    upright = [[0.9 if column == 2 and 0 < row < 4 else 0.0 for column in range(5)] for row in range(5)]
    upright[3][3] = upright[1][1] = 0.5
    pen.grid(176, 218, upright, cell=16)
    pen.arrow((258, 258), (290, 258))
    pen.box(292, 240, 88, 36, "classifier", edge=GOOD)
    pen.text(336, 290, "loss", size=11.5, color=MUTED)
    pen.arrow((380, 258), (386, 258), (386, 56), (378, 56), color=ACCENT, dashed=True)
    pen.text(88, 244, "The gradient of the\nloss comes back to θ\nby way of sampler\nand grid", size=11.5, color=ACCENT)
    return pen
