"""Deformable DETR: a query looks at a few points it chooses, on several scales (Zhu et al. 2021).

Attention over a whole map costs its area squared, so DETR can afford only the coarsest one. Here each head of a query
takes `points` samples of each of four maps, near where the query is, and the fine maps come within reach.
Made and used like `tformerlib.models.detr`. `record_attention` shows the weights of the samples, (B, heads, N, levels *
points), in the place of those of a map.

Shape letters: B images, N queries, M places of all maps, C width (`dim`), D width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.deformable import DeformableAttention, Pyramid, look_around
from ..detection.backbone import Backbone, shrink, with_frozen_norms
from ..detection.heads import box_head, rare_class_prior, start_at_reference
from ..detection.matching import Focal, Predictions, Scoring
from ..layers.blocks import MLP, Attention, PostNorm
from ..layers.positions import map_sinusoids
from ..registry import register
from .detr import init
from .resnet import resnet50


class DeformableDETR(nn.Module):
    """A detector; see `DETR` for the other arguments.

    Args:
        levels: maps: all but one from the backbone, and one of half the sides of its last.  points: of each map.
        refine: every layer starts from the box that the one before found, with heads of its own (sec. 4.2).
    """

    scoring: Scoring = Focal()

    def __init__(
        self, *, classes: int = 91, queries: int = 300, backbone: Callable[[], nn.Module] | None = None, dim: int = 256,
        encoder: int = 6, decoder: int = 6, heads: int = 8, hidden: int = 1024, dropout: float = 0.1, levels: int = 4,
        points: int = 4, refine: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        layer: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "dropout": dropout}
        layer |= {"levels": levels, "points": points}
        self.encoder = DeformableEncoder(backbone or with_frozen_norms(resnet50), encoder, **layer)
        self.queries, self.contents = (nn.Parameter(torch.randn(queries, dim)) for _ in range(2))
        self.point = nn.Linear(dim, 2).apply(init)  # where each query looks, before the sigmoid
        self.decoder = nn.ModuleList(DeformableLayer(**layer) for _ in range(decoder))
        self.refine, pairs = refine, decoder if refine else 1
        self.classify = nn.ModuleList(rare_class_prior(nn.Linear(dim, classes)) for _ in range(pairs))
        self.locate = nn.ModuleList(start_at_reference(box_head(dim)) for _ in range(pairs))
        first: Any = self.locate[0]
        nn.init.constant_(first[-1].bias[2:], -2.0)  # boxes begin small

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Predictions:
        """Images (B, 3, H, W) and mask (B, H, W), False at padding, to the predictions of each layer."""
        pyramid = self.encoder(images, mask)
        x, query = (each.expand(images.shape[0], -1, -1) for each in (self.contents, self.queries))
        at, logits, boxes = self.point(query), [], []
        for i, layer in enumerate(self.decoder):
            ratios = pyramid.ratios.repeat(1, 1, at.shape[-1] // 2)
            x = layer(x, query, at.sigmoid()[:, :, None] * ratios[:, None], pyramid)
            head = i if self.refine else 0
            boxes.append(self.locate[head](x) + F.pad(at, (0, 4 - at.shape[-1])))
            logits.append(self.classify[head](x))
            at = boxes[-1].detach() if self.refine else at
        return Predictions(torch.stack(logits), torch.stack(boxes).sigmoid())


class DeformableEncoder(nn.Module):
    """Images to a pyramid, in which every place has looked at points of all maps."""

    def __init__(self, backbone: Callable[[], nn.Module], depth: int, *, dim: int, levels: int, **layer: Any) -> None:
        super().__init__()
        self.backbone, self.dim = Backbone(backbone, levels - 1), dim
        convs = [nn.Conv2d(channels, dim, 1) for channels in self.backbone.dims]
        convs.append(nn.Conv2d(self.backbone.dims[-1], dim, 3, 2, 1))
        self.project = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, dim)) for conv in convs)
        self.level = nn.Parameter(torch.randn(levels, dim))  # says which map a place is of
        self.layers = nn.ModuleList(
            DeformableLayer(dim, levels=levels, **layer, among=False) for _ in range(depth)
        )  # fmt: skip

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Pyramid:
        maps, masks = self.backbone(images, mask)
        maps = [f(x.movedim(-1, 1)).movedim(1, -1) for f, x in zip(self.project, [*maps, maps[-1]], strict=True)]
        last = maps[-1]
        masks.append(last.new_ones(last.shape[:3], dtype=torch.bool) if mask is None else shrink(mask, last))
        ratios = torch.stack([torch.stack([m[:, 0].sum(1) / m.shape[2], m[:, :, 0].sum(1) / m.shape[1]], -1)
                              for m in masks], 1).to(last)  # fmt: skip
        place = [map_sinusoids(m, self.dim, shift=0.5).to(last) + e for m, e in zip(masks, self.level, strict=True)]
        x, place_of = (torch.cat([each.flatten(1, 2) for each in all_], 1) for all_ in (maps, place))
        seen = None if mask is None else torch.cat([m.flatten(1) for m in masks], 1)[..., None]
        shapes = [(m.shape[1], m.shape[2]) for m in masks]
        at = torch.cat([centers(m.shape[1:], r) for m, r in zip(masks, ratios.unbind(1), strict=True)], 1)
        for layer in self.layers:
            x = layer(x, place_of, at[:, :, None] * ratios[:, None], Pyramid(x, seen, shapes, ratios))
        return Pyramid(x, seen, shapes, ratios)


def centers(shape: torch.Size, ratio: Tensor) -> Tensor:
    """(B, H * W, 2): x and y of the centers of a map's places, as shares of the part that is image."""
    y, x = (torch.arange(0.5, n, device=ratio.device).to(ratio) / n for n in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1) / ratio[:, None]


class DeformableLayer(nn.Module):
    """Queries look at each other, if `among`, and at points of the pyramid; places of the encoder do the latter."""

    def __init__(
        self, dim: int, heads: int, hidden: int, dropout: float, levels: int, points: int, among: bool = True
    ) -> None:
        super().__init__()
        attn = Attention(dim, heads, dropout=dropout)
        self.attn = PostNorm(dim, attn, dropout=dropout) if among else None
        points_at = DeformableAttention(dim, heads, levels, points)
        self.cross = PostNorm(dim, points_at, dropout=dropout)
        self.mlp = PostNorm(dim, MLP(dim, hidden, nn.ReLU, dropout), dropout=dropout)
        self.apply(init)
        look_around(points_at)

    def forward(self, x: Tensor, query: Tensor, at: Tensor, pyramid: Pyramid) -> Tensor:
        """x and query (B, N, C); at (B, N, levels, 2) points or (B, N, levels, 4) boxes, as shares of each map."""
        if self.attn is not None:
            asked = x + query
            x = self.attn.norm(self.attn.add(x, self.attn.fn(asked, asked, x)))
        return self.mlp(self.cross.norm(self.cross.add(x, self.cross.fn(x + query, at, pyramid))))


@register
def deformable_detr_resnet50(**overrides: Any) -> DeformableDETR:
    """40.1 M parameters; 44.5 AP on COCO after 50 epochs, with `refine` 46.2 (Zhu et al. 2021, table 1)."""
    return DeformableDETR(**overrides)
