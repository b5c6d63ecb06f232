"""DAB-DETR: queries are boxes, and every layer of the decoder mends them (Liu et al. 2022).

Conditional DETR's attention, with three changes: the query is the wave of a box (x, y, w, h) instead of a learned
vector; the box's width and height stretch the part of the score that says where; and each layer starts from the box
that the one before found. Made and used like `tformerlib.models.detr`.

Shape letters: B images, N queries, M places of the last map, C width (`dim`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..detection.backbone import with_frozen_norms
from ..detection.heads import box_head, rare_class_prior, start_at_reference, two_layers
from ..detection.matching import Focal, Predictions, Scoring
from ..registry import register
from .conditional_detr import ConditionalLayer, sine_of
from .detr import Encoder, init
from .resnet import resnet50


class DABDETR(nn.Module):
    """A detector; see `DETR` for the arguments. Places of the image are waves of base 20 instead of 10,000 (A.2)."""

    scoring: Scoring = Focal()

    def __init__(
        self, *, classes: int = 91, queries: int = 300, backbone: Callable[[], nn.Module] | None = None, dim: int = 256,
        encoder: int = 6, decoder: int = 6, heads: int = 8, hidden: int = 2048, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        layer: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "dropout": dropout, "act": nn.PReLU}
        steer = two_layers(dim, dim, dim).apply(init)
        self.encoder = Encoder(backbone or with_frozen_norms(resnet50), encoder, base=20.0, steer=steer, **layer)
        self.anchors = nn.Parameter(torch.randn(queries, 4))  # before the sigmoid
        self.decoder = nn.ModuleList(ConditionalLayer(**layer, first=i == 0) for i in range(decoder)).apply(init)
        self.query, self.size = two_layers(2 * dim, dim, dim).apply(init), two_layers(dim, dim, 2).apply(init)
        self.bend = two_layers(dim, dim, dim).apply(init)
        self.norm = nn.LayerNorm(dim)
        self.classify, self.locate = rare_class_prior(nn.Linear(dim, classes)), start_at_reference(box_head(dim))

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Predictions:
        """Images (B, 3, H, W) and mask (B, H, W), False at padding, to the predictions of each layer."""
        anchors = self.anchors.expand(images.shape[0], -1, -1)
        content = anchors.new_zeros(*anchors.shape[:2], self.encoder.dim)
        return self.decode(self.encoder(images, mask), content, anchors)

    def decode(
        self, encoded: tuple[Tensor, Tensor, Tensor | None], x: Tensor, anchors: Tensor, apart: Tensor | None = None
    ) -> Predictions:
        """Queries of content x (B, N, C) and anchors (B, N, 4) before the sigmoid; `apart` as in ConditionalLayer."""
        dim, states, boxes = self.encoder.dim, [], []
        here = anchors
        for i, layer in enumerate(self.decoder):
            box = here.sigmoid()
            sine = sine_of(box, dim // 2)  # of y, x, w and h
            where = sine[..., :dim] * self.bend(x) if i else sine[..., :dim]
            stretch = self.size(x).sigmoid().flip(-1) / box[..., 2:].flip(-1)  # of y and x: sec. 4.4, eq. 6
            where = where * stretch.repeat_interleave(dim // 2, -1)
            x = layer(x, self.query(sine), where, *encoded, apart)
            states.append(self.norm(x))
            boxes.append(self.locate(states[-1]) + anchors)
            anchors = self.locate(x) + here  # without the norm, as the official code has it
            here = anchors.detach()  # the next layer's loss mends this layer's anchor, but not what led to it
        return Predictions(self.classify(torch.stack(states)), torch.stack(boxes).sigmoid())


@register
def dab_detr_resnet50(**overrides: Any) -> DABDETR:
    """43.7 M parameters (Liu et al. 2022)."""
    return DABDETR(**overrides)
