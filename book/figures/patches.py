"""ViT: an image is cut into patches, each becomes a token, a class token goes in front."""

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "An image of 224 by 224 pixels is cut into 14 by 14 patches; four by four are drawn. Each patch of 16 by 16 "
    "pixels with 3 colors, 768 numbers, is projected to a token. A learned class token goes in front, positions "
    "are added, the encoder mixes all, and the class is read off the class token."
)


def draw() -> Pen:
    pen = Pen(390, 330)
    shades = [[0.1, 0.2, 0.2, 0.1], [0.2, 0.8, 0.6, 0.2], [0.1, 0.7, 0.9, 0.3], [0.1, 0.3, 0.4, 0.2]]
    pen.grid(20, 30, shades, cell=30)
    pen.text(80, 14, "224 × 224 pixels", size=11.5, color=MUTED)
    pen.text(80, 166, "patches of 16 × 16 × 3\n= 768 numbers", size=11.5, color=MUTED)
    pen.arrow((146, 90), (196, 90))
    pen.box(198, 74, 92, 32, "one matrix", edge=ACCENT)
    pen.text(244, 60, "the same for all", size=11.5, color=MUTED)
    pen.arrow((290, 90), (340, 90), (340, 206))
    pen.token(44, 226, "class", color=BAD, w=44)
    for i in range(7):
        pen.token(94 + 40 * i, 226, "…" if i == 5 else str(i + 1 if i < 5 else 196), w=32)
    pen.text(8, 256, "+ positions 0 … 196", anchor="start", size=11.5, color=MUTED)
    pen.box(24, 268, 346, 28, "Transformer encoder: 12 × (attention, MLP)", edge=GOOD)
    pen.arrow((44, 296), (44, 318), color=BAD)
    pen.text(56, 316, "1000 classes, read off the class token", anchor="start", size=12)
    return pen
