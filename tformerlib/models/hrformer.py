"""HRFormer: windows of attention on parallel maps of several resolutions, which are exchanged (Yuan et al. 2021).

Maps are (B, H, W, C). Branch i has width dim * 2^i and one token for 4 * 2^i by 4 * 2^i pixels; the finest map is kept
from beginning to end. Windows never move: a 3 x 3 depthwise convolution inside the feed-forward network carries things
across their borders, and so does the exchange among branches.

Where a window does not divide a map, the map is padded with zeros at all four sides, and tokens attend to the padding,
as in the official code; in Swin of this library they do not.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import Block, drop_path_rates, init_truncated_normal
from ..layers.convs import ConvNorm, Residual, bottleneck
from ..layers.maps import ChannelsFirst
from ..registry import register
from .swin import WindowAttention


class CenteredWindows(WindowAttention):
    """Attention inside windows that stand still, on a map padded evenly at opposite sides."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__(dim, heads, window, shift=0)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        down, right = -h % self.window, -w % self.window
        padding = (0, 0, right // 2, right - right // 2, down // 2, down - down // 2)
        return super().forward(F.pad(x, padding))[:, down // 2 :, right // 2 :][:, :h, :w]


class ConvMLP(ChannelsFirst):
    """1 x 1 to a wider map, 3 x 3 for each channel alone, 1 x 1 back; each with BatchNorm and GELU (sec. 3, fig. 3).

    Args:
        depthwise: without it, a network for each token alone, as others have it.
    """

    def __init__(self, dim: int, hidden: int, depthwise: bool = True) -> None:
        layers: list[nn.Module] = [nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden), nn.GELU()]
        if depthwise:
            layers += [nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden), nn.BatchNorm2d(hidden), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim), nn.GELU())


class Up(nn.Sequential):
    """A coarser map to a finer one's width and size: each token is repeated, and stretched if sides are odd."""

    def __init__(self, channels: int, out: int, times: int) -> None:
        super().__init__(ConvNorm(channels, out, 1, act=None), nn.Upsample(scale_factor=times, mode="nearest"))

    def forward(self, x: Tensor, size: tuple[int, int] = (0, 0)) -> Tensor:
        return F.interpolate(super().forward(x), size=size, mode="bilinear", align_corners=True)


class Down(nn.Sequential):
    """A finer map to a coarser one's width and size, by 3 x 3 depthwise convolutions of stride 2, each with a 1 x 1."""

    def __init__(self, channels: int, out: int, steps: int) -> None:
        layers: list[nn.Module] = []
        for step in range(1, steps + 1):
            width, act = (out, None) if step == steps else (channels, nn.ReLU)
            layers.append(ConvNorm(channels, channels, stride=2, groups=channels, act=None))
            layers.append(ConvNorm(channels, width, 1, act=act))
        super().__init__(*layers)

    def forward(self, x: Tensor, size: tuple[int, int] = (0, 0)) -> Tensor:
        return super().forward(x)


