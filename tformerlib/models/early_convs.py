"""Early convolutions: ViT whose patch projection is a stack of small convolutions (Xiao et al. 2021).

Shape letters: B batch, C channels, H x W the image, then the grid of tokens.

ViT_P cuts patches, as ViT does; ViT_C puts 3 x 3 convolutions with stride 2 in their place and drops one block, which
pays for them. Nothing else differs, so both are ViT with or without a stem.
"""

import math
from typing import Annotated, Any

from torch import nn

from ..layers.blocks import MLP, Attention
from ..layers.convs import ConvNorm
from ..registry import Takes, register
from .vit import ViT


class ConvStem(nn.Sequential):
    """Images (B, 3, H, W) to maps (B, C, H / stride, W / stride): 3 x 3 convolutions, BatchNorm and ReLU after each.

    The 1 x 1 convolution to the model's width that ends the paper's stem is the patch projection of ViT.

    Args:
        dims: channels after each convolution.  strides: of each, 1 or 2.
        patch: product of the strides. A smaller one than theirs turns the last strides of 2 into 1.

    Raises:
        ValueError: strides for another number of convolutions, or a patch that they cannot make.
    """

    def __init__(self, dims: tuple[int, ...], strides: tuple[int, ...], patch: int) -> None:
        if len(dims) != len(strides):
            raise ValueError(f"dims={dims} and strides={strides} are not of equal length")
        halvings = patch.bit_length() - 1
        if patch != 2**halvings or patch > math.prod(strides) or not set(strides) <= {1, 2}:
            raise ValueError(f"patch={patch} cannot be made of the strides {strides}: a power of 2 up to their product")
        self.channels, self.stride, layers = dims[-1], patch, []
        for channels, dim, stride in zip((3, *dims), dims, strides, strict=False):
            layers.append(ConvNorm(channels, dim, stride=stride if halvings else 1))
            halvings -= stride - 1 if halvings else 0
        super().__init__(*layers)


class EarlyConvViT(ViT):
    """ViT_P, or ViT_C if there are convolutions. ViT_P-1GF by default.

    Args:
        patch: pixels along the side of a token, in both kinds.
        convs: channels of the stem's convolutions; none for patches.  strides: of each.  vit: ViT's other arguments.

    LayerNorms have the 1e-6 of ViT; pycls has it in its configuration.
    """

    def __init__(
        self, *, patch: int = 16, convs: tuple[int, ...] = (), strides: tuple[int, ...] = (2, 2, 2, 2), dim: int = 192,
        heads: int = 3, mlp: float = 3.0, **vit: Annotated[Any, Takes(ViT, but=("stem",))],
    ) -> None:  # fmt: skip
        stem: dict[str, Any] = {"patch": patch}
        if convs:
            stem = {"patch": 1, "stem": lambda: ConvStem(convs, strides, patch)}
        super().__init__(dim=dim, heads=heads, mlp=mlp, **stem | vit)
        self.apply(init)


def init(module: nn.Module) -> None:
    """As the official code: Xavier in MLPs, LeCun in the projection, torch's own defaults for attention.

    The stem has He's variance; the official one differs by a factor, which BatchNorm undoes.
    """
    if isinstance(module, nn.Conv2d):
        gain = 2.0 if module.bias is None else 1.0
        nn.init.trunc_normal_(module.weight, std=math.sqrt(gain / module.weight[0].numel()))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        for projection in (module.q, module.k, module.v):  # Xavier for the three as one matrix
            nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))
        nn.init.kaiming_uniform_(module.out.weight, a=math.sqrt(5))
    elif isinstance(module, MLP):
        for layer in module:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)


GF1: dict[str, Any] = {"dim": 192, "heads": 3}
GF4: dict[str, Any] = {"dim": 384, "heads": 6}
GF18: dict[str, Any] = {"dim": 768, "heads": 12, "mlp": 4.0}
GF36: dict[str, Any] = {"dim": 1024, "heads": 16, "mlp": 4.0}
WIDE: dict[str, Any] = {"convs": (64, 128, 128, 256, 256, 512), "strides": (2, 2, 1, 2, 1, 2)}


@register
def vit_p_1gf(**overrides: Any) -> EarlyConvViT:
    """4.8 M parameters, 1.1 G multiply-adds: ViT-Ti with three heads and narrower MLPs (Xiao et al. 2021)."""
    return EarlyConvViT(**overrides)


@register
def vit_p_4gf(**overrides: Any) -> EarlyConvViT:
    """18.5 M parameters, 3.9 G multiply-adds: ViT-S with narrower MLPs (Xiao et al. 2021)."""
    return EarlyConvViT(**GF4 | overrides)


@register
def vit_p_18gf(**overrides: Any) -> EarlyConvViT:
    """86.6 M parameters, 17.6 G multiply-adds: ViT-B (Xiao et al. 2021)."""
    return EarlyConvViT(**GF18 | overrides)


@register
def vit_p_36gf(**overrides: Any) -> EarlyConvViT:
    """178.4 M parameters, 36.0 G multiply-adds: ViT-L with fewer blocks (Xiao et al. 2021)."""
    return EarlyConvViT(**GF36 | {"depth": 14} | overrides)


@register
def vit_c_1gf(**overrides: Any) -> EarlyConvViT:
    """4.6 M parameters, 1.1 G multiply-adds (Xiao et al. 2021)."""
    return EarlyConvViT(**GF1 | {"convs": (24, 48, 96, 192), "depth": 11} | overrides)


@register
def vit_c_4gf(**overrides: Any) -> EarlyConvViT:
    """17.8 M parameters, 4.0 G multiply-adds (Xiao et al. 2021)."""
    return EarlyConvViT(**GF4 | {"convs": (48, 96, 192, 384), "depth": 11} | overrides)


@register
def vit_c_18gf(**overrides: Any) -> EarlyConvViT:
    """81.6 M parameters, 17.7 G multiply-adds (Xiao et al. 2021)."""
    return EarlyConvViT(**GF18 | WIDE | {"depth": 11} | overrides)


@register
def vit_c_36gf(**overrides: Any) -> EarlyConvViT:
    """167.8 M parameters, 35.0 G multiply-adds (Xiao et al. 2021)."""
    return EarlyConvViT(**GF36 | WIDE | {"depth": 13} | overrides)
