"""A pyramid of maps: each stage has half the side and twice the channels. Sizes are those of the library's Swin-T."""

import torch

from tformerlib.models.swin import swin_tiny

from .pen import ACCENT, MUTED, Pen

ALT = (
    "Four squares that get smaller and deeper from left to right: the maps of Swin-T for an image of 224 pixels, "
    "56 by 56 with 96 channels, 28 by 28 with 192, 14 by 14 with 384, and 7 by 7 with 768. A plain ViT keeps one "
    "map of 14 by 14."
)


def draw() -> Pen:
    with torch.device("meta"), torch.no_grad():
        maps = swin_tiny().eval().features(torch.zeros(1, 3, 224, 224))
    pen, x = Pen(390, 230), 12.0
    for i, each in enumerate(maps):
        side, channels = each.shape[1], each.shape[3]
        drawn, depth = 24 + 1.5 * side**0.95, 3 + 4 * i
        y = 150 - drawn
        for layer in range(depth // 3, -1, -1):
            pen.box(x + 4 * layer, y - 4 * layer, drawn, drawn, edge=ACCENT, round=2)
        pen.text(x + drawn / 2, 168, f"{side} × {side}")
        pen.text(x + drawn / 2, 186, f"{channels} channels", size=11.5, color=MUTED)
        x += drawn + 4 * (depth // 3) + (34 if i else 22)
    pen.text(195, 214, "half the side, twice the channels at every stage", size=11.5, color=MUTED)
    return pen