class Exchange(nn.Module):
    """Blocks on each of the parallel maps; then each map becomes the sum of all, brought to its size."""

    def __init__(self, widths: list[int], heads: int, rates: list[float], **block: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[make_block(width, heads * 2**i, rate, **block) for rate in rates])
            for i, width in enumerate(widths)
        )
        self.fuse = nn.ModuleList(nn.ModuleList(self.bridge(widths, i, j) for j in range(len(widths)))
                                  for i in range(len(widths)))  # fmt: skip

    @staticmethod
    def bridge(widths: list[int], i: int, j: int) -> nn.Module:
        """What brings map j to the size of map i."""
        if i == j:
            return nn.Identity()
        return Up(widths[j], widths[i], 2 ** (j - i)) if j > i else Down(widths[j], widths[i], i - j)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = [branch(each).movedim(-1, 1) for branch, each in zip(self.branches, maps, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse):
            parts = [each if i == j else row[j](each, x[i].shape[-2:]) for j, each in enumerate(x)]  # type: ignore[index]
            fused.append(F.relu(torch.stack(parts).sum(0)).movedim(1, -1))
        return fused


def make_block(dim: int, heads: int, drop_path: float, *, window: int, expansion: int, depthwise: bool) -> Block:
    """Windows, then the network with a convolution inside."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    mlp = ConvMLP(dim, expansion * dim, depthwise)
    return Block(dim, CenteredWindows(dim, heads, window), mlp, norm=norm, drop_path=drop_path)


class HRFormer(nn.Module):
    """An image classifier for images of any size. HRFormer-T by default.

    Args:
        dim, heads: width and heads of the finest map; each coarser one has twice as many.
        modules: for two, three and four parallel maps, how often they exchange.  blocks: of each map in between.
        bottlenecks: residual blocks of convolutions in front.  stem, strides: width and strides of the two convolutions
            before those; with strides of 1 small images keep their pixels.  window: side of a window, in tokens.
        expansion: hidden width of the feed-forward networks over the width.  depthwise: see ConvMLP.
        drop_path: probability of skipping the last sublayer, rising from 0.
    """

    def __init__(
        self, *, classes: int = 1000, dim: int = 18, heads: int = 1, modules: tuple[int, ...] = (1, 3, 2),
        blocks: int = 2, bottlenecks: int = 2, window: int = 7, expansion: int = 4, depthwise: bool = True,
        stem: int = 64, strides: tuple[int, int] = (2, 2), drop_path: float = 0.0, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        width = 4 * stem if bottlenecks else stem
        self.stem = nn.Sequential(
            *(ConvNorm(stem if i else channels, stem, stride=stride) for i, stride in enumerate(strides)),
            *(bottleneck(width if i else stem, width) for i in range(bottlenecks)),
        )
        self.enter, self.open, self.stages = ConvNorm(width, dim), nn.ModuleList(), nn.ModuleList()
        rates = [r for stage in drop_path_rates(drop_path, tuple(blocks * n for n in modules)) for r in stage]
        size: dict[str, Any] = {"window": window, "expansion": expansion, "depthwise": depthwise}
        widths = [dim]
        for times in modules:
            self.open.append(ConvNorm(widths[-1] if len(widths) > 1 else width, 2 * widths[-1], stride=2))
            widths = [*widths, 2 * widths[-1]]
            stage = []
            for _ in range(times):
                stage.append(Exchange(widths, heads, rates[:blocks], **size))
                rates = rates[blocks:]
            self.stages.append(nn.ModuleList(stage))
        heads_out = [128 * 2**i for i in range(len(widths))]
        self.widen = nn.ModuleList(slim(a, b) for a, b in zip(widths, heads_out, strict=True))
        self.join = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, a, 3, 2, 1, groups=a), nn.BatchNorm2d(a), nn.Conv2d(a, 2 * a, 1), nn.BatchNorm2d(2 * a),
                nn.ReLU(),
            ) for a in heads_out[:-1]
        )  # fmt: skip
        self.last = nn.Sequential(nn.Conv2d(heads_out[-1], 2048, 1), nn.BatchNorm2d(2048), nn.ReLU())
        self.head = nn.Linear(2048, classes)
        self.apply(init_truncated_normal)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, dim), (B, H/8, W/8, 2 dim), ...: all have been made of all."""
        x = self.stem(image)
        maps, coarsest = [self.enter(x).movedim(1, -1)], x
        for enter, stage in zip(self.open, self.stages, strict=True):
            maps = [*maps, enter(coarsest).movedim(1, -1)]
            for exchange in stage:  # type: ignore[attr-defined]
                maps = exchange(maps)
            coarsest = maps[-1].movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes): finer maps are joined to coarser ones, step by step."""
        first, *rest = (widen(x.movedim(-1, 1)) for widen, x in zip(self.widen, self.features(image), strict=True))
        for join, x in zip(self.join, rest, strict=True):
            first = x + join(first)
        return self.head(self.last(first).mean((-2, -1)))


def slim(channels: int, out: int) -> Residual:
    """A bottleneck whose 3 x 3 convolution is of each channel alone."""
    inner = out // 4
    layers = ConvNorm(channels, inner, 1), ConvNorm(inner, inner, groups=inner), ConvNorm(inner, out, 1, act=None)
    return Residual(channels, out, 1, nn.Sequential(*layers))


SMALL: dict[str, Any] = {"dim": 32, "modules": (1, 4, 2)}
BASE: dict[str, Any] = {"dim": 78, "heads": 2, "modules": (1, 4, 2), "drop_path": 0.2}


@register
def hrformer_tiny(**overrides: Any) -> HRFormer:
    """8.0 M parameters, 1.7 G multiply-adds (Yuan et al. 2021; the repository prints 1.83, norms included)."""
    return HRFormer(**overrides)


@register
def hrformer_small(**overrides: Any) -> HRFormer:
    """13.5 M parameters, 3.4 G multiply-adds (Yuan et al. 2021; the repository prints 3.56)."""
    return HRFormer(**SMALL | overrides)


@register
def hrformer_base(**overrides: Any) -> HRFormer:
    """50.3 M parameters, 13.3 G multiply-adds (Yuan et al. 2021; the repository prints 13.71)."""
    return HRFormer(**BASE | overrides)
