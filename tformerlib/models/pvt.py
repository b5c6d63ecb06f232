"""Pyramid Vision Transformer: four resolutions, affordable as keys and values are few (Wang et al. 2021).

Maps are (B, H, W, C); their tokens in reading order are (B, N, C), N = H * W.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.maps import PatchEmbed
from ..registry import register


class ReducedAttention(nn.Module):
    """Attention of all tokens to a smaller map: each reduction x reduction tokens become one key (sec. 3.3, eq. 1-3).

    The official code silently drops the last rows of a map that the reduction does not divide; here it is refused.
    """

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.reduce = PatchEmbed(dim, reduction, channels=dim) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of a map of `size` (H, W)."""
        if self.reduce is None:
            return self.attn(x)
        return self.attn(x, self.reduce(x.unflatten(1, size).movedim(-1, 1)).flatten(1, 2))


class Stage(nn.Module):
    """Patches, positions and blocks at one resolution; the last stage of a classifier has a class token too."""

    def __init__(self, embed: PatchEmbed, side: int, dim: int, blocks: list[Block], has_class: bool) -> None:
        super().__init__()
        self.embed, self.blocks, self.grid = embed, nn.ModuleList(blocks), (side, side)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if has_class else None
        self.positions = nn.Parameter(torch.zeros(has_class + side**2, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image or map (B, C, H, W) to a map (B, H, W, C) and, of the first token, a vector (B, C)."""
        x = self.embed(x)
        if x.shape[1:3] != self.grid:
            raise ValueError(f"{tuple(x.shape[1:3])} tokens, but positions for {self.grid}: create it with image=")
        size, x, first = x.shape[1:3], x.flatten(1, 2), 0
        if self.cls is not None:
            x, first = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1), 1
        x = x + self.positions
        for block in self.blocks:
            x = block(x, size=size)
        return x[:, first:].unflatten(1, size), x[:, 0]


class PVT(nn.Module):
    """An image classifier. PVT-Tiny by default.

    Args:
        image: side of the images: each stage has a learned position for each of its tokens.
        classes: number of classes.
        dims, depths, heads: width, blocks and heads of each stage.
        expansions: hidden width of each stage's MLPs over its width.
        reductions: how many tokens along each side make one key; 1 in the last stage, which has a class token.
        drop_path: probability of skipping the last sublayer; it rises from 0 over the blocks.
        channels: of the images.  patch: side of a patch, in pixels.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1000, dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (2, 2, 2, 2), heads: tuple[int, ...] = (1, 2, 5, 8),
        expansions: tuple[int, ...] = (8, 8, 4, 4), reductions: tuple[int, ...] = (8, 4, 2, 1),
        drop_path: float = 0.1, channels: int = 3, patch: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(heads) == len(expansions) == len(reductions):
            raise ValueError(f"{dims=}, {depths=}, {heads=}, {expansions=}, {reductions=} differ in length")
        if reductions[-1] != 1:
            raise ValueError(f"{reductions=} do not end in 1: the class token of the last stage is in no map")
        norm = partial(nn.LayerNorm, eps=1e-6)  # those inside of embeddings and reductions have torch's 1e-5
        self.stages, side, before = nn.ModuleList(), image, channels
        for s, rates in enumerate(drop_path_rates(drop_path, depths)):
            dim, step, last = dims[s], 2 if s else patch, s == len(dims) - 1
            blocks = [
                Block(dim, ReducedAttention(dim, heads[s], reductions[s]), MLP(dim, expansions[s] * dim),
                      norm=norm, drop_path=rate) for rate in rates
            ]  # fmt: skip
            side //= step
            self.stages.append(Stage(PatchEmbed(dim, step, channels=before), side, dim, blocks, has_class=last))
            before = dim
        self.norm, self.head = norm(dims[-1]), nn.Linear(dims[-1], classes)
        self.apply(init)

    def pyramid(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of all stages, and the class token's vector."""
        maps, x = [], image
        for stage in self.stages:
            x, first = stage(x)
            maps.append(x)
            x = x.movedim(-1, 1)
        return maps, first

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        return self.pyramid(image)[0]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.norm(self.pyramid(image)[1]))


def init(module: nn.Module) -> None:
    """All matrices, positions and class tokens from a normal distribution of deviation 0.02; no biases."""
    init_truncated_normal(module)
    if isinstance(module, Stage):
        for table in (module.positions, module.cls):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)


MEDIUM: dict[str, Any] = {"depths": (3, 4, 18, 3), "drop_path": 0.3}
LARGE: dict[str, Any] = {"depths": (3, 8, 27, 3), "drop_path": 0.3}


@register
def pvt_tiny(**overrides: Any) -> PVT:
    """13.2 M parameters, 1.9 G multiply-adds (Wang et al. 2021, table 1)."""
    return PVT(**overrides)


@register
def pvt_small(**overrides: Any) -> PVT:
    """24.5 M parameters, 3.8 G multiply-adds (Wang et al. 2021, table 1)."""
    return PVT(**{"depths": (3, 4, 6, 3)} | overrides)


@register
def pvt_medium(**overrides: Any) -> PVT:
    """44.2 M parameters, 6.7 G multiply-adds (Wang et al. 2021, table 1)."""
    return PVT(**MEDIUM | overrides)


@register
def pvt_large(**overrides: Any) -> PVT:
    """61.4 M parameters, 9.8 G multiply-adds (Wang et al. 2021, table 1)."""
    return PVT(**LARGE | overrides)
