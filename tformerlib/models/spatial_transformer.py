"""Spatial Transformer Networks: a network chooses a warp and resamples its own input by it (Jaderberg et al. 2015).

Shape letters: B batch, C channels, H x W pixels, K numbers that a warp is made of.

A localizer reads the image and predicts the numbers of a warp (`layers.warps`), by which the image is resampled before
a classifier sees it. The classifier's loss is all that teaches the localizer.

Deviations from the paper: the widths of layers are ours. There as here a classifier has three layers with weights, the
convolutional one two max-poolings, and a transformer changes nothing before it has learned something.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.warps import Affine, Projective, ThinPlate, Warp, sample
from ..registry import variant


class SpatialTransformer(nn.Module):
    """Localizer, warp and sampler. It begins as the identity: weights of the last layer are zero (sec. 4.2).

    Args:
        body: images (B, C, H, W) to (B, features).
    """

    def __init__(self, body: nn.Module, features: int, warp: Warp) -> None:
        super().__init__()
        self.body, self.regress, self.warp = body, nn.Linear(features, len(warp.identity)), warp
        nn.init.zeros_(self.regress.weight)
        self.regress.bias = nn.Parameter(warp.identity.clone())

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to what the classifier gets to see."""
        return sample(image, self.warp(self.theta(image)))

    def theta(self, image: Tensor) -> Tensor:
        """The numbers of the warp that it chooses, (B, K)."""
        return self.regress(self.body(image))


class SpatialTransformerNetwork(nn.Module):
    """Classifier of square images behind spatial transformers; without one it is the baseline.

    Args:
        warp: kind of the transformers, or None for no transformer.
        transformers: how many stand side by side; the classifier gets their outputs as channels.
        convolutions: whether classifier and localizers have them (ST-CNN), or linear layers alone (ST-FCN).
        hidden, localizer: widths of both hidden layers of the classifier, and of each localizer.
    """

    def __init__(
        self, *, image: int = 28, channels: int = 1, classes: int = 10, warp: Callable[[tuple[int, int]], Warp] | None,
        transformers: int = 1, convolutions: bool = True, hidden: tuple[int, int], localizer: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        super().__init__()
        body = two_convolutions if convolutions else two_layers
        self.transformers = nn.ModuleList()
        if warp is not None:
            if transformers < 1:
                raise ValueError(f"transformers={transformers}: for none, leave out the warp")
            if min(localizer) < 1:
                raise ValueError(f"localizer={localizer}: a warp needs one with two layers")
            for _ in range(transformers):
                self.transformers.append(SpatialTransformer(*body(channels, image, localizer), warp((image, image))))
            channels *= transformers
        self.body, features = body(channels, image, hidden)
        self.head = nn.Linear(features, classes)

    def views(self, image: Tensor) -> list[Tensor]:
        """What each transformer makes of images (B, C, H, W)."""
        return [transformer(image) for transformer in self.transformers] or [image]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.head(self.body(torch.cat(self.views(image), 1)))


def two_layers(channels: int, image: int, widths: tuple[int, int]) -> tuple[nn.Module, int]:
    """Two linear layers with ReLU, and the number of features that come out."""
    first, second = widths
    layers = nn.Linear(channels * image**2, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *layers), second


def two_convolutions(channels: int, image: int, widths: tuple[int, int]) -> tuple[nn.Module, int]:
    """Two 5 x 5 convolutions with max-pooling and ReLU, and the number of features that come out."""
    first, second = widths
    side = ((image - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"image={image}: nothing is left of it after two convolutions and poolings; 16 at least")
    one, two = nn.Conv2d(channels, first, 5), nn.Conv2d(first, second, 5)
    layers = one, nn.MaxPool2d(2), nn.ReLU(), two, nn.MaxPool2d(2), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten()), side**2 * second


STN = SpatialTransformerNetwork
CITED = "(Jaderberg et al. 2015, table 1); the widths are ours, so that all eight have 0.07 M."
CNN: dict[str, Any] = {"localizer": (12, 24)}
FCN: dict[str, Any] = {"hidden": (54, 32), "localizer": (32, 16), "convolutions": False}
variant("cnn_digits", STN, f"0.070 M parameters: CNN {CITED}", warp=None, hidden=(34, 68))
variant("st_cnn_affine", STN, f"0.069 M parameters: ST-CNN Aff {CITED}", warp=Affine, hidden=(31, 62), **CNN)
variant("st_cnn_projective", STN, f"0.069 M parameters: ST-CNN Proj {CITED}", warp=Projective, hidden=(31, 62), **CNN)
variant("st_cnn_tps", STN, f"0.069 M parameters: ST-CNN TPS {CITED}", warp=ThinPlate, hidden=(28, 56), **CNN)
variant("fcn_digits", STN, f"0.071 M parameters: FCN {CITED}", warp=None, hidden=(86, 32), convolutions=False)
variant("st_fcn_affine", STN, f"0.070 M parameters: ST-FCN Aff {CITED}", warp=Affine, **FCN)
variant("st_fcn_projective", STN, f"0.070 M parameters: ST-FCN Proj {CITED}", warp=Projective, **FCN)
variant("st_fcn_tps", STN, f"0.071 M parameters: ST-FCN TPS {CITED}", warp=ThinPlate, **FCN)
