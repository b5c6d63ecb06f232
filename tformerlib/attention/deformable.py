"""Attention to a few points of a pyramid of maps, between their places (Zhu et al. 2021), by torch's bilinear sampling.

Shape letters: B batch, H heads, N queries, M places of all maps, C width, E value width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recording import record


def deformable_attention(v: Tensor, at: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """The sum over points of weight times the value there, between places interpolated, beyond the border zero.

    Args:
        v: (B, M, H, E), the maps one after another.  shapes: (height, width) of each; their areas sum to M.
        at: (B, N, H, levels, points, 2), x and y of each point as shares of its map: 0 is the left or upper border.
        weights: (B, N, H, levels, points), as they are used.

    Returns:
        (B, N, H, E).

    Raises:
        ValueError: shapes that do not fit.
    """
    areas = [height * width for height, width in shapes]
    if sum(areas) != v.shape[1] or at.shape[:-1] != weights.shape or at.shape[3] != len(areas):
        raise ValueError(f"v {tuple(v.shape)}, at {tuple(at.shape)}, weights {tuple(weights.shape)} and {shapes=}")
    record(weights.flatten(3).transpose(1, 2))
    # Points before queries, so that the sum over them runs along whole rows of memory
    grids, weights = (2 * at - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1), weights.permute(0, 2, 3, 4, 1).flatten(0, 1)
    out = v.new_zeros(())
    for level, values in enumerate(v.permute(0, 2, 3, 1).flatten(0, 1).split(areas, -1)):
        image = values.unflatten(-1, shapes[level])  # (B * H, E, height, width)
        samples = F.grid_sample(image, grids[:, level], align_corners=False)  # (B * H, E, points, N)
        out = out + (samples * weights[:, None, level]).sum(2)
    return out.unflatten(0, (v.shape[0], v.shape[2])).permute(0, 3, 1, 2)


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
