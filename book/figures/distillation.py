"""DeiT: a class token learns the labels, a distillation token learns what a convolutional teacher says."""

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "An image goes to a frozen convolutional teacher and, as patches, to a Transformer with two extra tokens. The "
    "class token's output is compared with the true label, the distillation token's with the teacher's decision. "
    "The two losses are averaged; when the student is used, the two predictions are averaged."
)


def draw() -> Pen:
    pen = Pen(390, 320)
    pen.box(10, 244, 74, 62, "image")
    pen.arrow((84, 262), (128, 262))
    pen.token(150, 262, "class", color=BAD, w=40)
    for i in range(3):
        pen.token(196 + 34 * i, 262, "…" if i == 2 else str(i + 1), w=28)
    pen.token(310, 262, "distill", color=GOOD, w=46)
    pen.box(128, 190, 206, 30, "Transformer", edge=ACCENT)
    for x in (150, 230, 310):
        pen.arrow((x, 248), (x, 222))
    pen.arrow((150, 190), (150, 128), color=BAD)
    pen.arrow((310, 190), (310, 128), color=GOOD)
    pen.box(102, 98, 96, 30, "cross-entropy", edge=BAD)
    pen.box(262, 98, 96, 30, "cross-entropy", edge=GOOD)
    pen.text(150, 66, "true label: cat")
    pen.arrow((150, 76), (150, 97), color=BAD)
    pen.text(310, 66, "teacher says: cat")
    pen.arrow((310, 76), (310, 97), color=GOOD)
    pen.box(10, 20, 84, 44, "ResNet\n(frozen)", dashed=True)
    pen.arrow((47, 244), (47, 66))
    pen.arrow((94, 34), (310, 34), (310, 56), color=GOOD)
    pen.text(230, 150, "loss: the mean\nof both", size=11.5, color=MUTED)
    pen.text(230, 294, "used: the mean of both predictions", size=11.5, color=MUTED)
    return pen
