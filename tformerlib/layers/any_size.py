"""Plain Vision Transformers on images of any size, as dense prediction wants them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.vit import ViT


def embed_any_size(vit: ViT, patches: Tensor) -> Tensor:
    """Embedded patches (B, H, W, C) to tokens (B, prefix + H * W, C): each with its place, the prefix in front.

    The table of places is stretched bilinearly to the grid at hand, as DPT and Segmenter do in every forward pass; our
    `resize_grid`, for loading weights once, is bicubic.
    """
    count, grid = vit.prefix.shape[1], patches.shape[1:3]
    prefix, places = vit.positions[:, :count], vit.positions[:, count:]
    if grid != vit.grid:
        table = places.mT.unflatten(-1, vit.grid)
        places = F.interpolate(table, size=grid, mode="bilinear").flatten(2).mT
    x = torch.cat([vit.prefix.expand(len(patches), -1, -1), patches.flatten(1, 2)], 1)
    return vit.dropout(x + torch.cat([prefix, places], 1))
