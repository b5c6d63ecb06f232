"""Pyramids of maps, and attention to a few points of all of them (Zhu et al. 2021, sec. 4.1).

Shape letters: B images, N queries, M places of all maps, C width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention.deformable import deformable_attention


class Pyramid(NamedTuple):
    """All maps one after another, x (B, M, C); seen (B, M, 1) is False at padding, or None; (height, width) of each
    map; and the share of its width and height that is image, (B, levels, 2)."""

    x: Tensor
    seen: Tensor | None
    shapes: list[tuple[int, int]]
    ratios: Tensor


class DeformableAttention(nn.Module):
    """Where to look and how much each look counts, both linear in the query alone: no key is compared (sec. 4.1)."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets, self.weights = (nn.Linear(dim, n * heads * levels * points) for n in (2, 1))
        self.v, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, at: Tensor, pyramid: Pyramid) -> Tensor:
        """x (B, N, C) at points (B, N, levels, 2), offsets then in places; or at boxes (B, N, levels, 4), offsets then
        in halves of their sides, divided by `points`."""
        v = self.v(pyramid.x)
        if pyramid.seen is not None:
            v = v.masked_fill(~pyramid.seen, 0.0)
        offsets = self.offsets(x).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = self.weights(x).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, (self.levels, -1))
        if at.shape[-1] == 2:
            unit = 1 / torch.tensor([(w, h) for h, w in pyramid.shapes]).to(x)[:, None]
        else:
            unit = at[:, :, None, :, None, 2:] / (2 * self.points)
        at = at[:, :, None, :, None, :2] + offsets * unit
        found = deformable_attention(v.unflatten(-1, (self.heads, -1)), at, weights, pyramid.shapes)
        return self.out(found.flatten(-2))


def look_around(attn: DeformableAttention) -> None:
    """At first a head looks in a direction of its own, its points 1, 2, ... places away, all counting alike (A.4)."""
    angles = torch.arange(attn.heads) * (2 * math.pi / attn.heads)
    steps = torch.stack([angles.cos(), angles.sin()], -1)
    steps = (steps / steps.abs().amax(-1, keepdim=True))[:, None, None] * torch.arange(1, attn.points + 1)[:, None]
    with torch.no_grad():
        attn.offsets.bias.copy_(steps.expand(-1, attn.levels, -1, -1).flatten())
    for zero in (attn.offsets.weight, attn.weights.weight, attn.weights.bias, attn.v.bias, attn.out.bias):
        nn.init.zeros_(zero)
