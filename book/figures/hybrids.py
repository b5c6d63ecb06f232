"""Where each hybrid lets convolution in: a row a model, a column a place."""

from .pen import ACCENT, GOOD, MUTED, Pen

ALT = (
    "A table of seven models and five places. Stem: early convolutions, CCT, CeiT, CMT, CoAtNet. Before the "
    "projections: CvT. Inside attention, as a starting point: ConViT. In the feed-forward network: CeiT and CMT. "
    "Whole early stages: CoAtNet and UniFormer. ConvMixer has convolution everywhere and no attention."
)
PLACES = ("stem", "q, k, v", "weights", "MLP", "early stages")
MODELS = {
    "CCT": (1, 0, 0, 0, 0), "CeiT": (1, 0, 0, 1, 0), "CvT": (1, 1, 0, 0, 0), "ConViT": (0, 0, 1, 0, 0),
    "CMT": (1, 1, 0, 1, 0), "CoAtNet": (1, 0, 0, 0, 1), "UniFormer": (1, 0, 0, 0, 1), "ConvMixer": (1, 1, 1, 1, 1),
}  # fmt: skip


def draw() -> Pen:
    pen = Pen(390, 300)
    for c, place in enumerate(PLACES):
        pen.text(118 + 60 * c, 24, place.replace(" ", "\n") if " " in place and "," not in place else place, size=11.5)
    for r, (name, marks) in enumerate(MODELS.items()):
        y = 58 + 29 * r
        pen.text(76, y, name, anchor="end")
        for c, mark in enumerate(marks):
            pen.token(118 + 60 * c, y, "conv" if mark else "", color=GOOD if mark else MUTED, w=52, side=22)
    pen.line((84, 42), (384, 42), color=ACCENT)
    pen.text(195, 292, "empty: attention or a plain linear layer does the work", size=11.5, color=MUTED)
    return pen
