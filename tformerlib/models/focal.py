"""Focal Transformer: each token attends to fine keys nearby and to pooled keys farther away (Yang et al. 2021).

Maps are (B, H, W, C); stage s has width dim * 2^s. A window asks together and has three groups of keys: its own tokens;
the ring of tokens around it; and the windows around it and itself, each pooled to one token.

As in the official code, the ring is made of four windows moved diagonally: 132 keys for 120 places with windows of 7
and a ring of 3, as 12 come twice; and it goes around the border of the map, which `wrap=False` forbids. There the
weights of pooling are overwritten by small random numbers at the start; here they begin as a mean, as they are meant.
"""

from functools import partial
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.derived import Derived
from ..layers.maps import PatchEmbed
from ..layers.positions import RelativeBias
from ..registry import register


def ring(window: int, expand: int) -> Tensor:
    """(keys, 2) rows and columns, counted from a window's upper left token, of the keys around the window.

    The window moved by `expand` to the lower right, lower left, upper right and upper left, without what it covers
    of where it stood: 4 (window^2 - (window - expand)^2) keys.
    """
    moved = (
        (y + down, x + right)
        for down, right in product((expand, -expand), repeat=2) for y, x in product(range(window), repeat=2)
    )  # fmt: skip
    return torch.tensor([(y, x) for y, x in moved if not (0 <= y < window and 0 <= x < window)], dtype=torch.long).view(
        -1, 2
    )


def pooled_offsets(window: int, region: int) -> Tensor:
    """(window^2, region^2): which number of the table belongs to a token of the window and a pooled window."""
    token, other = (torch.cartesian_prod(torch.arange(n), torch.arange(n)) for n in (window, region))
    dy, dx = (token[:, None] - other + region - 1).unbind(-1)
    return dy * (window + region - 1) + dx


