"""Conviformer: convolutions halve a large image before ConViT reads it, so that tokens stay few (Vaishnav et al. 2022).

Shape letters: B batch, C channels, H x W image.

An image of 224 pixels goes to ConViT as it is. One of 448, 896 or 1792 pixels goes through one, two or three halvings
by pairs of convolutions first, and ConViT cuts its 14 x 14 patches out of a map of 224 x 224. The halvings are cheap;
the patch projection, which has 64, 128 or 256 channels to read instead of three, has most of the added parameters.
"""

from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..registry import Takes, register
from .convit import ConViT

WIDTHS = (64, 128, 256)


class Conviformer(nn.Module):
    """Image classifier. Conviformer-B for images of 448 pixels by default: one halving, then ConViT-B.

    Args:
        image: side of the images in pixels.
        halvings: pairs of convolutions in front; ConViT reads a map of image / 2^halvings.
        widths: channels after each halving.  convit: other arguments of ConViT.

    Raises:
        ValueError: more halvings than widths, or an image that cannot be halved so often.
    """

    def __init__(
        self, *, image: int = 448, halvings: int = 1, widths: tuple[int, ...] = WIDTHS,
        **convit: Annotated[Any, Takes(ConViT, but=("channels",))],
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= halvings <= len(widths):
            raise ValueError(f"halvings={halvings}: there are widths={widths} for at most {len(widths)}")
        if image % 2**halvings:
            raise ValueError(f"image={image} cannot be halved {halvings} times")
        channels = (3, *widths[:halvings])
        self.stem = nn.Sequential(*[halving(a, b) for a, b in pairwise(channels)])
        self.convit = ConViT(image=image // 2**halvings, channels=channels[-1], **convit)

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoded patches as one map (B, H, W, C): a pyramid of a single level."""
        return self.convit.features(self.stem(image))

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        return self.convit(self.stem(image))


def halving(channels: int, out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with BatchNorm and ReLU; the first has stride 2. With biases, as in the official code."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, 2, 1), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip


def presize(image: Tensor, border: int = 20) -> Tensor:
    """PreSizer: cuts a border off (C, H, W) and makes the rest square by reflection, so that resizing keeps shapes.

    A tall image continues to the right, a wide one to the top; the outermost row is not repeated.
    """
    if min(image.shape[1:]) < 2 * border + 2:
        raise ValueError(f"an image of {tuple(image.shape[1:])} has nothing left inside a border of {border}")
    image = image[:, border : image.shape[1] - border, border : image.shape[2] - border]
    _, height, width = image.shape
    rows, columns = torch.arange(min(0, height - width), height), torch.arange(max(height, width))
    return image[:, reflected(rows, height)][:, :, reflected(columns, width)]


def reflected(index: Tensor, count: int) -> Tensor:
    """Where in 0 .. count - 1 an index lands that walks back at both ends."""
    return (count - 1) - ((index % (2 * (count - 1))) - (count - 1)).abs()


@register
def conviformer_base_224(**overrides: Any) -> Conviformer:
    """86.5 M parameters: ConViT-B, for images of 224 pixels (Vaishnav et al. 2022)."""
    return Conviformer(**{"image": 224, "halvings": 0} | overrides)


@register
def conviformer_base_448(**overrides: Any) -> Conviformer:
    """98.6 M parameters, 21.8 G multiply-adds; ConViT-B alone would need 78.7 G (Vaishnav et al. 2022)."""
    return Conviformer(**overrides)


@register
def conviformer_base_896(**overrides: Any) -> Conviformer:
    """111.4 M parameters, 41.2 G multiply-adds (Vaishnav et al. 2022)."""
    return Conviformer(**{"image": 896, "halvings": 2} | overrides)
