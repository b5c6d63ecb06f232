"""CMT: a pyramid of attention with convolutions around it and inside its feed-forward layers (Guo et al. 2022).

Maps are (B, H, W, C); their tokens in reading order are (B, N, C), N = H * W.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import Attention, PreNorm, drop_path_rates, init_truncated_normal
from ..layers.convs import AddDepthwise
from ..layers.maps import ChannelsFirst, PatchEmbed
from ..registry import variant


class LightAttention(nn.Module):
    """Attention of all tokens to a smaller map, reduction x reduction tokens to a key, with a bias (sec. 3.2)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        shrink = [nn.Conv2d(dim, dim, reduction, reduction, groups=dim), nn.BatchNorm2d(dim)] if reduction > 1 else []
        self.reduce = ChannelsFirst(*shrink)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, H, W, C) map; the bias (heads, N, M) says how near the N tokens are to the M keys."""
        return self.attn(x.flatten(1, 2), self.reduce(x).flatten(1, 2), bias=bias).view_as(x)


class InvertedResidual(nn.Module):
    """IRFFN: a feed-forward layer with a depthwise convolution where it is wide (sec. 3.2). GELU precedes BatchNorm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.widen = ChannelsFirst(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden))
        self.mix = AddDepthwise(hidden)
        self.narrow = ChannelsFirst(nn.GELU(), nn.BatchNorm2d(hidden), nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.mix(self.widen(x)))


class Block(nn.Module):
    """Perceive the surroundings (LPU, a depthwise convolution), attend, feed forward (fig. 2)."""

    def __init__(self, perception: nn.Module, attn: PreNorm, mlp: PreNorm) -> None:
        super().__init__()
        self.perception, self.attn, self.mlp = perception, attn, mlp

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.mlp(self.attn(self.perception(x), bias))


class CMT(nn.Module):
    """An image classifier. CMT-S by default.

    Args:
        image: side of the images: each stage has a learned bias for each token and key, shared by its blocks.
        classes: number of classes.  stem: channels of the three convolutions in front.
        dims, depths, heads, reductions: width, blocks and heads of each stage, and tokens along a side of each key.
        expansion: hidden width of the feed-forward layers over the width.
        wide: channels before the mean over the map.  dropout: after it.
        drop_path: probability of skipping the last sublayer, rising from 0.
        perception, feedforward: made for each block; nn.Identity and MLP have no convolutions.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1000, stem: int = 32, dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (3, 3, 16, 3), heads: tuple[int, ...] = (1, 2, 4, 8),
        reductions: tuple[int, ...] = (8, 4, 2, 1), expansion: float = 4.0, wide: int = 1280, dropout: float = 0.1,
        drop_path: float = 0.1, channels: int = 3, perception: Callable[[int], nn.Module] = AddDepthwise,
        feedforward: Callable[[int, int], nn.Module] = InvertedResidual,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(heads) == len(reductions):
            raise ValueError(f"{dims=}, {depths=}, {heads=}, {reductions=} differ in length")
        layers: list[nn.Module] = []
        for stride in (2, 1, 1):
            layers += [nn.Conv2d(channels, stem, 3, stride, 1), nn.GELU(), nn.BatchNorm2d(stem)]
            channels = stem
        self.stem, self.embed, self.stages = nn.Sequential(*layers), nn.ModuleList(), nn.ModuleList()
        self.positions, self.grids = nn.ParameterList(), list[tuple[int, int]]()
        branch, side = partial(PreNorm, norm=partial(nn.LayerNorm, eps=1e-6)), image // 2
        for dim, rates, h, r in zip(dims, drop_path_rates(drop_path, depths), heads, reductions, strict=True):
            side //= 2
            if side % r or not side:
                raise ValueError(f"image={image}: a stage of {side} x {side} tokens cannot be reduced by {r}")
            self.embed.append(PatchEmbed(dim, 2, channels=channels))
            self.grids.append((side, side))
            self.positions.append(torch.randn(h, side**2, (side // r) ** 2))
            self.stages.append(nn.ModuleList(
                Block(perception(dim), branch(dim, LightAttention(dim, h, r), drop_path=rate),
                      branch(dim, feedforward(dim, int(expansion * dim)), drop_path=rate)) for rate in rates
            ))  # fmt: skip
            channels = dim
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), nn.SiLU())
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(wide, classes)
        self.apply(init)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        maps, x = [], self.stem(image)
        for embed, blocks, positions, grid in zip(self.embed, self.stages, self.positions, self.grids, strict=True):
            x = embed(x)
            if x.shape[1:3] != grid:
                raise ValueError(f"{tuple(x.shape[1:3])} tokens, but positions for {grid}: create it with image=")
            for block in blocks.children():
                x = block(x, positions)
            maps.append(x)
            x = x.movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        x = self.widen(self.features(image)[-1].movedim(-1, 1))
        return self.head(self.dropout(x.mean((-2, -1))))


def init(module: nn.Module) -> None:
    """Matrices of deviation 0.02, convolutions by fan-out (He et al. 2015), no biases."""
    init_truncated_normal(module)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


CITED = "parameters (Guo et al. 2022, table 1)."  # at the sides of the images that they were trained with
TINY: dict[str, Any] = {"image": 160, "stem": 16, "dims": (46, 92, 184, 368), "depths": (2, 2, 10, 2)}
EXTRA_SMALL: dict[str, Any] = {"image": 192, "stem": 16, "dims": (52, 104, 208, 416), "depths": (3, 3, 12, 3)}
BASE: dict[str, Any] = {"image": 256, "stem": 38, "dims": (76, 152, 304, 608), "depths": (4, 4, 20, 4)}
variant("cmt_ti", CMT, f"9.5 M {CITED}", **TINY, expansion=3.6)
variant("cmt_xs", CMT, f"15.2 M {CITED}", **EXTRA_SMALL, expansion=3.77)
variant("cmt_s", CMT, "26.3 M parameters; the paper says 25.1 M (Guo et al. 2022, table 1).")
variant("cmt_b", CMT, f"45.7 M {CITED}", **BASE, dropout=0.3)
