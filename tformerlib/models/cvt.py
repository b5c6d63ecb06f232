"""CvT: queries, keys and values are made by convolutions, and nothing else says where a token stands (Wu et al. 2021).

Maps are (B, H, W, C); their tokens in reading order are (B, N, C), the class token of the last stage first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.convs import ConvNorm
from ..layers.maps import ChannelsFirst, PatchEmbed
from ..registry import register


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), nearly GELU. The released models were trained with it, which the paper does not say."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class ConvAttention(nn.Module):
    """Attention whose inputs are convolutions of the map, each channel by itself (sec. 3.2, fig. 3).

    Scores are divided by the root of C, not of a head's width, as in the official code: softer than elsewhere.

    Args:
        stride: of the convolutions for keys and values, which makes them stride^2 times fewer.
    """

    def __init__(self, dim: int, heads: int, stride: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, scale=dim**-0.5)
        self.q, self.k, self.v = (
            ChannelsFirst(ConvNorm(dim, dim, stride=s, groups=dim, act=None)) for s in (1, stride, stride)
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of a map of `size` (H, W). A class token before them passes by the convolutions."""
        first, x = x.split([x.shape[1] - size[0] * size[1], size[0] * size[1]], 1)
        x = x.unflatten(1, size)
        q, k, v = (torch.cat([first, conv(x).flatten(1, 2)], 1) for conv in (self.q, self.k, self.v))
        return self.attn(q, k, v)


class CvT(nn.Module):
    """An image classifier for images of any size. CvT-13 by default.

    Args:
        classes: number of classes.  dims, depths, heads: width, blocks and heads of each stage.
        stride: of the convolutions that make keys and values.  drop_path: of the last block; it rises from 0 over the
            last stage, in the others it is 0.
        act: between the layers of the MLPs; transformers' CvT has nn.GELU there.
        patches, strides, paddings: of the convolutions that begin the stages; patches overlap.
        positions: side of the images if the tokens of the first stage shall get learned positions too, which the paper
            tries and finds useless (sec. 4.4); such a model takes images of this size alone.
    """

    def __init__(
        self, *, classes: int = 1000, dims: tuple[int, ...] = (64, 192, 384), depths: tuple[int, ...] = (1, 2, 10),
        heads: tuple[int, ...] = (1, 3, 6), stride: int = 2, drop_path: float = 0.1,
        act: Callable[[], nn.Module] = QuickGELU, patches: tuple[int, ...] = (7, 3, 3),
        strides: tuple[int, ...] = (4, 2, 2), paddings: tuple[int, ...] = (2, 1, 1), channels: int = 3,
        positions: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(heads) == len(patches) == len(strides) == len(paddings):
            raise ValueError(f"{dims=}, {depths=}, {heads=}, {patches=}, {strides=}, {paddings=} differ in length")
        self.embed, self.stages = nn.ModuleList(), nn.ModuleList()
        for s, dim in enumerate(dims):
            rates = drop_path_rates(drop_path if s == len(dims) - 1 else 0.0, (depths[s],))[0]
            self.embed.append(PatchEmbed(dim, patches[s], stride=strides[s], padding=paddings[s], channels=channels))
            self.stages.append(nn.ModuleList(
                Block(dim, ConvAttention(dim, heads[s], stride), MLP(dim, 4 * dim, act), drop_path=rate)
                for rate in rates
            ))  # fmt: skip
            channels = dim
        self.cls = nn.Parameter(torch.zeros(1, 1, channels))
        side = (positions + 2 * paddings[0] - patches[0]) // strides[0] + 1 if positions else 0
        self.positions = nn.Parameter(torch.zeros(1, side, side, dims[0])) if positions else None
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, classes)
        self.apply(init_truncated_normal)
        for table in (self.cls, *([] if self.positions is None else [self.positions])):
            nn.init.trunc_normal_(table, std=0.02)

    def pyramid(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of all stages, and the class token's vector (B, C)."""
        maps, x = [], image
        for s, (embed, blocks) in enumerate(zip(self.embed, self.stages, strict=True)):
            x = embed(x)
            size, first = x.shape[1:3], 0
            if s == 0 and self.positions is not None:
                if size != self.positions.shape[1:3]:
                    raise ValueError(f"{tuple(size)} tokens, but positions for {tuple(self.positions.shape[1:3])}")
                x = x + self.positions
            x = x.flatten(1, 2)
            if s == len(self.stages) - 1:
                x, first = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1), 1
            for block in blocks.children():
                x = block(x, size=size)
            maps.append(x[:, first:].unflatten(1, size))
            x, token = maps[-1].movedim(-1, 1), x[:, 0]
        return maps, token

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C) and (B, H/16, W/16, C): what detectors and segmenters take."""
        return self.pyramid(image)[0]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes), read off the class token."""
        return self.head(self.norm(self.pyramid(image)[1]))


W24: dict[str, Any] = {"dims": (192, 768, 1024), "depths": (2, 2, 20), "heads": (3, 12, 16), "drop_path": 0.3}


@register
def cvt_13(**overrides: Any) -> CvT:
    """20.0 M parameters, 4.6 G multiply-adds at 224 x 224 (Wu et al. 2021, table 2)."""
    return CvT(**overrides)


@register
def cvt_21(**overrides: Any) -> CvT:
    """31.6 M parameters, 7.2 G multiply-adds at 224 x 224 (Wu et al. 2021, table 2)."""
    return CvT(**{"depths": (1, 4, 16)} | overrides)


@register
def cvt_w24(**overrides: Any) -> CvT:
    """277.2 M parameters, 194.2 G multiply-adds at 384 x 384 (Wu et al. 2021, table 2)."""
    return CvT(**W24 | overrides)
