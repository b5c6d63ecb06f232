"""Two ways to begin: one strided convolution that cuts patches, or a stack of small ones that overlap."""

from .pen import ACCENT, GOOD, MUTED, Pen

ALT = (
    "Left: ViT's stem, one convolution of 16 by 16 pixels with stride 16; patches do not overlap. Right: an early "
    "convolutional stem, four convolutions of 3 by 3 with stride 2 and one of 1 by 1; the side falls 224, 112, "
    "56, 28, 14. Both end in 14 by 14 tokens; the right one drops one block of the Transformer to cost the same."
)


def draw() -> Pen:
    pen = Pen(390, 320)
    for x, name in ((98, "patches"), (292, "convolutions")):
        pen.text(x, 16, name, bold=True)
        pen.box(x - 50, 30, 100, 30, "224 × 224 × 3")
    pen.arrow((98, 60), (98, 218))
    pen.box(30, 126, 136, 36, "16 × 16, stride 16", edge=ACCENT)
    side, y = 224, 60
    for channels in (48, 96, 192, 384):
        side //= 2
        pen.arrow((292, y), (292, y + 12))
        pen.box(222, y + 12, 140, 24, f"3 × 3, stride 2 → {side}", edge=GOOD, size=11.5)
        pen.text(370, y + 24, str(channels), size=11, color=MUTED, anchor="start")
        y += 36
    pen.arrow((292, y), (292, y + 14))
    pen.box(258, y + 14, 68, 22, "1 × 1", edge=GOOD, size=11.5)
    for x, blocks in ((98, 12), (292, 11)):
        pen.arrow((x, 218 if x < 200 else y + 36), (x, 248))
        pen.box(x - 76, 248, 152, 28, f"{blocks} Transformer blocks", edge=ACCENT)
    pen.text(195, 300, "same 14 × 14 tokens, about the same multiply-adds", size=11.5, color=MUTED)
    return pen
