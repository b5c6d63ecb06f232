"""CCT, Compact Convolutional Transformer: CVT whose patches are a convolution with pooling (Hassani et al. 2021).

Shape letters: B batch, N tokens, C width (`dim`). Blocks, sequence pooling and what else is shared: vit_lite.py.
"""

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..registry import register
from .vit_lite import THIN, Compact, Positions, table


class ConvTokens(nn.Sequential):
    """Images (B, 3, H, W) to maps (B, H', W', C): convolution, ReLU and max-pooling, once or more.

    Args:
        dim: channels of the last convolution; those before it have 64.  kernel, stride: of all convolutions.
        layers: how many. Each pooling (3 x 3, stride 2) halves the sides, after the convolution's stride.
    """

    def __init__(self, dim: int, kernel: int, stride: int, layers: int) -> None:
        parts: list[nn.Module] = []
        widths = [3] + [64] * (layers - 1) + [dim]
        for channels, out in pairwise(widths):
            conv = nn.Conv2d(channels, out, kernel, stride, max(1, kernel // 2), bias=False)
            nn.init.kaiming_normal_(conv.weight)
            parts += [conv, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        super().__init__(*parts)
        self.kernel, self.strides = kernel, [stride, 2] * layers

    def side(self, image: int) -> int:
        """Tokens along the side of an image."""
        for i, stride in enumerate(self.strides):
            kernel = 3 if i % 2 else self.kernel
            image = (image + 2 * max(1, kernel // 2) - kernel) // stride + 1
        return image

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).movedim(1, -1)


class CCT(Compact):
    """Image classifier. CCT-7/3x1 for images of 32 x 32 by default.

    Args:
        image: side of the images in pixels.  classes: number of logits.
        kernel, layers: of the convolutional tokenizer; its stride is kernel // 2 - 1, at least 1, as in the official
            code, unless `stride` is given.
        patch: pixels along the side of a token, in the place of `layers`; a layer multiplies them by twice the stride.
        dim, depth, heads, mlp, positions, dropout, attention_dropout, drop_path: as for `Compact`.

    Raises:
        ValueError: a patch that no number of layers makes.
    """

    def __init__(
        self, *, image: int = 32, patch: int | None = None, classes: int = 10, kernel: int = 3, layers: int = 1,
        stride: int | None = None, dim: int = 256, depth: int = 7, heads: int = 4, mlp: float = 2.0,
        positions: Positions | None = table, dropout: float = 0.0, attention_dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        if stride is None:
            stride = max(1, kernel // 2 - 1)
        if patch is not None:
            layers = round(math.log(patch, 2 * stride))
            if (2 * stride) ** layers != patch or layers < 1:
                raise ValueError(f"patch={patch} is no power of {2 * stride}, by which each layer shrinks an image")
        tokens = ConvTokens(dim, kernel, stride, layers)
        side = tokens.side(image)
        super().__init__(
            tokens, (side, side), pool=True, classes=classes, dim=dim, depth=depth, heads=heads, mlp=mlp,
            positions=positions, dropout=dropout, attention_dropout=attention_dropout, drop_path=drop_path,
        )  # fmt: skip


DEEP: dict[str, Any] = {
    "image": 224,
    "classes": 1000,
    "kernel": 7,
    "layers": 2,
    "dim": 384,
    "depth": 14,
    "heads": 6,
    "mlp": 3.0,
}


@register
def cct_2_3x2_32(**overrides: Any) -> CCT:
    """CCT-2/3x2: 0.28 M parameters (Hassani et al. 2021)."""
    return CCT(**THIN | {"depth": 2, "layers": 2} | overrides)


@register
def cct_4_3x2_32(**overrides: Any) -> CCT:
    """CCT-4/3x2: 0.48 M parameters (Hassani et al. 2021)."""
    return CCT(**THIN | {"depth": 4, "layers": 2} | overrides)


@register
def cct_6_3x1_32(**overrides: Any) -> CCT:
    """CCT-6/3x1: 3.23 M parameters (Hassani et al. 2021)."""
    return CCT(**{"depth": 6} | overrides)


@register
def cct_6_3x2_32(**overrides: Any) -> CCT:
    """CCT-6/3x2: 3.33 M parameters (Hassani et al. 2021)."""
    return CCT(**{"depth": 6, "layers": 2} | overrides)


@register
def cct_7_3x1_32(**overrides: Any) -> CCT:
    """CCT-7/3x1: 3.76 M parameters, 1.18 G multiply-adds (Hassani et al. 2021)."""
    return CCT(**overrides)


@register
def cct_7_3x2_32(**overrides: Any) -> CCT:
    """CCT-7/3x2: 3.85 M parameters, 0.29 G multiply-adds (Hassani et al. 2021)."""
    return CCT(**{"layers": 2} | overrides)


@register
def cct_7_7x2_224(**overrides: Any) -> CCT:
    """CCT-7/7x2: 4.57 M parameters, for Flowers-102 (Hassani et al. 2021)."""
    return CCT(**{"image": 224, "classes": 102, "kernel": 7, "layers": 2} | overrides)


@register
def cct_14_7x2_224(**overrides: Any) -> CCT:
    """CCT-14/7x2: 22.4 M parameters, 5.5 G multiply-adds, 0.4 G of them attention's products (Hassani et al. 2021)."""
    return CCT(**DEEP | overrides)


@register
def cct_14_7x2_384(**overrides: Any) -> CCT:
    """CCT-14/7x2: 22.5 M parameters, 18.6 G multiply-adds, 3.6 G of them attention's products (Hassani et al. 2021)."""
    return CCT(**DEEP | {"image": 384} | overrides)
