"""ViT: an image as a sentence of patches, read by a plain Transformer encoder (Dosovitskiy et al. 2021).

Shape letters: B batch, N tokens (the class token and all patches), C width (`dim`), H x W grid of patches.

The head is one linear layer, as in fine-tuning; pre-training on JFT has a hidden layer with tanh before it (sec. 3.1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.convs import ConvNorm, MaxPoolSame, StandardizedConv2d, bottleneck
from ..layers.maps import PatchEmbed
from ..registry import register


class ViT(nn.Module):
    """Image classifier. ViT-B/16 by default.

    Args:
        image: side of the images in pixels, or (height, width).  patch: side of a patch, on the stem's map if any.
        classes: number of logits.  dim, depth, heads: width C, blocks, and heads of each.  mlp: hidden width / dim.
        dropout: on embeddings, on hidden units and on the output of each sublayer.  drop_path: of the last block; it
            rises linearly from 0 (AugReg and DeiT).
        prefix: learned tokens in front of the patches; the first is the class token.
        stem: channels and stride of a convolutional stem and the stem itself, of which patches are cut (a hybrid).

    Raises:
        ValueError: an image that cannot be cut into whole patches, at construction or later.
    """

    def __init__(
        self, *, image: int | tuple[int, int] = 224, patch: int = 16, classes: int = 1000, dim: int = 768,
        depth: int = 12, heads: int = 12, mlp: float = 4.0, dropout: float = 0.0, drop_path: float = 0.0,
        prefix: int = 1, stem: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.stem = stem() if stem else None
        stride, channels = (self.stem.stride, self.stem.channels) if self.stem else (1, 3)
        self.image = (image, image) if isinstance(image, int) else image
        if self.image[0] % (patch * stride) or self.image[1] % (patch * stride):
            raise ValueError(f"image={image} is not a multiple of the patch, which is {patch * stride} pixels wide")
        self.grid = self.image[0] // (patch * stride), self.image[1] // (patch * stride)
        self.patches = PatchEmbed(dim, patch, channels=channels, norm=lambda dim: nn.Identity())
        self.prefix = nn.Parameter(torch.zeros(1, prefix, dim))
        self.positions = nn.Parameter(torch.empty(1, prefix + self.grid[0] * self.grid[1], dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads), MLP(dim, int(mlp * dim), dropout=dropout), norm=norm, dropout=dropout,
                  drop_path=rate) for rate in drop_path_rates(drop_path, (depth,))[0]
        )  # fmt: skip
        self.norm, self.head = norm(dim), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.zeros_(self.head.weight)  # all classes are equally likely at first, as in the official code

    def embed(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to tokens (B, N, C): each is its content plus its place."""
        if image.shape[-2:] != self.image:
            raise ValueError(f"the images are {tuple(image.shape[-2:])}, the positions for image={self.image}")
        x = self.patches(image if self.stem is None else self.stem(image)).flatten(1, 2)
        return self.dropout(torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1) + self.positions)

    def tokens(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to the encoded tokens (B, N, C), those of the prefix first."""
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoded patches as one map (B, H, W, C): a pyramid of a single level."""
        return [self.tokens(image)[:, self.prefix.shape[1] :].unflatten(1, self.grid)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to logits (B, classes), read off the class token."""
        return self.head(self.tokens(image)[:, 0])


class Stem(nn.Sequential):
    """The first layers of a ResNet whose kernels are standardized and whose norms are over groups (sec. 4.1).

    Args:
        depths: bottlenecks in each stage; none leaves the 7 x 7 convolution and the pooling, which divide sides by 4.
    """

    def __init__(self, depths: tuple[int, ...]) -> None:
        conv: dict[str, Any] = {"conv": StandardizedConv2d, "norm": partial(nn.GroupNorm, 32)}
        layers: list[nn.Module] = [ConvNorm(3, 64, 7, stride=2, **conv), MaxPoolSame()]
        self.channels, self.stride = 64, 4 * 2 ** max(0, len(depths) - 1)
        for i, depth in enumerate(depths):
            for j in range(depth):
                layers.append(bottleneck(self.channels, 256 * 2**i, 2 if i and not j else 1, **conv))
                self.channels = 256 * 2**i
        super().__init__(*layers)


BASE: dict[str, Any] = {"dim": 768, "depth": 12, "heads": 12}
LARGE: dict[str, Any] = {"dim": 1024, "depth": 24, "heads": 16}
HUGE: dict[str, Any] = {"dim": 1280, "depth": 32, "heads": 16}


@register
def vit_base_patch16(**overrides: Any) -> ViT:
    """ViT-B/16: 86.6 M parameters (Dosovitskiy et al. 2021, table 1)."""
    return ViT(**BASE | overrides)


@register
def vit_base_patch32(**overrides: Any) -> ViT:
    """ViT-B/32: 88.2 M parameters (Dosovitskiy et al. 2021, table 5)."""
    return ViT(**BASE | {"patch": 32} | overrides)


@register
def vit_large_patch16(**overrides: Any) -> ViT:
    """ViT-L/16: 304.3 M parameters; the paper says 307 M (Dosovitskiy et al. 2021, table 1)."""
    return ViT(**LARGE | overrides)


@register
def vit_large_patch32(**overrides: Any) -> ViT:
    """ViT-L/32: 306.5 M parameters (Dosovitskiy et al. 2021, table 5)."""
    return ViT(**LARGE | {"patch": 32} | overrides)


@register
def vit_huge_patch14(**overrides: Any) -> ViT:
    """ViT-H/14: 632.0 M parameters (Dosovitskiy et al. 2021, table 1)."""
    return ViT(**HUGE | {"patch": 14} | overrides)


@register
def vit_base_r50_s16(**overrides: Any) -> ViT:
    """R50+ViT-B/16: 98.7 M parameters (Dosovitskiy et al. 2021, sec. 4.1).

    A ResNet-50 whose last two stages are one of nine blocks, then ViT-B.
    """
    return ViT(**BASE | {"patch": 1, "stem": lambda: Stem((3, 4, 9))} | overrides)
