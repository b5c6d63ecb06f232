"""Swin Transformer: attention in shifted windows, on a pyramid of maps (Liu et al. 2021).

Maps are (B, H, W, C); stage s has width dim * 2^s, and one token for 4 * 2^s by 4 * 2^s pixels.
Where a window does not divide a map, the official code pads it and lets tokens attend to padding; here they do not.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..attention import window_attention
from ..layers.blocks import MLP, Block, drop_path_rates, init_truncated_normal
from ..layers.maps import PatchEmbed
from ..layers.positions import RelativeBias
from ..registry import register


class WindowAttention(nn.Module):
    """Multi-head attention inside windows; the grid of windows stands `shift` tokens down and right (sec. 3.2)."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        if dim % heads or window < 1:
            raise ValueError(f"heads={heads} does not divide dim={dim}, or window={window} is empty")
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = RelativeBias(heads, window, window)
        nn.init.trunc_normal_(self.bias.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        return self.out(attend_in_windows(qkv, self.bias(), self.window, self.shift))


def attend_in_windows(qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float | None = None) -> Tensor:
    """(B, H, W, 3, heads, D) to (B, H, W, heads * D), for maps of any size: padded for the windows, and cut again."""
    h, w = qkv.shape[1:3]
    if h % window or w % window:
        qkv = F.pad(qkv, (*[0] * 7, -w % window, 0, -h % window))
    x = window_attention(qkv, bias, window=window, shift=shift, scale=scale, size=(h, w)).flatten(-2)
    return x[:, :h, :w]


class PatchMerging(nn.Module):
    """(B, H, W, C) to (B, H/2, W/2, 2C): each 2 x 2 neighborhood becomes one token (sec. 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(neighborhoods(x)))


def neighborhoods(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, H/2, W/2, 4C): upper left, lower left, upper right, lower right; zeros beyond an odd side."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    return rearrange(x, "b (h i) (w j) c -> b h w (j i c)", i=2, j=2)


class Swin(nn.Module):
    """An image classifier. Swin-T by default.

    Args:
        image: side of the images. Others work too, but windows are chosen for this one: none is larger than its map,
            and where one window covers the map nothing is shifted.
        classes: number of classes.  dim: width of the first stage.  depths, heads: blocks and heads of each stage.
        window: side of a window, in tokens.  shifted: whether every other block shifts its windows by half of that.
        drop_path: probability of skipping the last sublayer, rising from 0.  channels, patch: of images, in pixels.
    """

    merge: Callable[[int], nn.Module] = PatchMerging

    def __init__(
        self, *, image: int = 224, classes: int = 1000, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, shifted: bool = True, drop_path: float = 0.2,
        channels: int = 3, patch: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(depths) != len(heads):
            raise ValueError(f"depths={depths} and heads={heads} are of different numbers of stages")
        self.embed, self.stages = nn.ModuleList([PatchEmbed(dim, patch, channels=channels)]), nn.ModuleList()
        for s, rates in enumerate(drop_path_rates(drop_path, depths)):
            if s:
                self.embed.append(type(self).merge(dim))
                dim = 2 * dim
            side = -(-image // (patch * 2**s))
            size = min(window, side)
            shift = size // 2 if shifted and side > size else 0
            blocks = [self.block(s, dim, heads[s], size, i % 2 * shift, rate) for i, rate in enumerate(rates)]
            self.stages.append(nn.Sequential(*blocks))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)

    def block(self, stage: int, dim: int, heads: int, window: int, shift: int, drop_path: float) -> nn.Module:
        return Block(dim, WindowAttention(dim, heads, window, shift), MLP(dim, 4 * dim), drop_path=drop_path)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, dim), (B, H/8, W/8, 2 dim), ...: what detectors and segmenters take."""
        maps = [image]
        for embed, stage in zip(self.embed, self.stages, strict=True):
            maps.append(stage(embed(maps[-1])))
        return maps[1:]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.norm(self.features(image)[-1]).mean((1, 2)))


SMALL: dict[str, Any] = {"depths": (2, 2, 18, 2), "drop_path": 0.3}
BASE: dict[str, Any] = {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5}
LARGE: dict[str, Any] = BASE | {"dim": 192, "heads": (6, 12, 24, 48), "drop_path": 0.2}


@register
def swin_tiny(**overrides: Any) -> Swin:
    """28.3 M parameters, 4.5 G multiply-adds (Liu et al. 2021, table 1)."""
    return Swin(**overrides)


@register
def swin_small(**overrides: Any) -> Swin:
    """49.6 M parameters, 8.7 G multiply-adds (Liu et al. 2021, table 1)."""
    return Swin(**SMALL | overrides)


@register
def swin_base(**overrides: Any) -> Swin:
    """87.8 M parameters, 15.4 G multiply-adds (Liu et al. 2021, table 1)."""
    return Swin(**BASE | overrides)


@register
def swin_base_384(**overrides: Any) -> Swin:
    """87.9 M parameters: Swin-B with windows of 12 x 12, for images of 384 pixels (Liu et al. 2021, table 1)."""
    return swin_base(**{"image": 384, "window": 12} | overrides)


@register
def swin_large(**overrides: Any) -> Swin:
    """196.5 M parameters, 34.5 G multiply-adds (Liu et al. 2021, table 1)."""
    return Swin(**LARGE | overrides)


@register
def swin_large_384(**overrides: Any) -> Swin:
    """196.7 M parameters: Swin-L with windows of 12 x 12, for images of 384 pixels (Liu et al. 2021, table 1)."""
    return swin_large(**{"image": 384, "window": 12} | overrides)
