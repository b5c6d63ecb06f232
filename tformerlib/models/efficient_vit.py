"""Efficient-ViT and Cross-Efficient-ViT: a face's CNN features, judged by a small ViT (Coccomini et al. 2022).

Shape letters: B batch of face crops, N tokens, C width (`dim`), H x W map.

One logit for a crop: fake if positive. A video's score is the mean of its crops' probabilities. With the published
sizes a patch is as large as the map, so that each ViT reads *two* tokens, the class token and the whole face. A smaller
`patch` makes more. Two things are not as in the official code:
- layers of EfficientNet that nothing reads (classifiers, 13 of 16 blocks of the second trunk) and positions of tokens
  that there are not, 1.3 M and 6.8 M parameters, are left out;
- Efficient-ViT's table of positions is indexed by the crop's place *in the batch*, on which an answer depends. Ours has
  a row for each token; loading gives both tokens the row that a batch of one sees, so that such answers are equal.
"""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, PreNorm
from ..layers.maps import PatchEmbed
from ..registry import Takes, register
from .efficientnet import Trunk

HEADS: dict[str, Any] = {"heads": 8, "head_dim": 64, "qkv_bias": False}


class Tokens(nn.Module):
    """Images (B, 3, H, W) to tokens (B, 1 + N, C): patches of a trunk's map, and the class token in front.

    Args:
        blocks: of EfficientNet; all by default.  patch: side of a patch on the map.
    """

    def __init__(
        self, dim: int, *, image: int, patch: int, blocks: int | None = None, dropout: float = 0.0, **trunk: Any
    ) -> None:
        super().__init__()
        self.trunk = Trunk(blocks=blocks, **trunk)
        side = image // self.trunk.stride
        if image % self.trunk.stride or side % patch:
            raise ValueError(f"image={image} gives a map of {image / self.trunk.stride:g}: patch={patch} does not fit")
        self.patches = PatchEmbed(dim, patch, channels=self.trunk.channels, norm=lambda dim: nn.Identity())
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, dim))
        self.image, self.dropout = image, nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.image, self.image):
            raise ValueError(f"the crops are {tuple(image.shape[-2:])}, the positions for image={self.image}")
        x = self.patches(self.trunk(image)).flatten(1, 2)
        return self.dropout(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions)


def encoder(dim: int, depth: int, hidden: int, dropout: float, mlp_dropout: float) -> nn.Sequential:
    """Pre-norm attention and MLP in turn, over tokens (B, N, C)."""
    return nn.Sequential(
        *[PreNorm(dim, Attention(dim, **HEADS), dropout=dropout) if i % 2 == 0
          else PreNorm(dim, MLP(dim, hidden, dropout=mlp_dropout), dropout=mlp_dropout) for i in range(2 * depth)]
    )  # fmt: skip


class EfficientViT(nn.Module):
    """One ViT on the last map of EfficientNet-B0. Other arguments: stages, stem, ... of `Trunk`."""

    def __init__(
        self, *, image: int = 224, patch: int = 7, classes: int = 1, dim: int = 1024, depth: int = 6,
        hidden: int = 2048, dropout: float = 0.15, **trunk: Annotated[Any, Takes(Trunk)],
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = Tokens(dim, image=image, patch=patch, dropout=dropout, **trunk)
        self.encoder = encoder(dim, depth, hidden, dropout, 0.0)
        self.head = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes), read off the class token; there is no last norm."""
        return self.head(self.encoder(self.tokens(image))[:, 0])


class CrossEfficientViT(nn.Module):
    """Two ViTs, on a late and on an early map of two EfficientNets, whose class tokens ask each other's patches.

    Args:
        small, large: (width, patch on the map, blocks in each round) of the branches on the late and the early map.
        early: blocks of EfficientNet for the early map.  rounds: of encoders, each with `cross` exchanges.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1, small: tuple[int, int, int] = (192, 7, 2),
        large: tuple[int, int, int] = (384, 56, 3), early: int = 3, rounds: int = 4, cross: int = 2,
        hidden: int = 2048, dropout: float = 0.15, **trunk: Annotated[Any, Takes(Trunk, but=("blocks",))],
    ) -> None:  # fmt: skip
        super().__init__()
        tokens: dict[str, Any] = {"image": image, "dropout": dropout, **trunk}
        self.small = Tokens(small[0], patch=small[1], **tokens)
        self.large = Tokens(large[0], patch=large[1], blocks=early, **tokens)
        self.rounds = nn.ModuleList(Round(small, large, cross, hidden, dropout) for _ in range(rounds))
        self.small_head = nn.Sequential(nn.LayerNorm(small[0]), nn.Linear(small[0], classes))
        self.large_head = nn.Sequential(nn.LayerNorm(large[0]), nn.Linear(large[0], classes))

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes): the sum of what both class tokens say."""
        s, t = self.small(image), self.large(image)
        for step in self.rounds:
            s, t = step(s, t)
        return self.small_head(s[:, 0]) + self.large_head(t[:, 0])


class Round(nn.Module):
    """Each branch by itself; then the class tokens, and nothing else, cross over."""

    def __init__(
        self, small: tuple[int, int, int], large: tuple[int, int, int], cross: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        (a, _, a_depth), (b, _, b_depth) = small, large
        self.small = nn.Sequential(*encoder(a, a_depth, hidden, dropout, dropout), nn.LayerNorm(a))
        self.large = nn.Sequential(*encoder(b, b_depth, hidden, dropout, dropout), nn.LayerNorm(b))
        self.small_asks = nn.ModuleList(Crossing(a, b, dropout) for _ in range(cross))
        self.large_asks = nn.ModuleList(Crossing(b, a, dropout) for _ in range(cross))

    def forward(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.small(s), self.large(t)
        (s_cls, s), (t_cls, t) = ((x[:, :1], x[:, 1:]) for x in (s, t))
        for small_asks, large_asks in zip(self.small_asks, self.large_asks, strict=True):
            s_cls, t_cls = small_asks(s_cls, t), large_asks(t_cls, s)
        return torch.cat([s_cls, s], 1), torch.cat([t_cls, t], 1)


class Crossing(nn.Module):
    """A class token (B, 1, C) goes to the other branch's width, asks itself and the patches there, and comes back."""

    def __init__(self, dim: int, other: int, dropout: float) -> None:
        super().__init__()
        self.go, self.norm, self.attn = nn.Linear(dim, other), nn.LayerNorm(other), Attention(other, **HEADS)
        self.back, self.dropout = nn.Linear(other, dim), nn.Dropout(dropout)

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        x = self.norm(self.go(cls))
        return cls + self.back(self.dropout(self.attn(x, torch.cat([x, patches], 1))))


@register
def efficient_vit(**overrides: Any) -> EfficientViT:
    """108.1 M parameters; 109 M with EfficientNet's classifier, as the paper counts (Coccomini et al. 2022)."""
    return EfficientViT(**overrides)


@register
def cross_efficient_vit(**overrides: Any) -> CrossEfficientViT:
    """94.6 M parameters; 101 M with layers that nothing reads, as the paper counts (Coccomini et al. 2022)."""
    return CrossEfficientViT(**overrides)
