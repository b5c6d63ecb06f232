"""ViT-Lite and CVT: ViT made small enough to learn from small sets, first as it is, then without a class token.

Hassani et al. (2021) go from ViT to CCT in three steps; the first two are here, the third is in cct.py. CVT is their
Compact Vision Transformer and has nothing to do with CvT, the Convolutional vision Transformer of Wu et al. (2021).

Shape letters: B batch, N tokens, C width (`dim`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, DropPath, PreNorm, drop_path_rates, init_truncated_normal
from ..layers.derived import Derived
from ..layers.maps import PatchEmbed
from ..registry import register

Positions = Callable[[int, int], Tensor]


def table(length: int, dim: int) -> nn.Parameter:
    """Learned positions (length, dim). They start ten times larger than ViT's: a small set trains for few steps."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(length, dim), std=0.2))


class CompactBlock(nn.Module):
    """A pre-norm block with one norm more, after attention: what goes on is LN(x + attention), not the sum itself.

    So the residual stream is normalized once in each block. That is how the official code has it, with which published
    weights were made.
    """

    def __init__(self, dim: int, heads: int, mlp: float, *, dropout: float, attention: float, drop_path: float) -> None:
        super().__init__()
        attend = Attention(dim, heads, qkv_bias=False, dropout=attention)
        self.mixer = PreNorm(dim, attend, dropout=dropout, drop_path=drop_path)
        self.norm, self.mlp = nn.LayerNorm(dim), MLP(dim, int(mlp * dim), dropout=dropout)
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mixer(x))
        return x + self.drop_path(self.dropout(self.mlp(x)))


class SeqPool(nn.Module):
    """(B, N, C) to (B, C): a mean of all tokens, weighted by a softmax of one learned score each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def weights(self, x: Tensor) -> Tensor:
        """(B, N): how much of the answer comes from each token."""
        return self.score(x).squeeze(-1).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weights(x)[:, None] @ x).squeeze(1)


class Compact(Derived):
    """What ViT-Lite, CVT and CCT share: tokens, blocks, and one vector for the classifier.

    Args:
        tokens: images (B, 3, H, W) to a map (B, H', W', C).  grid: (H', W') for the images of this size.
        pool: whether tokens are pooled; else a class token stands in front of them.
        positions: makes (N, C) positions, `table` or `sinusoids`; None for a model without.
        dropout: on tokens and sublayers.  attention_dropout: on attention weights.  drop_path: of the last block.
    """

    def __init__(
        self, tokens: nn.Module, grid: tuple[int, int], *, pool: bool, classes: int, dim: int, depth: int, heads: int,
        mlp: float, positions: Positions | None, dropout: float, attention_dropout: float, drop_path: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens, self.grid, self.dropout = tokens, grid, nn.Dropout(dropout)
        self.pool = SeqPool(dim) if pool else None
        self.cls = None if pool else nn.Parameter(torch.zeros(1, 1, dim))
        count = grid[0] * grid[1] + (not pool)
        where = positions(count, dim) if positions else None
        self.positions: Tensor | None
        if positions is None or isinstance(where, nn.Parameter):
            self.positions = where
        else:
            self.derive("positions", partial(positions, count, dim))
        self.blocks = nn.Sequential(*[
            CompactBlock(dim, heads, mlp, dropout=dropout, attention=attention_dropout, drop_path=rate)
            for rate in drop_path_rates(drop_path, (depth,))[0]
        ])  # fmt: skip
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)

    def encode(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to the encoded tokens (B, N, C), the class token first if there is one."""
        x = self.tokens(image)
        if x.shape[1:3] != self.grid:
            raise ValueError(f"a grid of {tuple(x.shape[1:3])} tokens, but the model is for image= of {self.grid}")
        x = x.flatten(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        x = x if self.positions is None else x + self.positions
        return self.norm(self.blocks(self.dropout(x)))

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoded tokens as one map (B, H, W, C): a pyramid of a single level."""
        return [self.encode(image)[:, int(self.cls is not None) :].unflatten(1, self.grid)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to logits (B, classes)."""
        x = self.encode(image)
        return self.head(x[:, 0] if self.pool is None else self.pool(x))


class ViTLite(Compact):
    """ViT of 2 to 7 thin blocks for images of 32 x 32, with a class token. ViT-Lite-7/4 by default."""

    def __init__(
        self, *, image: int = 32, patch: int = 4, classes: int = 10, dim: int = 256, depth: int = 7, heads: int = 4,
        mlp: float = 2.0, positions: Positions | None = table, dropout: float = 0.0, attention_dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        if image % patch:
            raise ValueError(f"image={image} is not a multiple of patch={patch}")
        side = image // patch
        super().__init__(
            PatchEmbed(dim, patch, norm=lambda _: nn.Identity()), (side, side), pool=self.pools, classes=classes,
            dim=dim, depth=depth, heads=heads, mlp=mlp, positions=positions, dropout=dropout,
            attention_dropout=attention_dropout, drop_path=drop_path,
        )  # fmt: skip

    pools = False


class CVT(ViTLite):
    """ViT-Lite whose tokens are pooled, without a class token. CVT-7/4 by default."""

    pools = True


THIN: dict[str, Any] = {"dim": 128, "heads": 2, "mlp": 1.0}


@register
def vit_lite_2_4_32(**overrides: Any) -> ViTLite:
    """ViT-Lite-2/4: 0.21 M parameters (Hassani et al. 2021)."""
    return ViTLite(**THIN | {"depth": 2} | overrides)


@register
def vit_lite_4_4_32(**overrides: Any) -> ViTLite:
    """ViT-Lite-4/4: 0.41 M parameters (Hassani et al. 2021)."""
    return ViTLite(**THIN | {"depth": 4} | overrides)


@register
def vit_lite_6_4_32(**overrides: Any) -> ViTLite:
    """ViT-Lite-6/4: 3.19 M parameters (Hassani et al. 2021)."""
    return ViTLite(**{"depth": 6} | overrides)


@register
def vit_lite_7_4_32(**overrides: Any) -> ViTLite:
    """ViT-Lite-7/4: 3.72 M parameters (Hassani et al. 2021)."""
    return ViTLite(**overrides)


@register
def cvt_2_4_32(**overrides: Any) -> CVT:
    """CVT-2/4: 0.21 M parameters (Hassani et al. 2021)."""
    return CVT(**THIN | {"depth": 2} | overrides)


@register
def cvt_4_4_32(**overrides: Any) -> CVT:
    """CVT-4/4: 0.41 M parameters (Hassani et al. 2021)."""
    return CVT(**THIN | {"depth": 4} | overrides)


@register
def cvt_6_4_32(**overrides: Any) -> CVT:
    """CVT-6/4: 3.19 M parameters (Hassani et al. 2021)."""
    return CVT(**{"depth": 6} | overrides)


@register
def cvt_7_4_32(**overrides: Any) -> CVT:
    """CVT-7/4: 3.72 M parameters (Hassani et al. 2021)."""
    return CVT(**overrides)
