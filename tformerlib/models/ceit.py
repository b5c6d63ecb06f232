"""CeiT: convolution put into three places of ViT, before, inside and after its blocks (Yuan et al. 2021).

Shape letters: B batch, N tokens (the class token and all patches), C width (`dim`), H x W grid of patches.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, PreNorm, drop_path_rates, init_truncated_normal
from ..layers.convs import ConvNorm
from ..layers.maps import PatchEmbed
from ..registry import register


class ImageToTokens(nn.Sequential):
    """Images (B, 3, height, width) to maps (B, H, W, C): convolution, BatchNorm, max-pooling, patches.

    The first two halve the sides, so a patch of `patch` pixels is one of patch / 4 on their map. There is no
    activation, and the convolution has the 64 channels of the official code.
    """

    def __init__(self, dim: int, patch: int) -> None:
        if patch % 4:
            raise ValueError(f"patch={patch} is not a multiple of 4, the stride of the convolution and the pooling")
        embed = PatchEmbed(dim, patch // 4, channels=64, norm=lambda _: nn.Identity())
        super().__init__(ConvNorm(3, 64, 7, stride=2, act=None), nn.MaxPool2d(3, 2, 1), embed)


class LeFF(nn.Module):
    """The locally enhanced feed-forward network: an MLP with a depthwise convolution in its middle.

    Patches (B, N - 1, C) are laid out on their grid. The class token has no place there and passes unchanged; since the
    residual branch adds the result, what is added to it is its own LayerNorm. There is no activation after the last
    BatchNorm.
    """

    def __init__(self, dim: int, hidden: int, grid: tuple[int, int], kernel: int = 3) -> None:
        super().__init__()
        self.grid = grid
        self.expand = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden), nn.GELU())
        depthwise = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.local = nn.Sequential(depthwise, nn.BatchNorm2d(hidden), nn.GELU())
        self.project = nn.Sequential(nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, 1:].mT.unflatten(2, self.grid)
        patches = self.project(self.local(self.expand(patches)))
        return torch.cat([x[:, :1], patches.flatten(2).mT], 1)


class LayerwiseClassAttention(nn.Module):
    """The class token's states after all layers (B, depth, C) to one (B, C): the last asks all of them."""

    def __init__(self, dim: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.layers = nn.Parameter(torch.zeros(1, depth, dim))
        self.norm, self.attn = norm(dim), Attention(dim, heads)
        self.mlp = PreNorm(dim, MLP(dim, hidden), norm=norm)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.layers
        y = self.norm(states)
        return self.mlp(states[:, -1:] + self.attn(y[:, -1:], y)).squeeze(1)


class CeiT(nn.Module):
    """Image classifier. CeiT-T by default.

    Args:
        image: side of the images in pixels.  patch: side of a patch, a multiple of 4.  classes: number of logits.
        dim, depth, heads: width C, blocks, and heads of each.  mlp: hidden width / dim.
        kernel: of the convolution in each block.  dropout: on embeddings and sublayers.
        drop_path: of the last block; it rises linearly from 0.

    Raises:
        ValueError: an image that cannot be cut into whole patches, at construction or later.
    """

    def __init__(
        self, *, image: int = 224, patch: int = 16, classes: int = 1000, dim: int = 192, depth: int = 12,
        heads: int = 3, mlp: float = 4.0, kernel: int = 3, dropout: float = 0.0, drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if image % patch:
            raise ValueError(f"image={image} is not a multiple of patch={patch}")
        self.image, self.grid = image, (image // patch, image // patch)
        hidden, norm = int(mlp * dim), partial(nn.LayerNorm, eps=1e-6)
        self.patches = ImageToTokens(dim, patch)
        self.cls = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads), LeFF(dim, hidden, self.grid, kernel), norm=norm, dropout=dropout,
                  drop_path=rate) for rate in drop_path_rates(drop_path, (depth,))[0]
        )  # fmt: skip
        self.attend_layers = LayerwiseClassAttention(dim, depth, heads, hidden)
        self.norm, self.head = norm(dim), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)
        for tokens in (self.cls, self.positions):
            nn.init.trunc_normal_(tokens, std=0.02)

    def states(self, image: Tensor) -> list[Tensor]:
        """Images (B, 3, height, width) to the tokens (B, N, C) after each block, the class token first."""
        if image.shape[-2:] != (self.image, self.image):
            raise ValueError(f"the images are {tuple(image.shape[-2:])}, the positions for image={self.image}")
        x = self.patches(image).flatten(1, 2)
        x = self.dropout(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions)
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def features(self, image: Tensor) -> list[Tensor]:
        """The patches after the last block as one map (B, H, W, C): a pyramid of a single level."""
        return [self.states(image)[-1][:, 1:].unflatten(1, self.grid)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) to logits (B, classes)."""
        classes = torch.stack([x[:, 0] for x in self.states(image)], 1)
        return self.head(self.norm(self.attend_layers(classes)))


@register
def ceit_tiny(**overrides: Any) -> CeiT:
    """CeiT-T: 6.4 M parameters, 1.4 G multiply-adds (Yuan et al. 2021)."""
    return CeiT(**overrides)


@register
def ceit_small(**overrides: Any) -> CeiT:
    """CeiT-S: 24.2 M parameters, 4.8 G multiply-adds (Yuan et al. 2021)."""
    return CeiT(**{"dim": 384, "heads": 6} | overrides)


@register
def ceit_base(**overrides: Any) -> CeiT:
    """CeiT-B: 94.4 M parameters. In the code of Yuan et al. (2021), not in the paper's tables."""
    return CeiT(**{"dim": 768, "heads": 12} | overrides)
