"""Segmenter: class tokens join the patches of a ViT, and masks are their scalar products (Strudel et al. 2021).

Shape letters: B batch, N patches, C width, K classes, H x W an image.

Differs from the paper: norms of the encoder have eps 1e-6, as the ViTs it starts from, where the official code says
1e-5; the encoder has no head of 1000 classes, which the official one keeps, counts and never runs.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.any_size import embed_any_size
from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..registry import Takes, register
from .vit import LARGE, ViT


class LinearHead(nn.Linear):
    """Each patch (B, N, C) to its classes (B, N, K) by itself (sec. 3.2)."""

    def __init__(self, dim: int, classes: int, heads: int) -> None:
        super().__init__(dim, classes)


class MaskHead(nn.Module):
    """Patches (B, N, C) to scores (B, N, K): their cosines with K class tokens that saw the image (sec. 3.2, fig. 2).

    Args:
        dim, classes, heads: C, K and heads of attention.  depth: blocks in which patches and classes see each other.
        dropout: on weights of attention, on hidden units and on sublayers' outputs.  drop_path: of the last block.
    """

    def __init__(
        self, dim: int, classes: int, heads: int, *, depth: int = 2, dropout: float = 0.1, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.classes = nn.Parameter(torch.empty(1, classes, dim))
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, dropout=dropout), MLP(dim, 4 * dim, dropout=dropout), dropout=dropout,
                  drop_path=rate) for rate in drop_path_rates(drop_path, (depth,))[0]
        )  # fmt: skip
        self.norm, self.mask_norm = nn.LayerNorm(dim), nn.LayerNorm(classes)
        self.of_patches = nn.Parameter(dim**-0.5 * torch.randn(dim, dim))
        self.of_classes = nn.Parameter(dim**-0.5 * torch.randn(dim, dim))
        nn.init.trunc_normal_(self.classes, std=0.02)

    def join(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, N, C) and classes (B, K, C) after the blocks, both of length 1: patches first, then classes."""
        count = patches.shape[1]
        x = torch.cat([self.project(patches), self.classes.expand(len(patches), -1, -1)], 1)  # (B, N + K, C)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return F.normalize(x[:, :count] @ self.of_patches, dim=-1), F.normalize(x[:, count:] @ self.of_classes, dim=-1)

    def forward(self, patches: Tensor) -> Tensor:
        patches, classes = self.join(patches)
        return self.mask_norm(patches @ classes.mT)  # over the classes of a patch: cosines alone are too even


class Segmenter(nn.Module):
    """Seg-B-Mask/16 for 150 classes by default.

    Args:
        image: side, or (height, width), that the table of positions is made for.
        classes: labels K.  dim, heads: width C and heads, of encoder and decoder.
        decoder: called with the width, K and heads; `MaskHead`, `LinearHead`, or a partial of one.
        encoder: what `ViT` takes; images of other sizes than `image` are padded to whole patches.
    """

    def __init__(
        self, *, image: int | tuple[int, int] = 512, classes: int = 150, dim: int = 768, heads: int = 12,
        decoder: Callable[[int, int, int], nn.Module] = MaskHead,
        **encoder: Annotated[Any, Takes(ViT, but=("image", "classes", "dim", "heads", "stem"))],
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = ViT(image=image, classes=1, dim=dim, heads=heads, **encoder)
        del self.encoder.head  # nothing is read off the class token
        self.decoder = decoder(dim, classes, heads)
        self.decoder.apply(init_truncated_normal)
        self.patch = self.encoder.image[0] // self.encoder.grid[0]

    def tokens(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, H, W) to encoded patches (B, N, C), without the class token, and the grid that they are of."""
        missing = [-side % self.patch for side in image.shape[-2:]]
        patches = self.encoder.patches(F.pad(image, (0, missing[1], 0, missing[0])))
        x = embed_any_size(self.encoder, patches)
        for block in self.encoder.blocks:
            x = block(x)
        return self.encoder.norm(x)[:, self.encoder.prefix.shape[1] :], (patches.shape[1], patches.shape[2])

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K, H, W); scores of patches are stretched bilinearly to pixels."""
        patches, grid = self.tokens(image)
        scores = self.decoder(patches).mT.unflatten(-1, grid)  # (B, K, rows, columns)
        padded = F.interpolate(scores, scale_factor=self.patch, mode="bilinear")
        return padded[..., : image.shape[-2], : image.shape[-1]]


TINY: dict[str, Any] = {"dim": 192, "heads": 3}
SMALL: dict[str, Any] = {"dim": 384, "heads": 6}


@register
def segmenter_tiny_mask(**overrides: Any) -> Segmenter:
    """Seg-T-Mask/16: 6.7 M parameters; the paper says 7 M (Strudel et al. 2021, table 3)."""
    return Segmenter(**TINY | overrides)


@register
def segmenter_small_mask(**overrides: Any) -> Segmenter:
    """Seg-S-Mask/16: 26.0 M parameters; the paper says 27 M (Strudel et al. 2021, table 3)."""
    return Segmenter(**SMALL | overrides)


@register
def segmenter_base_mask(**overrides: Any) -> Segmenter:
    """Seg-B-Mask/16: 102.5 M parameters; the paper says 106 M (Strudel et al. 2021, table 3)."""
    return Segmenter(**overrides)


@register
def segmenter_base_linear(**overrides: Any) -> Segmenter:
    """Seg-B/16: 86.5 M parameters, a linear head (Strudel et al. 2021, table 6)."""
    return Segmenter(**{"decoder": LinearHead} | overrides)


@register
def segmenter_large_mask(**overrides: Any) -> Segmenter:
    """Seg-L-Mask/16 at 640 pixels: 333.2 M parameters; the paper says 334 M (Strudel et al. 2021, table 3)."""
    return Segmenter(**LARGE | {"image": 640} | overrides)
