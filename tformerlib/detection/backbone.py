"""An image classifier as the eyes of another model: its maps, without its head."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.convs import FrozenBatchNorm2d


class Backbone(nn.Module):
    """The last maps of a network with `features(image)`, and which of their places are image, not padding.

    Args:
        make: makes the network: ResNet, Swin, PVT. Its classifying `head`, and the `norm` before it, are thrown away.
        levels: how many of the maps, counted from the coarsest.
    """

    def __init__(self, make: Callable[[], nn.Module], levels: int = 1) -> None:
        super().__init__()
        body: Any = make().eval()
        for unused in ("norm", "head"):
            if hasattr(body, unused):
                delattr(body, unused)
        with torch.no_grad():  # a look at a black image tells their widths
            maps = body.features(torch.zeros(1, 3, 64, 64, device=next(body.parameters()).device))
        if not 1 <= levels <= len(maps):
            raise ValueError(f"levels={levels}, but {type(body).__name__} has {len(maps)} maps")
        self.body, self.levels = body.train(), levels
        self.dims = [x.shape[-1] for x in maps[-levels:]]

    def forward(self, images: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, 3, H, W) to maps (B, H, W, C), finest first, and a bool (B, H, W) for each of them.

        Args:
            mask: (B, H, W), False at pixels that are padding. A place is image if the pixel at its first corner is.

        Raises:
            ValueError: images or a mask of another shape, an image that is all padding.
            TypeError: a mask that is not bool.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images {tuple(images.shape)} are not (batch, 3, height, width)")
        maps = self.body.features(images)[-self.levels :]
        if mask is None:
            return maps, [x.new_ones(x.shape[:3], dtype=torch.bool) for x in maps]
        if mask.dtype != torch.bool:
            raise TypeError(f"mask is {mask.dtype}; it is bool (False: padding)")
        if mask.shape != images[:, 0].shape:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit images {tuple(images.shape)}")
        masks = [shrink(mask, x) for x in maps]
        if not (seen := masks[-1].flatten(1).any(1)).all():
            raise ValueError(
                f"image {int((~seen).nonzero()[0])} is all padding in its map {tuple(maps[-1].shape[1:3])}"
            )
        return maps, masks


def shrink(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of pixels (B, H, W) to one of the places of a map (B, H, W, C), by the nearest pixel."""
    return F.interpolate(mask[None].float(), like.shape[1:3])[0].bool()


def with_frozen_norms(resnet: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    """Makes a ResNet with the norms of a pretrained one. The official trainings of detectors also freeze its stem and
    first stage, and have a tenth of the learning rate for the rest of it."""
    return partial(resnet, norm=FrozenBatchNorm2d)