def places(h: int, w: int, step: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """For cells of step x step on a map of h x w: the tokens at `offsets` from each corner, and which are on the map.

    Returns:
        index (cells, keys) into the map in reading order, around the border where it must be; bool (cells, keys).
    """
    rows, columns = (torch.arange(0, n, step, device=offsets.device) for n in (h, w))
    at = torch.cartesian_prod(rows, columns)[:, None] + offsets
    size = torch.tensor((h, w), device=offsets.device)
    y, x = (at % size).unbind(-1)
    return y * w + x, ((at >= 0) & (at < size)).all(-1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) and (cells, keys) to (B * cells, keys, C)."""
    return x.index_select(1, index.flatten()).unflatten(1, index.shape).flatten(0, 1)


class FocalAttention(Derived):
    """Focal self-attention with two levels (sec. 3.2).

    Args:
        expand: width of the ring of fine keys; none if 0.  region: side, in windows, of the square of pooled keys.
        wrap: whether the ring goes around the border of the map, to tokens of the other side.

    Raises:
        ValueError: a ring wider than the window, an even region, or later a map that the window does not divide.
    """

    def __init__(self, dim: int, heads: int, window: int, *, expand: int, region: int, wrap: bool = True) -> None:
        super().__init__()
        if not 0 <= expand < window or region % 2 == 0:
            raise ValueError(f"expand={expand} is not in [0, window={window}), or region={region} has no middle")
        self.window, self.wrap = window, wrap
        self.attn, self.pool = Attention(dim, heads), nn.Linear(window**2, 1)
        self.bias = RelativeBias(heads, window, window)
        keys = len(ring(window, expand))
        self.ring_bias = nn.Parameter(torch.empty(heads, window**2, keys)) if expand else None
        self.pooled_bias = nn.Parameter(torch.empty(heads, (window + region - 1) ** 2))
        for table in (self.ring_bias, self.pooled_bias):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        self.derive("index", partial(pooled_offsets, window, region))
        self.derive(
            "near", lambda: torch.cat([torch.cartesian_prod(*[torch.arange(window)] * 2), ring(window, expand)])
        )
        self.derive("far", lambda: torch.cartesian_prod(*[torch.arange(region) - region // 2] * 2))
        self.index: Tensor
        self.near: Tensor
        self.far: Tensor

    def keys(self, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
        """For a map of h x w tokens: fine keys (windows, n) and pooled ones (windows, m), and which may be seen."""
        fine, inside = places(h, w, self.window, self.near)
        coarse, there = places(h // self.window, w // self.window, 1, self.far)
        return fine, coarse, torch.cat([inside | self.wrap, there], 1)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        if h % self.window or w % self.window:
            raise ValueError(f"window={self.window} does not divide the map {(h, w)}")
        fine, coarse, seen = self.keys(h, w)
        cut = {"y": h // self.window, "x": w // self.window, "p": self.window, "q": self.window}
        pooled = self.pool(rearrange(x, "b (y p) (x q) c -> b (y x) c (p q)", **cut))[..., 0]
        kv = [
            self.attn.split(torch.cat([take(project(x).flatten(1, 2), fine), take(project(pooled), coarse)], 1))
            for project in (self.attn.k, self.attn.v)
        ]
        ring_bias = [] if self.ring_bias is None else [self.ring_bias]
        bias = torch.cat([self.bias(), *ring_bias, self.pooled_bias[:, self.index]], -1)
        mask = seen.repeat(b, 1)[:, None, None]  # one for each window, the same for all its queries and heads
        y = self.attn(
            rearrange(x, "b (y p) (x q) c -> (b y x) (p q) c", **cut), kv=(kv[0], kv[1]), bias=bias, mask=mask
        )
        return rearrange(y, "(b y x) (p q) c -> b (y p) (x q) c", b=b, **cut)


class Focal(nn.Module):
    """An image classifier. Focal-T by default.

    Args:
        image: side of the images. Others work if windows divide their maps, but windows are chosen for this one: none
            is larger than its map, and where one window covers the map there is no ring.
        dim: width of the first stage.  depths, heads, regions: blocks, heads and region of each stage.
        window, expand, wrap: of the attention.  drop_path: probability of skipping the last sublayer, rising from 0.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1000, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24), regions: tuple[int, ...] = (7, 5, 3, 1), window: int = 7,
        expand: int = 3, wrap: bool = True, drop_path: float = 0.2, channels: int = 3, patch: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(depths) == len(heads) == len(regions):
            raise ValueError(f"{depths=}, {heads=} and {regions=} are of different numbers of stages")
        self.embed, self.stages = nn.ModuleList(), nn.ModuleList()
        for s, rates in enumerate(drop_path_rates(drop_path, depths)):
            self.embed.append(PatchEmbed(dim * 2**s, 2 if s else patch, channels=dim * 2 ** (s - 1) if s else channels))
            side = image // (patch * 2**s)
            level: dict[str, Any] = {"window": min(window, side), "region": regions[s], "wrap": wrap}
            level["expand"] = expand if side > window else 0
            self.stages.append(nn.Sequential(*[
                Block(dim * 2**s, FocalAttention(dim * 2**s, heads[s], **level), MLP(dim * 2**s, dim * 2 ** (s + 2)),
                      drop_path=rate) for rate in rates
            ]))  # fmt: skip
        self.norm, self.head = nn.LayerNorm(dim * 2**s), nn.Linear(dim * 2**s, classes)
        self.apply(init_truncated_normal)
        for module in self.modules():
            if isinstance(module, FocalAttention):
                nn.init.constant_(module.pool.weight, module.window**-2)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, dim), (B, H/8, W/8, 2 dim), ...: what detectors and segmenters take."""
        maps = []
        for embed, stage in zip(self.embed, self.stages, strict=True):
            maps.append(stage(embed(image)))
            image = maps[-1].movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.norm(self.features(image)[-1]).mean((1, 2)))


SMALL: dict[str, Any] = {"depths": (2, 2, 18, 2), "drop_path": 0.3}
BASE: dict[str, Any] = {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5}


@register
def focal_tiny(**overrides: Any) -> Focal:
    """28.9 M parameters, 4.9 G multiply-adds (Yang et al. 2021, table 1)."""
    return Focal(**overrides)


@register
def focal_small(**overrides: Any) -> Focal:
    """51.1 M parameters, 9.4 G multiply-adds (Yang et al. 2021, table 1)."""
    return Focal(**SMALL | overrides)


@register
def focal_base(**overrides: Any) -> Focal:
    """89.8 M parameters, 16.4 G multiply-adds (Yang et al. 2021, table 1)."""
    return Focal(**BASE | overrides)
