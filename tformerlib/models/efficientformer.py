"""EfficientFormer: pooling mixes tokens while maps are large, attention where they are small (Li et al. 2022).

Maps are (B, H, W, C). Local blocks are convolutions, BatchNorm and pooling alone, so that a compiler can fold each norm
into the convolution before it; global blocks are a Transformer's. No map changes its form twice.
The paper searches the sizes of a larger network for the fastest; the three that it found are registered.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..attention import attention
from ..layers.blocks import MLP, Block, drop_path_rates, init_truncated_normal
from ..layers.derived import Derived
from ..layers.maps import ChannelsFirst
from ..registry import register


class Pool(nn.Module):
    """The mean of the 3 x 3 around each place of an image (B, C, H, W), minus what stands there: no weights at all."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x


class OffsetAttention(Derived):
    """Attention among all tokens of a map of side x side, with a number for each head and absolute offset (|dy|, |dx|).

    Queries and keys are narrow (key_dim), values wide (value_dim). Left and right are one offset, unlike in Swin.

    Raises:
        ValueError: a map of another side.
    """

    def __init__(self, dim: int, side: int, *, heads: int = 8, key_dim: int = 32, value_dim: int = 128) -> None:
        super().__init__()
        self.heads, self.side, self.widths = heads, side, [key_dim, key_dim, value_dim]
        self.qkv, self.out = nn.Linear(dim, heads * sum(self.widths)), nn.Linear(heads * value_dim, dim)
        self.table = nn.Parameter(torch.zeros(heads, side * side))
        self.derive("index", lambda: absolute_offsets(side))
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:3] != (self.side, self.side):
            raise ValueError(f"a map of {tuple(x.shape[1:3])} tokens, offsets for {(self.side, self.side)}")
        q, k, v = self.qkv(x.flatten(1, 2)).unflatten(-1, (self.heads, -1)).transpose(1, 2).split(self.widths, -1)
        bias = self.table[:, self.index.flatten()].unflatten(1, self.index.shape)
        y = attention(q, k, v, bias=bias)
        return self.out(y.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])


def absolute_offsets(side: int) -> Tensor:
    """(N, N) for the tokens of a side x side map: |dy| * side + |dx|, the column of the table."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    dy, dx = (place[:, None] - place).abs().unbind(-1)
    return dy * side + dx


def conv(channels: int, out: int, kernel: int, stride: int = 1, act: type[nn.Module] | None = None) -> list[nn.Module]:
    """Convolution with a bias, BatchNorm, activation: at inference the first two are one."""
    layers = [nn.Conv2d(channels, out, kernel, stride, kernel // 2), nn.BatchNorm2d(out)]
    return [*layers, *([act()] if act else [])]


def local_block(dim: int, **branch: Any) -> Block:
    """Pooling, then a network of two 1 x 1 convolutions; norms stand behind the convolutions and nowhere else."""
    mlp = ChannelsFirst(*conv(dim, 4 * dim, 1, act=nn.GELU), *conv(4 * dim, dim, 1))
    return Block(dim, ChannelsFirst(Pool()), mlp, norm=lambda dim: nn.Identity(), **branch)


class EfficientFormer(nn.Module):
    """An image classifier with a head for labels and one for a teacher's. EfficientFormer-L1 by default.

    In training it returns what both heads say; in eval mode the mean of their logits.

    Args:
        image: side of the images; those of another size have no table of offsets where blocks are global.
        dims, depths: width and blocks of each stage.  global_blocks: how many of the last blocks attend. The paper's
            are all in the last stage; more than that stage has reach into those before it.
        layer_scale: initial value of the factor of each channel of each branch.
        drop_path: probability of skipping the last sublayer, rising from 0.

    Raises:
        ValueError: more global blocks than there are, or an image that the stages cannot halve evenly.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1000, dims: tuple[int, ...] = (48, 96, 224, 448),
        depths: tuple[int, ...] = (3, 2, 6, 4), global_blocks: int = 1, layer_scale: float = 1e-5,
        drop_path: float = 0.0, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        smallest = 2 ** (len(depths) + 1)
        if not 0 <= global_blocks <= sum(depths) or len(dims) != len(depths):
            raise ValueError(f"global_blocks={global_blocks} is not in 0 .. {sum(depths)}, or {dims=} do not fit")
        if image % smallest:
            raise ValueError(f"image={image} is not a multiple of {smallest}")
        stem = [*conv(channels, dims[0] // 2, 3, 2, nn.ReLU), *conv(dims[0] // 2, dims[0], 3, 2, nn.ReLU)]
        self.embed, self.stages = nn.ModuleList([nn.Sequential(*stem)]), nn.ModuleList()
        left = sum(depths)
        for s, (dim, rates) in enumerate(zip(dims, drop_path_rates(drop_path, depths), strict=True)):
            if s:
                self.embed.append(nn.Sequential(*conv(dims[s - 1], dim, 3, 2)))
            blocks: list[nn.Module] = []
            for rate in rates:
                branch: dict[str, Any] = {"layer_scale": layer_scale, "drop_path": rate}
                attends = left <= global_blocks
                mixer = OffsetAttention(dim, image // 4 // 2**s) if attends else None
                blocks.append(Block(dim, mixer, MLP(dim, 4 * dim), **branch) if mixer else local_block(dim, **branch))
                left -= 1
            self.stages.append(nn.Sequential(*blocks))
        self.norm, self.head, self.teacher_head = nn.LayerNorm(dim), nn.Linear(dim, classes), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        maps = []
        for embed, stage in zip(self.embed, self.stages, strict=True):
            maps.append(stage(embed(image).movedim(1, -1)))
            image = maps[-1].movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Any:
        """Images (B, channels, H, W) to both heads' logits in training, to their mean (B, classes) in eval mode."""
        x = self.norm(self.features(image)[-1]).mean((1, 2))
        label, teacher = self.head(x), self.teacher_head(x)
        return (label, teacher) if self.training else (label + teacher) / 2


L3: dict[str, Any] = {"dims": (64, 128, 320, 512), "depths": (4, 4, 12, 6), "global_blocks": 4}
L7: dict[str, Any] = {"dims": (96, 192, 384, 768), "depths": (6, 6, 18, 8), "global_blocks": 8}


@register
def efficientformer_l1(**overrides: Any) -> EfficientFormer:
    """12.3 M parameters, 1.3 G multiply-adds (Li et al. 2022, table 1)."""
    return EfficientFormer(**overrides)


@register
def efficientformer_l3(**overrides: Any) -> EfficientFormer:
    """31.4 M parameters, 3.9 G multiply-adds (Li et al. 2022, table 1)."""
    return EfficientFormer(**L3 | overrides)


@register
def efficientformer_l7(**overrides: Any) -> EfficientFormer:
    """82.2 M parameters, 10.1 G multiply-adds (Li et al. 2022, table 1)."""
    return EfficientFormer(**L7 | overrides)
