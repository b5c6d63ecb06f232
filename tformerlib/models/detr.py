"""DETR: objects as answers to learned queries, all at once (Carion et al. 2020).

    model = create_model("detr_resnet50", classes=91)
    predictions = model(images, mask)     # Predictions: logits and boxes after every layer of the decoder
    loss, parts = set_loss(predictions, targets, model.scoring)    # tformerlib.detection.loss
    found = detect(predictions, model.scoring)

A small one: `create_model("detr_resnet50", backbone=lambda: create_model("resnet20_cifar"), dim=64, heads=4,
hidden=128, encoder=2, decoder=3, queries=10, classes=3)`. `record_attention` collects each encoder layer's weights,
(B, heads, M, M), then of each decoder layer those among queries, (B, heads, N, N), and on the image, (B, heads, N, M).
Shape letters: B images, N queries, M places of the last map, C width (`dim`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..detection.backbone import Backbone, with_frozen_norms
from ..detection.heads import box_head
from ..detection.matching import Predictions, Scoring, Softmax
from ..layers.blocks import MLP, Attention, PostNorm
from ..layers.positions import map_sinusoids
from ..registry import register
from .resnet import resnet50, resnet101

Activation = Callable[[], nn.Module]


class DETR(nn.Module):
    """A detector. Images (B, 3, H, W) to the classes and boxes of N queries; DETR with a ResNet-50 by default.

    Args:
        classes: number of classes; COCO's ids end at 90, so it has 91. One more logit stands for "no object".
        queries: the most objects it can find in an image.
        backbone: makes the network that sees the image: any with `features(image)`, maps (B, H, W, C), finest first.
        dim, heads, hidden: width, heads and hidden width of both stacks.  encoder, decoder: their layers.
        dropout: on the weights of attention, inside the MLPs and on the output of each sublayer.
    """

    scoring: Scoring = Softmax()

    def __init__(
        self, *, classes: int = 91, queries: int = 100, backbone: Callable[[], nn.Module] | None = None, dim: int = 256,
        encoder: int = 6, decoder: int = 6, heads: int = 8, hidden: int = 2048, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        layer: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden, "dropout": dropout}
        self.encoder = Encoder(backbone or with_frozen_norms(resnet50), encoder, **layer)
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.decoder = nn.ModuleList(DecoderLayer(**layer) for _ in range(decoder)).apply(init)
        self.norm = nn.LayerNorm(dim)
        self.classify, self.locate = nn.Linear(dim, classes + self.scoring.extra), box_head(dim)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Predictions:
        """Images (B, 3, H, W), smaller ones padded at the right and bottom; mask (B, H, W) is then False at padding.

        Boxes are shares of each image's own sides, without its padding.
        """
        memory, place, seen = self.encoder(images, mask)
        query = self.queries.expand(images.shape[0], -1, -1)
        x, keys, states = torch.zeros_like(query), memory + place, []
        for layer in self.decoder:
            x = layer(x, query, keys, memory, seen)
            states.append(self.norm(x))  # one norm for all layers, whose outputs go on without it
        found = torch.stack(states)
        return Predictions(self.classify(found), self.locate(found).sigmoid())


class Encoder(nn.Module):
    """Images to one vector for each place of the last map. `base` is that of the waves which say where a place is;
    `steer` makes of the vectors the factors by which every layer multiplies places (DAB-DETR)."""

    def __init__(
        self, backbone: Callable[[], nn.Module], depth: int, *, dim: int, base: float = 10000.0,
        steer: nn.Module | None = None, **layer: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.dim, self.base, self.steer = Backbone(backbone), dim, base, steer
        self.project = nn.Linear(self.backbone.dims[-1], dim)
        self.layers = nn.ModuleList(EncoderLayer(dim, **layer) for _ in range(depth)).apply(init)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors and their places, both (B, M, C), and a mask (B, 1, 1, M), False at padding, or None."""
        maps, masks = self.backbone(images, mask)
        x = self.project(maps[-1]).flatten(1, 2)
        place = map_sinusoids(masks[-1], self.dim, self.base).flatten(1, 2).to(x.dtype)
        seen = None if mask is None else masks[-1].flatten(1)[:, None, None]
        for layer in self.layers:
            x = layer(x, place if self.steer is None else place * self.steer(x), seen)
        return x, place, seen


class EncoderLayer(nn.Module):
    """Places look at each other; each adds where it is to its query and key, never to its value (A.3)."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.attn = PostNorm(dim, Attention(dim, heads, dropout=dropout), dropout=dropout)
        self.mlp = PostNorm(dim, MLP(dim, hidden, act, dropout), dropout=dropout)

    def forward(self, x: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        """x and place (B, M, C); mask (B, 1, 1, M), False at padding."""
        at = x + place
        return self.mlp(attend(self.attn, x, at, at, x, mask))


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the image. What a query asks for is added to it in every layer (A.3)."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attn = PostNorm(dim, Attention(dim, heads, dropout=dropout), dropout=dropout)
        self.cross = PostNorm(dim, Attention(dim, heads, dropout=dropout), dropout=dropout)
        self.mlp = PostNorm(dim, MLP(dim, hidden, nn.ReLU, dropout), dropout=dropout)

    def forward(self, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """x and query (B, N, C); keys and values (B, M, C) of the image, the keys with their places."""
        asked = x + query
        x = attend(self.attn, x, asked, asked, x)
        return self.mlp(attend(self.cross, x, x + query, keys, values, mask))


def attend(branch: PostNorm, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """norm(x + attention(q, k, v)): what asks has its place added, what the answer is added to has not."""
    return branch.norm(branch.add(x, branch.fn(q, k, v, mask=mask)))


def init(module: nn.Module) -> None:
    """Glorot's uniform weights. As in the official code, queries, keys and values count as one matrix of 3 C rows."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, Attention):
        for linear in (module.q, module.k, module.v):
            nn.init.xavier_uniform_(linear.weight, gain=0.5**0.5)
        for linear in (module.q, module.k, module.v, module.out):
            nn.init.zeros_(linear.bias)


@register
def detr_resnet50(**overrides: Any) -> DETR:
    """41.5 M parameters, 86 G multiply-adds; 42.0 AP on COCO (Carion et al. 2020, table 1)."""
    return DETR(**overrides)


@register
def detr_resnet101(**overrides: Any) -> DETR:
    """60.5 M parameters, 152 G multiply-adds; 43.5 AP on COCO (Carion et al. 2020, table 1)."""
    return DETR(**{"backbone": with_frozen_norms(resnet101)} | overrides)
