"""Swin Transformer V2: Swin with cosine attention, a bias that extends to other windows, and norms at the end of each
branch (Liu et al. 2022).

The two largest models of the paper, H and G, were published neither as weights nor as code, and are not here.
"""

import math
import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Block, ResPostNorm
from ..layers.derived import Derived
from ..layers.positions import by_offset, offset_index
from ..registry import variant
from .swin import BASE, LARGE, SMALL, Swin, attend_in_windows, neighborhoods


class CosineAttention(nn.Module):
    """Window attention on the cosines of queries and keys, times a learned factor of at most 100 (eq. 2).

    Keys have no bias. In V1 it does nothing, as it adds the same to all scores of a query; in a cosine it would count.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, pretrained: int | None) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(10)))
        self.bias = ContinuousBias(heads, window, pretrained)

    def forward(self, x: Tensor) -> Tensor:
        biases = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, biases).unflatten(-1, (3, self.heads, -1))
        per_length = 1 / qkv[..., :2, :, :].norm(dim=-1).clamp(min=1e-12)  # (B, H, W, 2, heads), of queries and keys
        scale = torch.stack([self.log_scale.clamp(max=math.log(100)).exp(), torch.ones_like(self.log_scale)])
        factor = F.pad(per_length * scale, (0, 0, 0, 1), value=1.0)  # values are left as they are
        return self.out(attend_in_windows(qkv * factor[..., None], self.bias(), self.window, self.shift, scale=1.0))


class ContinuousBias(Derived):
    """A bias for each head as a small network's answer to an offset, so that it extends to other windows (eq. 3, 4).

    Offsets are measured in the window that the network was trained with, `pretrained`, and spaced logarithmically: a
    larger window then asks for offsets not far outside of those that it has seen. Returns (heads, N, N) in (0, 16).
    """

    def __init__(self, heads: int, window: int, pretrained: int | None = None) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.derive("offsets", partial(logarithmic_offsets, window, pretrained or window))
        self.derive("index", partial(offset_index, window, window))
        self.offsets: Tensor
        self.index: Tensor

    def forward(self) -> Tensor:
        return by_offset(16 * self.mlp(self.offsets).sigmoid(), self.index)


def logarithmic_offsets(window: int, pretrained: int) -> Tensor:
    """((2 window - 1)^2, 2): all offsets in windows of a side, in units in which a `pretrained` one spans -1 .. 1."""
    offset = 8 * torch.arange(1 - window, window) / max(pretrained - 1, 1)
    offset = offset.sign() * (offset.abs() + 1).log2() / 3  # 8 becomes log2(9) / 3
    return torch.cartesian_prod(offset, offset)


class PatchMerging(nn.Module):
    """(B, H, W, C) to (B, H/2, W/2, 2C) as in V1, with the norm at the end."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduce(neighborhoods(x)))


class SwinV2(Swin):
    """An image classifier. SwinV2-T with windows of 8 x 8 by default.

    Args:
        pretrained: the windows' sides of each stage when the weights were trained, if they are larger now.
        options: those of Swin.
    """

    merge = PatchMerging

    def __init__(
        self, *, image: int = 256, depths: tuple[int, ...] = (2, 2, 6, 2), window: int = 8,
        pretrained: tuple[int, ...] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if pretrained and len(pretrained) != len(depths):
            raise ValueError(f"pretrained={pretrained} and depths={depths} are of different numbers of stages")
        self.pretrained = pretrained
        super().__init__(image=image, depths=depths, window=window, **options)
        for name, p in self.named_parameters():
            if re.search(r"(mixer|mlp)\.norm\.weight", name):
                nn.init.zeros_(p)  # at first a block does nothing

    def block(self, stage: int, dim: int, heads: int, window: int, shift: int, drop_path: float) -> nn.Module:
        attn = CosineAttention(dim, heads, window, shift, self.pretrained[stage] if self.pretrained else None)
        return Block(dim, attn, MLP(dim, 4 * dim), residual=ResPostNorm, drop_path=drop_path)


# 12to16 and 12to24 were trained on ImageNet-22k with windows of 12, and then further with larger ones
TO16: dict[str, Any] = {"image": 256, "window": 16, "pretrained": (12, 12, 12, 6)}
TO24: dict[str, Any] = {"image": 384, "window": 24, "pretrained": (12, 12, 12, 6)}
CITED = "parameters (Liu et al. 2022; weights of the official repository)."
variant("swinv2_tiny_window8", SwinV2, f"28.3 M {CITED}")
variant("swinv2_tiny_window16", SwinV2, f"28.3 M {CITED}", window=16)
variant("swinv2_small_window8", SwinV2, f"49.7 M {CITED}", **SMALL)
variant("swinv2_small_window16", SwinV2, f"49.7 M {CITED}", **SMALL, window=16)
variant("swinv2_base_window8", SwinV2, f"87.9 M {CITED}", **BASE)
variant("swinv2_base_window16", SwinV2, f"87.9 M {CITED}", **BASE, window=16)
variant("swinv2_base_window12", SwinV2, f"87.9 M {CITED}", **BASE, image=192, window=12)
variant("swinv2_base_window12to16", SwinV2, f"87.9 M {CITED}", **BASE, **TO16)
variant("swinv2_base_window12to24", SwinV2, f"87.9 M {CITED}", **BASE, **TO24)
variant("swinv2_large_window12", SwinV2, f"196.7 M {CITED}", **LARGE, image=192, window=12)
variant("swinv2_large_window12to16", SwinV2, f"196.7 M {CITED}", **LARGE, **TO16)
variant("swinv2_large_window12to24", SwinV2, f"196.7 M {CITED}", **LARGE, **TO24)
