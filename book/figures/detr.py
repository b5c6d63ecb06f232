"""DETR: queries ask the encoded image, each answers with one box, and a matching decides who should have said what."""

from .pen import ACCENT, BAD, GOOD, HALF, MUTED, Pen

ALT = (
    "An image goes through a convolutional network and an encoder. Four learned queries look at the result in a "
    "decoder and each gives a class and a box; two say no object. A matching pairs the two objects of the image "
    "with the two queries whose answers cost least; the other queries should say no object."
)


def draw() -> Pen:
    pen = Pen(390, 350)
    pen.box(10, 20, 72, 60)
    pen.token(34, 42, color=BAD, side=18)
    pen.token(60, 60, color=GOOD, side=16)
    pen.text(46, 94, "image", color=MUTED, size=11.5)
    pen.arrow((82, 50), (104, 50))
    pen.box(106, 34, 60, 32, "ResNet", edge=ACCENT)
    pen.arrow((166, 50), (186, 50))
    pen.box(188, 34, 70, 32, "encoder", edge=ACCENT)
    pen.arrow((258, 50), (278, 50))
    pen.box(280, 34, 102, 32, "tokens of\nthe image", size=11.5)
    pen.arrow((331, 66), (331, 138), (300, 138), color=ACCENT)
    pen.box(70, 122, 228, 32, "decoder", edge=ACCENT)
    at = (98, 156, 214, 270)
    said = (("disk", BAD), ("no object", MUTED), ("box", GOOD), ("no object", MUTED))
    for i, (x, (name, color)) in enumerate(zip(at, said, strict=True)):
        pen.token(x, 98, f"q{i + 1}", color=HALF, side=22)
        pen.arrow((x, 110), (x, 121), color=HALF)
        pen.arrow((x, 154), (x, 176))
        pen.box(x - 27, 178, 54, 34, name.replace(" ", "\n"), edge=color, size=11.5)
    pen.text(310, 98, "learned", anchor="start", size=11.5, color=MUTED)
    pen.text(310, 196, "class + box", anchor="start", size=11.5, color=MUTED)
    for x, name, color in ((128, "disk", BAD), (242, "box", GOOD)):
        pen.box(x - 30, 282, 60, 28, name, edge=color)
    pen.line((98, 213), (128, 281), color=BAD, width=3)
    pen.line((214, 213), (242, 281), color=GOOD, width=3)
    for x in at:
        for y in (128, 242):
            pen.line((x, 213), (y, 281), color=MUTED, width=0.8, dashed=True, opacity=0.6)
    pen.text(310, 246, "the cheapest\none-to-one\nmatching", anchor="start", size=11.5, color=MUTED)
    pen.text(310, 296, "true objects", anchor="start", size=11.5, color=MUTED)
    pen.text(195, 336, "q2 and q4 are matched with nothing: they should say no object", size=11.5, color=MUTED)
    return pen
