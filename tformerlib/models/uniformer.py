"""UniFormer: one form of block, whose mixing is local in early stages and global in late ones (Li et al. 2023)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, PreNorm, drop_path_rates, init_truncated_normal
from ..layers.convs import AddDepthwise, depthwise
from ..layers.maps import ChannelsFirst, PatchEmbed
from ..registry import register


class BatchNorm(ChannelsFirst):
    """BatchNorm of a map (B, H, W, C), in the place of the LayerNorm that global blocks have."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.BatchNorm2d(dim))


class LocalMixer(ChannelsFirst):
    """Each token takes from the 5 x 5 around it, by learned weights of the offset: 1 x 1, 5 x 5 depthwise, 1 x 1.

    The paper writes it as attention whose weights depend on the offset alone: a convolution.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, dim, 1), depthwise(dim, 5), nn.Conv2d(dim, dim, 1))


class GlobalMixer(nn.Module):
    """Attention among all tokens of a map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x.flatten(1, 2)).view_as(x)


class Block(nn.Module):
    """Position (a depthwise convolution), mixer, feed-forward network, each added to what it reads (fig. 3)."""

    def __init__(self, dim: int, mixer: nn.Module, hidden: int, **branch: Any) -> None:
        super().__init__()
        self.position = AddDepthwise(dim)
        self.mixer, self.mlp = PreNorm(dim, mixer, **branch), PreNorm(dim, MLP(dim, hidden), **branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.mixer(self.position(x)))


class OverlappingEmbed(nn.Sequential):
    """In the place of patches: 3 x 3 convolutions with stride 2 and BatchNorm, GELU between them. To (B, H, W, dim)."""

    def __init__(self, channels: int, *dims: int) -> None:
        layers: list[nn.Module] = []
        for dim in dims:
            layers += [nn.Conv2d(channels, dim, 3, 2, 1), nn.BatchNorm2d(dim), nn.GELU()]
            channels = dim
        super().__init__(*layers[:-1])

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).movedim(1, -1)


class UniFormer(nn.Module):
    """An image classifier for images of any size. UniFormer-S by default.

    Args:
        classes: number of classes.  dims, depths: width and blocks of each stage.  head_dim: width of a head.
        layout: a letter for each stage: L mixes locally, G globally (the paper compares LLLL to GGGG).
        expansion: hidden width of the feed-forward networks over the width.
        overlap: whether patches overlap, as in the models with a plus.  patch: side of the first patches, in pixels.
        layer_scale: initial value of a factor for each channel of a global block's branches; none if None.
        drop_path: probability of skipping the last sublayer, rising from 0.
    """

    def __init__(
        self, *, classes: int = 1000, dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 8, 3), head_dim: int = 64, layout: str = "LLGG", expansion: int = 4,
        overlap: bool = False, patch: int = 4, layer_scale: float | None = None, drop_path: float = 0.1,
        channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(layout) or set(layout) - set("LG"):
            raise ValueError(f"{layout=} is not a letter, L or G, for each stage of {dims=} and {depths=}")
        if overlap and patch != 4:
            raise ValueError(f"patch={patch}: overlapping convolutions divide the sides by 4")
        self.embed, self.stages = nn.ModuleList(), nn.ModuleList()
        spread: dict[str, Any] = {"norm": partial(nn.LayerNorm, eps=1e-6), "layer_scale": layer_scale}
        for dim, letter, rates in zip(dims, layout, drop_path_rates(drop_path, depths), strict=True):
            step, half = (2, ()) if self.stages else (patch, (dim // 2,))
            overlapping = OverlappingEmbed(channels, *half, dim) if overlap else None
            self.embed.append(overlapping or PatchEmbed(dim, step, channels=channels))
            self.stages.append(nn.Sequential(*[
                Block(dim, LocalMixer(dim), expansion * dim, drop_path=rate, norm=BatchNorm) if letter == "L" else
                Block(dim, GlobalMixer(dim, dim // head_dim), expansion * dim, drop_path=rate, **spread)
                for rate in rates
            ]))  # fmt: skip
            channels = dim
        self.norm, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, classes)
        self.apply(init_truncated_normal)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        maps, x = [], image
        for embed, stage in zip(self.embed, self.stages, strict=True):
            maps.append(stage(embed(x)))
            x = maps[-1].movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.norm(self.features(image)[-1].movedim(-1, 1)).mean((-2, -1)))


PLUS: dict[str, Any] = {"depths": (3, 5, 9, 3), "overlap": True}
BASE: dict[str, Any] = {"depths": (5, 8, 20, 7), "drop_path": 0.3}


@register
def uniformer_small(**overrides: Any) -> UniFormer:
    """21.5 M parameters, 3.6 G multiply-adds (Li et al. 2023; weights of the official repository)."""
    return UniFormer(**overrides)


@register
def uniformer_small_plus_dim64(**overrides: Any) -> UniFormer:
    """24.0 M parameters: patches overlap (Li et al. 2023; weights of the official repository)."""
    return UniFormer(**PLUS | overrides)


@register
def uniformer_small_plus(**overrides: Any) -> UniFormer:
    """24.0 M parameters, 4.2 G multiply-adds: patches overlap, and heads are half as wide (Li et al. 2023)."""
    return uniformer_small_plus_dim64(**{"head_dim": 32} | overrides)


@register
def uniformer_base(**overrides: Any) -> UniFormer:
    """49.8 M parameters, 8.3 G multiply-adds (Li et al. 2023; weights of the official repository)."""
    return UniFormer(**BASE | overrides)


@register
def uniformer_base_ls(**overrides: Any) -> UniFormer:
    """49.8 M parameters: UniFormer-B with a learned factor for each channel, 1e-6 at first, in global blocks.

    In the official repository of Li et al. (2023), not in the paper's tables.
    """
    return uniformer_base(**{"layer_scale": 1e-6} | overrides)
