"""DPT: tokens of four ViT layers become four maps, and convolutions fuse them into a value per pixel (Ranftl et al.
2021).

Shape letters: B batch, N patches, C width of a token, H x W an image or a map. Maps are (B, channels, H, W) here.

Differs from the paper: norms of the encoder have eps 1e-6, as in timm and the official code; released files of
transformers say 1e-12. The first fusion block has no second input, so we leave out the residual unit for it, which the
official code holds and never runs; likewise the encoder's last norm, and a second head that helps segmentation train.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..layers.any_size import embed_any_size
from ..layers.fusion import Decoder, DepthHead, LabelHead, Norm
from ..registry import Takes, register
from .vit import BASE, LARGE, Stem, ViT


class Ignore(nn.Module):
    """A readout that forgets the class token (sec. 3.1, eq. 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        return patches


class Add(Ignore):
    """A readout that adds the class token to every patch (eq. 3)."""

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        return patches + token


class Project(nn.Module):
    """A readout that puts the class token beside every patch and maps both back to C numbers (eq. 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU())

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        return self.map(torch.cat([patches, token.expand_as(patches)], -1))


class Reassemble(nn.Module):
    """Tokens (B, 1 + N, C) of a layer to a map (B, channels, H * scale, W * scale) (sec. 3.1, eq. 1)."""

    def __init__(self, dim: int, channels: int, scale: float, readout: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.readout, self.project = readout(dim), nn.Conv2d(dim, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if scale > 1:
            self.resample = nn.ConvTranspose2d(channels, channels, int(scale), int(scale))
        elif scale < 1:
            self.resample = nn.Conv2d(channels, channels, 3, int(1 / scale), 1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = self.readout(tokens[:, 1:], tokens[:, :1])
        return self.resample(self.project(patches.mT.unflatten(-1, grid)))


class DPT(nn.Module):
    """DPT-Base for depth by default.

    Args:
        image: side, or (height, width), that the table of positions is made for.
        taps: blocks, counted from 0, whose tokens are read; for a hybrid, layers of the stem come first.
        stem_taps: layers of a hybrid's stem whose maps are taken as they are.
        dims: channels of the four maps.  strides: pixels of the image in a cell of each.
        fusion: channels of the fused map.  readout: what becomes of the class token.  head: called with `fusion`.
        norm: inside of the fusion blocks.  encoder: what `ViT` takes.

    Raises:
        ValueError: an image whose sides are no multiples of the coarsest stride; maps would not fit each other.
    """

    def __init__(
        self, *, image: int | tuple[int, int] = 384, taps: tuple[int, ...] = (2, 5, 8, 11),
        stem_taps: tuple[int, ...] = (), dims: tuple[int, ...] = (96, 192, 384, 768),
        strides: tuple[int, ...] = (4, 8, 16, 32), fusion: int = 256,
        readout: Callable[[int], nn.Module] = Project, head: Callable[[int], nn.Module] = DepthHead,
        norm: Norm | None = None,
        **encoder: Annotated[Any, Takes(ViT, but=("image", "classes", "prefix"))],
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = ViT(image=image, classes=1, **encoder)
        depth, dim = len(self.encoder.blocks), self.encoder.prefix.shape[-1]
        if len(dims) != len(strides) or len(taps) + len(stem_taps) != len(dims) or not all(t < depth for t in taps):
            raise ValueError(f"taps={taps} and {stem_taps} of {depth} blocks for dims={dims}, strides={strides}")
        del self.encoder.norm, self.encoder.head  # tokens are read before the last norm
        self.taps, self.stem_taps, self.coarsest = taps, stem_taps, strides[-1]
        self.patch = self.encoder.image[0] // self.encoder.grid[0]
        sizes = list(zip(dims, strides, strict=True))[len(stem_taps) :]
        self.reassemble = nn.ModuleList(Reassemble(dim, c, self.patch / s, readout) for c, s in sizes)
        self.decoder, self.head = Decoder(dims, fusion, norm), head(fusion)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to four maps, finest first."""
        height, width = image.shape[-2:]
        if height % self.coarsest or width % self.coarsest:
            raise ValueError(f"the images are {(height, width)}; both sides must be multiples of {self.coarsest}")
        maps, x = [], image
        for i, layer in enumerate(self.encoder.stem or []):
            x = layer(x)
            maps += [x] if i in self.stem_taps else []
        x = embed_any_size(self.encoder, self.encoder.patches(x))
        grid, read = (height // self.patch, width // self.patch), iter(self.reassemble)
        for i, block in enumerate(self.encoder.blocks):
            x = block(x)
            maps += [next(read)(x, grid)] if i in self.taps else []
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what the head makes of the fused map, at the image's size."""
        return self.head(self.decoder(self.maps(image)))


LARGE_SIZES: dict[str, Any] = LARGE | {"taps": (5, 11, 17, 23), "dims": (256, 512, 1024, 1024)}


@register
def dpt_large(**overrides: Any) -> DPT:
    """DPT-Large, on ViT-L/16: 341.8 M parameters; the official 343 M hold idle ones (Ranftl et al. 2021)."""
    return DPT(**LARGE_SIZES | overrides)


@register
def dpt_base(**overrides: Any) -> DPT:
    """DPT-Base, on ViT-B/16: 109.7 M parameters (Ranftl et al. 2021, table 6)."""
    return DPT(**BASE | overrides)


@register
def dpt_hybrid(**overrides: Any) -> DPT:
    """DPT-Hybrid, on ViT-B behind two stages of a ResNet-50: 121.2 M parameters (Ranftl et al. 2021, table 1)."""
    own = {"taps": (8, 11), "stem_taps": (4, 8), "dims": (256, 512, 768, 768), "patch": 1}
    return DPT(**BASE | own | {"stem": lambda: Stem((3, 4, 9))} | overrides)


@register
def dpt_large_ade(**overrides: Any) -> DPT:
    """DPT-Large with 150 labels, for ADE20K: 342.1 M parameters (Ranftl et al. 2021, table 4)."""
    return DPT(**LARGE_SIZES | {"head": LabelHead, "norm": nn.BatchNorm2d} | overrides)
