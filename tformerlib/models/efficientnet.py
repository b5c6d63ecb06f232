"""EfficientNet-B0: inverted bottlenecks with squeeze-and-excitation, found by search (Tan and Le 2019).

A convolutional network, here because hybrids read its maps. Images and maps are (B, C, H, W).

By default it is as the released weights want it: TensorFlow's padding, and 1e-3 in BatchNorm. The same network trained
in torch from scratch (timm's `efficientnet_b0`) has conv=nn.Conv2d, norm=nn.BatchNorm2d. Fresh convolutions begin as
torch begins them; the authors' code draws them with variance 2 / (outputs x area of the kernel).
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import DropPath
from ..layers.convs import ConvNorm, SqueezeExcite, pad_same
from ..registry import Takes, register

# of each stage: expansion, channels, blocks, kernel, stride of the first block (Tan and Le 2019)
B0 = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
      (6, 320, 1, 3, 1))  # fmt: skip
TENSORFLOWS = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: with stride 2, more on the right and at the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Trunk(nn.Module):
    """Images (B, 3, H, W) to a map: the stem, the first `blocks` of all blocks, and after all of them a last layer.

    Args:
        stages: expansion, channels, blocks, kernel and stride of each stage.  last: channels of the last layer.
        drop_path: it rises linearly from 0 to nearly this.  conv, norm: for all layers.

    Attributes:
        channels, stride: of the map that comes out.
    """

    def __init__(
        self, *, stages: tuple[tuple[int, int, int, int, int], ...] = B0, blocks: int | None = None, stem: int = 32,
        last: int = 1280, drop_path: float = 0.2, conv: Callable[..., nn.Conv2d] = SameConv2d,
        norm: Callable[[int], nn.Module] = TENSORFLOWS,
    ) -> None:  # fmt: skip
        super().__init__()
        layer: dict[str, Any] = {"conv": conv, "norm": norm, "act": nn.SiLU}
        total = sum(stage[2] for stage in stages)
        blocks = total if blocks is None else blocks
        if not 0 < blocks <= total:
            raise ValueError(f"blocks={blocks} is not in 1 .. {total}")
        self.stem, self.blocks = ConvNorm(3, stem, stride=2, **layer), nn.ModuleList()
        self.channels, self.stride = stem, 2
        for expansion, out, depth, kernel, first in stages:
            for stride in [first] + [1] * (depth - 1):
                if (done := len(self.blocks)) < blocks:
                    rate = drop_path * done / total
                    self.blocks.append(Inverted(self.channels, out, kernel, stride, expansion, rate, **layer))
                    self.channels, self.stride = out, self.stride * stride
        self.last = ConvNorm(self.channels, last, 1, **layer) if blocks == total else nn.Identity()
        self.channels = last if blocks == total else self.channels

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Inverted(nn.Module):
    """1 x 1 up, depthwise, squeeze-and-excitation, 1 x 1 down without activation; what came in is added if it fits.

    The hidden width of squeeze-and-excitation is a quarter of what came in, not of what it squeezes.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, expansion: int, drop_path: float, **layer: Any
    ) -> None:
        super().__init__()
        wide = expansion * channels
        up = [ConvNorm(channels, wide, 1, **layer)] if expansion > 1 else []
        depthwise = ConvNorm(wide, wide, kernel, stride=stride, groups=wide, **layer)
        squeeze = SqueezeExcite(wide, max(1, channels // 4))
        self.branch = nn.Sequential(*up, depthwise, squeeze, ConvNorm(wide, out, 1, **layer | {"act": None}))
        self.drop_path = DropPath(drop_path) if stride == 1 and channels == out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return y if self.drop_path is None else x + self.drop_path(y)


class EfficientNet(nn.Module):
    """Image classifier. EfficientNet-B0 by default. Arguments as `Trunk` has them, which makes the map."""

    def __init__(self, *, classes: int = 1000, dropout: float = 0.2, **trunk: Annotated[Any, Takes(Trunk)]) -> None:
        super().__init__()
        self.trunk = Trunk(**trunk)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(self.trunk.channels, classes)

    def features(self, image: Tensor) -> list[Tensor]:
        """The last map as (B, H, W, C)."""
        return [self.trunk(image).movedim(1, -1)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        return self.head(self.dropout(self.trunk(image).mean((-2, -1))))


@register
def efficientnet_b0(**overrides: Any) -> EfficientNet:
    """5.3 M parameters, 0.39 G multiply-adds (Tan and Le 2019)."""
    return EfficientNet(**overrides)
