"""Maps of several sizes fused into one by convolutions, coarse to fine: RefineNet's blocks as DPT has them.

Maps are (B, channels, H, W). Whatever gives maps whose sides halve can stand in front: a ViT's tokens put back onto a
grid, or the stages of a ResNet.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), with a norm behind each convolution if there is one (sec. 3.1)."""

    def __init__(self, channels: int, norm: Norm | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)]
            layers += [norm(channels)] if norm else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Fusion(nn.Module):
    """Adds a map of the same size to what came from coarser ones, and doubles the sides (fig. 1, right)."""

    def __init__(self, channels: int, norm: Norm | None, *, first: bool) -> None:
        super().__init__()
        self.skip = None if first else ResidualUnit(channels, norm)
        self.refine, self.project = ResidualUnit(channels, norm), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        x = F.interpolate(self.refine(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.project(x)  # after the upsampling, as official; a 1 x 1 convolution commutes with it


class Decoder(nn.Module):
    """Four maps, finest first, each of half the sides of the one before, to one of twice the finest's sides.

    Args:
        channels: of each map.  width: of the result.  norm: inside of the residual units; DPT has BatchNorm for labels.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1, bias=False) for c in channels)
        self.fuse = nn.ModuleList(Fusion(width, norm, first=i == 0) for i in range(len(channels)))  # coarsest first

    def forward(self, maps: list[Tensor]) -> Tensor:
        adapted = [adapt(x) for adapt, x in zip(self.adapt, maps, strict=True)][::-1]
        x = self.fuse[0](adapted[0])
        for fuse, finer in zip(list(self.fuse)[1:], adapted[1:], strict=True):
            x = fuse(x, finer)
        return x


def twice() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


class DepthHead(nn.Sequential):
    """A fused map to inverse depth (B, H, W), at least 0 and known up to a scale and a shift."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        half = nn.Conv2d(width, width // 2, 3, padding=1)
        ends = [nn.Conv2d(width // 2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1), nn.ReLU()]
        super().__init__(half, twice(), *ends, nn.Flatten(1, 2))  # one channel: (B, 1, H, W) to (B, H, W)


class LabelHead(nn.Sequential):
    """A fused map to logits (B, classes, H, W)."""

    def __init__(self, width: int, classes: int = 150, dropout: float = 0.1) -> None:
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        ends = [nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, classes, 1)]
        super().__init__(conv, *ends, twice())
