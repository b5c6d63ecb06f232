"""Attention to points between the places of maps (Zhu et al. 2021, eq. 3), by torch's bilinear sampling.

Shape letters: B batch, H heads, N queries, M places of all maps, E value width.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

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
