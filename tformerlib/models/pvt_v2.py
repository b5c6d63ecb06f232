"""PVT v2: overlapping patches, no positions, and keys that can be few for images of any size (Wang et al. 2022).

Maps are (B, H, W, C); their tokens in reading order are (B, N, C), N = H * W. Zeros around the image, in the depth-wise
convolution of every MLP, tell border from middle.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..layers.blocks import Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.maps import PatchEmbed
from ..registry import register
from .pvt import ReducedAttention


class PooledAttention(nn.Module):
    """Attention of all tokens to 7 x 7 means of the map, whatever its size: linear in the tokens (sec. 3.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn, self.norm = Attention(dim, heads), nn.LayerNorm(dim)
        self.pool, self.mix, self.act = nn.AdaptiveAvgPool2d(7), nn.Conv2d(dim, dim, 1), nn.GELU()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of a map of `size` (H, W)."""
        means = self.mix(self.pool(x.unflatten(1, size).movedim(-1, 1))).flatten(2).mT
        return self.attn(x, self.act(self.norm(means)))


class ConvMLP(nn.Module):
    """An MLP with a depth-wise 3 x 3 convolution before its activation (sec. 3.3); before it a ReLU, if linear."""

    def __init__(self, dim: int, hidden: int, relu: bool) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.conv, self.act = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of a map of `size` (H, W)."""
        x = self.relu(self.widen(x)).unflatten(1, size).movedim(-1, 1)
        return self.narrow(self.act(self.conv(x)).flatten(2).mT)


class SizedBlock(Block):
    """A block both of whose halves have to know the size of the map."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mlp(self.mixer(x, **kwargs), **kwargs)


class Stage(nn.Module):
    """Overlapping patches, blocks and a norm at one resolution."""

    def __init__(self, embed: PatchEmbed, blocks: list[SizedBlock], norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = embed, nn.ModuleList(blocks), norm

    def forward(self, x: Tensor) -> Tensor:
        """Image or map (B, C, H, W) to a map (B, H, W, C)."""
        x = self.embed(x)
        size, x = x.shape[1:3], x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, size=size)
        return self.norm(x).unflatten(1, size)


class PVTv2(nn.Module):
    """An image classifier for images of any size that the strides divide. PVT v2-B1 by default.

    Args:
        dims, depths, heads, expansions: of each stage the width, blocks, heads, and hidden width over width of MLPs.
        reductions: so many tokens along each side make one key.  linear: keys are 7 x 7 means instead (PVT v2-Li).
        drop_path: probability of skipping the last sublayer; it rises from 0 over the blocks.
    """

    def __init__(
        self, *, classes: int = 1000, dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (2, 2, 2, 2), heads: tuple[int, ...] = (1, 2, 5, 8),
        expansions: tuple[int, ...] = (8, 8, 4, 4), reductions: tuple[int, ...] = (8, 4, 2, 1),
        linear: bool = False, drop_path: float = 0.1, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(dims) == len(depths) == len(heads) == len(expansions) == len(reductions):
            raise ValueError(f"{dims=}, {depths=}, {heads=}, {expansions=}, {reductions=} differ in length")
        norm = partial(nn.LayerNorm, eps=1e-6)  # those inside of embeddings and attention have torch's 1e-5
        self.stages, before = nn.ModuleList(), channels
        for s, rates in enumerate(drop_path_rates(drop_path, depths)):
            dim, patch, stride, blocks = dims[s], 3 if s else 7, 2 if s else 4, []
            for rate in rates:
                mixer = PooledAttention(dim, heads[s]) if linear else ReducedAttention(dim, heads[s], reductions[s])
                mlp = ConvMLP(dim, expansions[s] * dim, relu=linear)
                blocks.append(SizedBlock(dim, mixer, mlp, norm=norm, drop_path=rate))
            embed = PatchEmbed(dim, patch, stride=stride, padding=patch // 2, channels=before)
            self.stages.append(Stage(embed, blocks, norm(dim)))
            before = dim
        self.head = nn.Linear(dims[-1], classes)
        self.apply(init)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, H/4, W/4, C), (B, H/8, W/8, C), ... of all stages: what detectors and segmenters take."""
        maps, x = [], image
        for stage in self.stages:
            maps.append(stage(x))
            x = maps[-1].movedim(-1, 1)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes), read off the mean of the last map."""
        return self.head(self.features(image)[-1].mean((1, 2)))


def init(module: nn.Module) -> None:
    """Linear layers as in PVT; kernels with variance 2 / fan-out, where a group counts for itself; no biases."""
    init_truncated_normal(module)
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


B2: dict[str, Any] = {"depths": (3, 4, 6, 3)}
B3: dict[str, Any] = {"depths": (3, 4, 18, 3), "drop_path": 0.3}
B4: dict[str, Any] = {"depths": (3, 8, 27, 3), "drop_path": 0.3}
B5: dict[str, Any] = {"depths": (3, 6, 40, 3), "expansions": (4, 4, 4, 4), "drop_path": 0.3}


@register
def pvt_v2_b0(**overrides: Any) -> PVTv2:
    """3.7 M parameters, 0.6 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**{"dims": (32, 64, 160, 256)} | overrides)


@register
def pvt_v2_b1(**overrides: Any) -> PVTv2:
    """14.0 M parameters, 2.1 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**overrides)


@register
def pvt_v2_b2(**overrides: Any) -> PVTv2:
    """25.4 M parameters, 4.0 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**B2 | overrides)


@register
def pvt_v2_b2_li(**overrides: Any) -> PVTv2:
    """22.6 M parameters, 3.9 G multiply-adds (Wang et al. 2022): keys are pooled.

    So attention is linear in the tokens.
    """
    return PVTv2(**B2 | {"linear": True} | overrides)


@register
def pvt_v2_b3(**overrides: Any) -> PVTv2:
    """45.2 M parameters, 6.9 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**B3 | overrides)


@register
def pvt_v2_b4(**overrides: Any) -> PVTv2:
    """62.6 M parameters, 10.1 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**B4 | overrides)


@register
def pvt_v2_b5(**overrides: Any) -> PVTv2:
    """82.0 M parameters, 11.7 G multiply-adds (Wang et al. 2022)."""
    return PVTv2(**B5 | overrides)
