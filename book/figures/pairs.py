"""CLIP: images and texts meet in one space; the scores of a batch are a square whose diagonal is right."""

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "Above: four images pass through an image encoder and four captions through a text encoder; each becomes a vector "
    "of length one. Their products form a square of four by four scores, in which the diagonal should be highest by "
    "row and by column. Below: names of classes take the place of captions, one image the place of the batch, and the "
    "highest score names the class."
)


def draw() -> Pen:
    pen = Pen(390, 352)
    pen.text(196, 12, "training: which caption belongs to which image?", size=12, bold=True)
    pen.box(150, 28, 180, 26, "text encoder", edge=ACCENT)
    pen.box(16, 88, 84, 112, "image\nencoder", edge=ACCENT)
    pen.arrow((240, 54), (240, 64), color=MUTED)
    pen.arrow((100, 144), (112, 144), color=MUTED)
    scores = [[0.9 if i == j else 0.1 + 0.06 * ((3 * i + 2 * j) % 4) for j in range(4)] for i in range(4)]
    for i in range(4):
        pen.token(126, 102 + 28 * i, f"I{i + 1}", side=22)
        pen.token(186 + 36 * i, 76, f"T{i + 1}", color=GOOD, side=22)
    for i in range(4):
        for j in range(4):
            pen.grid(168 + 36 * j, 88 + 28 * i, [[scores[i][j]]], cell=28, color=BAD if i == j else ACCENT)
    pen.text(322, 116, "rows: which\ntext?", anchor="start", size=11)
    pen.text(322, 172, "columns:\nwhich image?", anchor="start", size=11)
    pen.line((12, 222), (378, 222), dashed=True)
    pen.text(196, 238, "afterwards: a classifier made of words", size=12, bold=True)
    names = ("a photo of a red disc", "a photo of a blue ring", "a photo of a white bar")
    for i, name in enumerate(names):
        pen.text(118, 264 + 26 * i, name, size=11.5)
        pen.arrow((186, 264 + 26 * i), (206, 264 + 26 * i), color=MUTED)
        pen.token(222, 264 + 26 * i, f"T{i + 1}", color=GOOD, side=22)
        pen.grid(288, 254 + 26 * i, [[(0.2, 0.9, 0.1)[i]]], cell=20, color=BAD if i == 1 else ACCENT)
        pen.arrow((235, 264 + 26 * i), (284, 264 + 26 * i), color=MUTED)
    pen.text(316, 290, "highest:\nblue ring", anchor="start", size=11.5)
    pen.token(260, 338, "I", side=22)
    pen.arrow((260, 326), (260, 252), color=MUTED)
    pen.text(240, 338, "one image", anchor="end", size=11.5, color=MUTED)
    return pen
