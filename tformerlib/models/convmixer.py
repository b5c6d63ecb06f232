"""ConvMixer: patches, and nothing but convolutions to mix them (Trockman and Kolter 2023).

Shape letters: B batch, H x W grid of patches, C width (`dim`).

ViT without attention: a patch embedding, then blocks that mix places and channels in turn, at one width and one
resolution throughout. Places are mixed by a depthwise convolution with a large kernel, channels by a 1 x 1 convolution.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..registry import register

Activation = Callable[[], nn.Module]


class ConvMixer(nn.Module):
    """Image classifier. ConvMixer-1536/20 by default.

    Args:
        dim, depth: width and number of blocks, which name the models: ConvMixer-dim/depth.
        kernel: side of the depthwise kernels, in patches.  patch: side of a patch in pixels; 1 leaves single pixels.
        classes: number of logits.  act: GELU in the paper; ReLU in the ConvMixer-768/32 that was released.
    """

    def __init__(
        self, *, dim: int = 1536, depth: int = 20, kernel: int = 9, patch: int = 7, classes: int = 1000,
        act: Activation = nn.GELU,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = patch
        self.patches = ActNorm(nn.Conv2d(3, dim, patch, patch), act)
        self.blocks = nn.ModuleList(MixerBlock(dim, kernel, act) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Images (B, 3, height, width) to the map (B, C, H, W) after each block."""
        if image.shape[-2] % self.patch or image.shape[-1] % self.patch:
            raise ValueError(f"patch={self.patch} does not divide the image {tuple(image.shape[-2:])}")
        x, maps = self.patches(image), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def features(self, image: Tensor) -> list[Tensor]:
        """The last map as (B, H, W, C): a pyramid of a single level."""
        return [self.maps(image)[-1].movedim(1, -1)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width), of any size that the patch divides, to logits (B, classes)."""
        return self.head(self.maps(image)[-1].mean((-2, -1)))


class MixerBlock(nn.Module):
    """Mix the places of each channel, then the channels of each place. Only the first has a shortcut."""

    def __init__(self, dim: int, kernel: int, act: Activation) -> None:
        super().__init__()
        self.places = ActNorm(nn.Conv2d(dim, dim, kernel, groups=dim, padding="same"), act)
        self.channels = ActNorm(nn.Conv2d(dim, dim, 1), act)

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x + self.places(x))


class ActNorm(nn.Sequential):
    """A convolution with bias, the activation, and only then BatchNorm."""

    def __init__(self, conv: nn.Conv2d, act: Activation) -> None:
        super().__init__(conv, act(), nn.BatchNorm2d(conv.out_channels))


@register
def convmixer_1536_20(**overrides: Any) -> ConvMixer:
    """51.6 M parameters, 51.1 G multiply-adds (Trockman and Kolter 2023)."""
    return ConvMixer(**overrides)


@register
def convmixer_768_32(**overrides: Any) -> ConvMixer:
    """21.1 M parameters, 20.7 G multiply-adds (Trockman and Kolter 2023); as released, with ReLU."""
    sizes: dict[str, Any] = {"dim": 768, "depth": 32, "kernel": 7, "act": nn.ReLU}
    return ConvMixer(**sizes | overrides)


@register
def convmixer_1024_20(**overrides: Any) -> ConvMixer:
    """24.4 M parameters, 5.9 G multiply-adds, patches of 14 pixels: the cheapest (Trockman and Kolter 2023)."""
    return ConvMixer(**{"dim": 1024, "patch": 14} | overrides)


@register
def convmixer_256_8(**overrides: Any) -> ConvMixer:
    """0.59 M parameters, for images of 32 x 32, every pixel a token (Trockman and Kolter 2023, on CIFAR-10)."""
    return ConvMixer(**{"dim": 256, "depth": 8, "kernel": 5, "patch": 1, "classes": 10} | overrides)
