"""CoAtNet: stages of convolution, then stages of attention that knows offsets (Dai et al. 2021).

Maps are (B, H, W, C). The authors published neither code nor weights: see MBConv for where we and timm deviate.
"""

import math
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from ..attention import attention
from ..layers.blocks import MLP, DropPath, PreNorm, drop_path_rates
from ..layers.convs import ConvNorm, MBConv, pooled
from ..layers.maps import ChannelsFirst
from ..layers.positions import RelativeBias
from ..registry import variant


class Norm(nn.LayerNorm):
    """Over channels, with an epsilon of 1e-6."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)


class RelativeAttention(nn.Module):
    """Attention with a learned number for each head and offset, added to the score (eq. 3, "pre").

    A convolution weighs its surroundings by offset and attention by content; here a score is the sum of both.
    """

    def __init__(self, dim: int, out: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        if out % heads:
            raise ValueError(f"heads={heads} does not divide dim={out}")
        self.heads, self.grid = heads, grid
        self.qkv, self.out, self.bias = nn.Linear(dim, 3 * out), nn.Linear(out, out), RelativeBias(heads, *grid)
        nn.init.trunc_normal_(self.bias.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim) to (B, H, W, out)."""
        if x.shape[1:3] != self.grid:
            raise ValueError(f"{tuple(x.shape[1:3])} tokens, but a bias for {self.grid}: create the model with image=")
        q, k, v = rearrange(self.qkv(x), "b h w (qkv n d) -> qkv b n (h w) d", qkv=3, n=self.heads)
        x = attention(q, k, v, bias=self.bias())
        return self.out(rearrange(x, "b n (h w) d -> b h w (n d)", h=self.grid[0]))


class AttentionBlock(nn.Module):
    """A pre-norm block that may shrink the map: pool(norm(x)) attends, pool(x) is the shortcut."""

    def __init__(self, dim: int, out: int, stride: int, *, heads: int, grid: tuple[int, int], drop_path: float) -> None:
        super().__init__()
        self.norm, self.attn = Norm(dim), RelativeAttention(dim, out, heads, grid)
        self.pool = ChannelsFirst(nn.AvgPool2d(stride)) if stride > 1 else nn.Identity()
        self.shortcut, self.drop_path = ChannelsFirst(pooled(dim, out, stride)), DropPath(drop_path)
        self.mlp = PreNorm(out, MLP(out, 4 * out), norm=Norm, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.shortcut(x) + self.drop_path(self.attn(self.pool(self.norm(x)))))


class CoAtNet(nn.Module):
    """An image classifier. CoAtNet-0 by default.

    Args:
        image: side of the images: attention has a learned number for each offset between two tokens.
        classes: number of classes.  dims, depths: width and blocks of each stage, whose first block halves the sides.
        layout: a letter for each stage: C for convolution (MBConv), T for attention (sec. 2.2).
        stem: channels of the two 3 x 3 convolutions in front, which halve the sides too.  head_dim: width of a head.
        pre_logits: whether a layer with tanh stands before the last one. The paper does not say so, but the counts that
            it prints are right only with it; timm has it too.
        drop_path: probability of skipping the last block, rising from 0.
    """

    def __init__(
        self, *, image: int = 224, classes: int = 1000, dims: tuple[int, ...] = (96, 192, 384, 768),
        depths: tuple[int, ...] = (2, 3, 5, 2), layout: str = "CCTT", stem: int = 64, head_dim: int = 32,
        pre_logits: bool = True, drop_path: float = 0.2, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(layout) or set(layout) - set("CT"):
            raise ValueError(f"{layout=} is not a letter, C or T, for each stage of {dims=} and {depths=}")
        first = ConvNorm(channels, stem, stride=2, act=None)
        self.stem = nn.Sequential(first, nn.GELU(), nn.Conv2d(stem, stem, 3, padding=1, bias=False))
        if image % 2 ** (len(dims) + 1):
            raise ValueError(f"image={image} cannot be halved {len(dims) + 1} times")
        self.stages, side, channels = nn.ModuleList(), image // 2, stem
        for dim, letter, rates in zip(dims, layout, drop_path_rates(drop_path, depths), strict=True):
            side, blocks = side // 2, []
            for i, rate in enumerate(rates):
                size = dim if i else channels, dim, 1 if i else 2
                blocks.append(
                    ChannelsFirst(MBConv(*size, drop_path=rate)) if letter == "C" else
                    AttentionBlock(*size, heads=dim // head_dim, grid=(side, side), drop_path=rate)
                )  # fmt: skip
            self.stages.append(nn.Sequential(*blocks))
            channels = dim
        tanh = [nn.Linear(channels, channels), nn.Tanh()] if pre_logits else []
        self.head = nn.Sequential(Norm(channels), *tanh, nn.Linear(channels, classes))
        self.apply(init)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        maps = [self.stem(image).movedim(1, -1)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes)."""
        return self.head(self.features(image)[-1].mean((1, 2)))


def init(module: nn.Module) -> None:
    """Convolutions by fan-out (He et al. 2015), matrices of Glorot and Bengio (2010), no biases."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


DEEPER: dict[str, Any] = {"depths": (2, 6, 14, 2)}
DEEPEST: dict[str, Any] = {"depths": (2, 12, 28, 2), "stem": 192}

CITED = "parameters (Dai et al. 2021, table 3)."
variant("coatnet_0_224", CoAtNet, f"25.0 M {CITED}")
variant("coatnet_1_224", CoAtNet, f"42.2 M {CITED}", **DEEPER)
variant("coatnet_2_224", CoAtNet, f"74.7 M {CITED}", **DEEPER, dims=(128, 256, 512, 1024), stem=128)
variant("coatnet_3_224", CoAtNet, f"167.0 M {CITED}", **DEEPER, dims=(192, 384, 768, 1536), stem=192)
variant("coatnet_4_224", CoAtNet, f"275.4 M {CITED}", **DEEPEST, dims=(192, 384, 768, 1536))
variant("coatnet_5_224", CoAtNet, f"687.5 M {CITED}", **DEEPEST, dims=(256, 512, 1280, 2048))
