"""ResNet: stacks of convolutions that learn what to add to their input (He et al. 2016).

The backbone that Vision Transformers are measured against, that teaches DeiT and that detectors see through.
"""

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor, nn

from ..layers.convs import ConvNorm, Residual, basic_block, bottleneck
from ..registry import Takes, register


class ResNet(nn.Module):
    """Image classifier. A stem, stages that halve the sides and (mostly) double the channels, a mean, a linear layer.

    Args:
        depths, dims: blocks and channels of each stage; the first stage keeps the resolution of the stem.
        block: `basic_block` or `bottleneck`, which has dims as its wide end.
        stem: channels after the stem.  small: a stem of one 3 x 3 convolution at full resolution, for images of CIFAR's
            size (sec. 4.2), in the place of 7 x 7 and a pooling, which divide the sides by 4.
        conv, norm: for all convolutions, if not torch's and BatchNorm.
    """

    def __init__(
        self, *, depths: tuple[int, ...] = (3, 4, 6, 3), dims: tuple[int, ...] = (256, 512, 1024, 2048),
        block: Callable[..., Residual] = bottleneck, stem: int = 64, small: bool = False, classes: int = 1000,
        pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(3, 2, 1),
        **conv: Annotated[Any, Takes(ConvNorm, but=("channels", "out", "kernel", "stride", "groups", "act"))],
    ) -> None:  # fmt: skip
        super().__init__()
        if len(depths) != len(dims):
            raise ValueError(f"depths={depths} and dims={dims} are not of equal length")
        first = [ConvNorm(3, stem, **conv)] if small else [ConvNorm(3, stem, 7, stride=2, **conv), pool()]
        self.stem, self.stages, channels = nn.Sequential(*first), nn.ModuleList(), stem
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            strides = [2 if i else 1] + [1] * (depth - 1)
            inputs = [channels] + [dim] * (depth - 1)
            self.stages.append(nn.Sequential(*[block(c, dim, s, **conv) for c, s in zip(inputs, strides, strict=True)]))
            channels = dim
        self.head = nn.Linear(channels, classes)
        self.apply(init)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the map (B, C, H, W) after each stage."""
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, image: Tensor) -> list[Tensor]:
        """The pyramid as token maps (B, H, W, C), finest first."""
        return [x.movedim(1, -1) for x in self.maps(image)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        return self.head(self.maps(image)[-1].mean((-2, -1)))


def init(module: nn.Module) -> None:
    """He et al. (2015): variance 2 / fan-out, which keeps the gradient's size through ReLUs."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


SHALLOW: dict[str, Any] = {"dims": (64, 128, 256, 512), "block": basic_block}


@register
def resnet18(**overrides: Any) -> ResNet:
    """11.7 M parameters, 1.8 G multiply-adds (He et al. 2016, table 1)."""
    return ResNet(**SHALLOW | {"depths": (2, 2, 2, 2)} | overrides)


@register
def resnet34(**overrides: Any) -> ResNet:
    """21.8 M parameters, 3.6 G multiply-adds (He et al. 2016, table 1)."""
    return ResNet(**SHALLOW | overrides)


@register
def resnet50(**overrides: Any) -> ResNet:
    """25.6 M parameters, 4.1 G multiply-adds; 3.8 G with the paper's strides (He et al. 2016, table 1)."""
    return ResNet(**overrides)


@register
def resnet101(**overrides: Any) -> ResNet:
    """44.5 M parameters, 7.6 G multiply-adds as printed (He et al. 2016, table 1)."""
    return ResNet(**{"depths": (3, 4, 23, 3)} | overrides)


@register
def resnet20_cifar(**overrides: Any) -> ResNet:
    """0.27 M parameters, for images of 32 x 32 (He et al. 2016, sec. 4.2 and table 6)."""
    sizes: dict[str, Any] = {"depths": (3, 3, 3), "dims": (16, 32, 64), "stem": 16, "classes": 10}
    return ResNet(**sizes | {"block": basic_block, "small": True} | overrides)
