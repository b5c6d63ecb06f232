"""CXV: a convolution in front of every linear attention, and no positions (Jeevan and Sethi 2022).

Shape letters: B batch, H x W map, C width (`dim`), N tokens of the map, D head width.

All three models are one skeleton at full resolution, every pixel a token; their attentions differ:
CPV random features (Performer), CLTV two softmaxes (linear attention), CNV landmarks (Nystrom attention).

As the official code has it, unlike the usual block: convolution, norm, then x + attention(x) and x + mlp(x), neither
with a norm of its own; nothing between the first two convolutions, so both are one linear map.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..attention.linear import Nystrom, RandomFeatures, linear_attention
from ..layers.blocks import MLP, Attention
from ..layers.maps import ChannelsFirst
from ..registry import register


class CXV(nn.Module):
    """Image classifier for images of any size.

    Args:
        mixer: (dim, heads) -> attention over maps (B, H, W, C).
        dim, depth, heads: width, blocks, heads.  mlp: hidden width / dim.  classes: number of logits.
        dropout: inside the MLPs, and on the output of MLPs and of attention; CLTV's attention has none.
    """

    def __init__(
        self, mixer: Callable[[int, int], nn.Module], *, dim: int = 128, depth: int = 5, heads: int = 4, mlp: int = 2,
        classes: int = 10, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = ChannelsFirst(nn.Conv2d(3, dim // 4, 3, 1, 1), nn.Conv2d(dim // 4, dim // 2, 3, 1, 1))
        self.layers = nn.ModuleList(
            Layer(dim // 2 if i == 0 else dim, dim, mixer(dim, heads), mlp, dropout) for i in range(depth)
        )
        self.head = nn.Linear(dim, classes)

    def features(self, image: Tensor) -> list[Tensor]:
        """The map (B, H, W, C) after each layer, all at the image's resolution."""
        x, maps = self.stem(image.movedim(1, -1)), []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes), read off the mean token."""
        return self.head(self.features(image)[-1].mean((1, 2)))


class Layer(nn.Module):
    """Convolution and norm, then attention and MLP with residual branches: (B, H, W, channels) to (B, H, W, C)."""

    def __init__(self, channels: int, dim: int, mixer: nn.Module, mlp: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.norm = ChannelsFirst(nn.Conv2d(channels, dim, 3, 1, 1)), ChannelNorm(dim)
        self.mixer, self.mlp = mixer, MLP(dim, mlp * dim, dropout=dropout)
        self.mixer_drop = nn.Dropout(0.0 if isinstance(mixer, ConvAttention) else dropout)
        self.mlp_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x = x + self.mixer_drop(self.mixer(x))
        return x + self.mlp_drop(self.mlp(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm that divides by (s.d. + eps) where torch divides by sqrt(variance + eps)."""

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.var(-1, correction=0, keepdim=True).sqrt()
        return (x - x.mean(-1, keepdim=True)) / (deviation + self.eps) * self.weight + self.bias


class MapAttention(Attention):
    """Self-attention among all places of a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.flatten(1, 2)).view_as(x)


class ConvAttention(nn.Module):
    """CLTV's: queries, keys, values and outputs by 3 x 3 convolutions instead of linear layers."""

    def __init__(self, dim: int, heads: int, head_dim: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(dim, heads * head_dim, 3, 1, 1) for _ in range(3))
        self.out, self.heads = nn.Conv2d(heads * head_dim, dim, 3, 1, 1), heads

    def forward(self, x: Tensor) -> Tensor:
        image = x.movedim(-1, 1)
        q, k, v = (conv(image).flatten(2).unflatten(1, (self.heads, -1)).mT for conv in (self.q, self.k, self.v))
        mixed = linear_attention(q, k, v).mT.flatten(1, 2).view(x.shape[0], -1, *x.shape[1:3])
        return self.out(mixed).movedim(1, -1)


@register
def cxv_performer(**overrides: Any) -> CXV:
    """CPV: 1.35 M parameters; the paper says 1.3 M (Jeevan and Sethi 2022)."""
    return CXV(lambda dim, heads: MapAttention(dim, heads, head_dim=32, attend=RandomFeatures()), **overrides)


@register
def cxv_linear(**overrides: Any) -> CXV:
    """CLTV: 3.97 M parameters, most of them in 3 x 3 convolutions (Jeevan and Sethi 2022)."""
    return CXV(ConvAttention, **overrides)


@register
def cxv_nystrom(**overrides: Any) -> CXV:
    """CNV: 1.34 M parameters (Jeevan and Sethi 2022)."""
    mixer = partial(MapAttention, head_dim=32, qkv_bias=False)
    return CXV(lambda dim, heads: mixer(dim, heads, attend=Nystrom(heads)), **overrides)
