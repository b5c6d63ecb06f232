"""ConvMixer: patches once, then a depthwise convolution mixes places and a pointwise one mixes channels."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "Patches of the image become a map that keeps its size. In each block a depthwise 9 by 9 convolution mixes "
    "places inside each channel and is added to its input; then a 1 by 1 convolution mixes the channels of each "
    "place. At the end a mean over places and a linear layer."
)


def draw() -> Pen:
    pen = Pen(390, 330)
    pen.box(130, 8, 130, 26, "image in patches", size=12)
    pen.arrow((195, 34), (195, 60))
    pen.box(60, 62, 290, 182, fill="none", dashed=True)
    pen.text(346, 234, "× depth", anchor="end", size=11, color=MUTED)
    pen.box(98, 88, 194, 30, "depthwise 9 × 9, GELU, norm", edge=GOOD, size=12)
    pen.arrow((195, 62), (195, 87))
    pen.arrow((195, 118), (195, 139))
    pen.arrow((195, 74), (316, 74), (316, 148), (203, 148), color=MUTED)
    pen.circle(195, 148, 8, "+", edge=GOOD)
    pen.arrow((195, 156), (195, 184))
    pen.box(98, 186, 194, 30, "1 × 1, GELU, norm", edge=HALF, size=12)
    pen.text(54, 104, "places", anchor="end", size=11.5, color=GOOD)
    pen.text(54, 202, "channels", anchor="end", size=11.5, color=HALF)
    pen.arrow((195, 216), (195, 262))
    pen.box(112, 264, 166, 28, "mean, linear layer", edge=ACCENT, size=12)
    pen.arrow((195, 292), (195, 310))
    pen.text(195, 320, "class", size=11.5)
    return pen
