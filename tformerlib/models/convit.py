"""ConViT: attention that starts out as a convolution and may leave it, by a gate in each head (d'Ascoli et al. 2021).

Shape letters: B batch, N tokens, C width (`dim`), H x W grid of patches; heads are D wide.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import attention, attention_weights
from ..layers.blocks import MLP, Attention, Block, drop_path_rates, init_truncated_normal
from ..layers.derived import Derived
from ..layers.maps import PatchEmbed
from ..registry import register


class GatedAttention(Derived):
    """Gated positional self-attention, GPSA: a mixture of two softmaxes, of content and of place (sec. 3).

    In each head the weights are (1 - sigmoid(gate)) softmax(q k / sqrt(D)) + sigmoid(gate) softmax(place), where place
    is a linear function of a key's offset (dx, dy) and of dx^2 + dy^2. The second softmax is the same for all images,
    and formed once for a batch; the first is left to `attention`. Each is multiplied with the values: some 5 % more
    multiplications than mixing first, but less memory. (The official code divides by the sum of both, which is 1.)

    Args:
        grid: height and width of the map.
        local: whether to start as a convolution: each head attends to one of sqrt(heads) x sqrt(heads) places around a
            token and copies what is there. Otherwise all weights start at random; the gates are at 0.73 in both.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int], *, local: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        self.heads, self.local = heads, local
        self.qk, self.v = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.out, self.gate = nn.Linear(dim, dim), nn.Parameter(torch.ones(heads))
        self.place = nn.Linear(3, heads)  # its bias does nothing: a softmax does not see it
        self.derive("offsets", partial(offsets, *grid))
        self.offsets: Tensor

    def start_as_convolution(self) -> None:
        """With place weights (2 cx, 2 cy, -1) a head's softmax is largest at the offset (cx, cy)."""
        side = round(self.heads**0.5)
        if side**2 != self.heads:
            raise ValueError(f"heads={self.heads} is not a square number: each head is a place of a square kernel")
        nn.init.eye_(self.v.weight)
        center = (side - 1) / 2 if side % 2 == 0 else side // 2
        head = torch.arange(self.heads)
        x, y = 2 * (head // side - center), 2 * (head % side - center)
        self.place.weight.data = torch.stack([x, y, -torch.ones_like(x)], 1).float()

    def positional(self) -> Tensor:
        """(heads, N, N) weights by place alone: rows are queries and sum to one."""
        return self.place(self.offsets).movedim(-1, 0).softmax(-1)

    def weights(self, x: Tensor) -> Tensor:
        """(B, heads, N, N) weights for tokens (B, N, C), for figures; `record_attention` hears of the content alone."""
        q, k = self.qk(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        content = attention_weights(q, k)
        return torch.lerp(content, self.positional().to(content), self.gate.sigmoid()[:, None, None].to(content))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        v = self.v(x).unflatten(-1, (self.heads, -1))
        content = attention(q, k, v.transpose(1, 2)).transpose(1, 2)
        where = torch.einsum("hnm,bmhd->bnhd", self.positional(), v)
        gate = self.gate.sigmoid()[:, None].to(content)  # autocast leaves it in float32
        return self.out(torch.lerp(content, where.to(content), gate).flatten(2))


def offsets(h: int, w: int) -> Tensor:
    """(N, N, 3): from query n to key m, dx, dy and dx^2 + dy^2, in patches."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    dx, dy = (p.flatten()[None, :] - p.flatten()[:, None] for p in (x, y))
    return torch.stack([dx, dy, dx**2 + dy**2], -1).float()


class ConViT(nn.Module):
    """Image classifier. ConViT-B by default.

    Args:
        image: side of the images.  patch: side of a patch.  classes: number of logits.  heads: of each block.
        dim: width C, 48 for each head if not given.  depth: blocks; all but the last `free` are gated, those attend
            freely, with the class token, which joins the patches there and has no position.
        local: whether gated attention starts as a convolution, or at random.
        drop_path: of the last block; it rises linearly from 0.
    """

    def __init__(
        self, *, image: int = 224, patch: int = 16, classes: int = 1000, heads: int = 16, dim: int | None = None,
        depth: int = 12, free: int = 2, local: bool = True, mlp: float = 4.0, drop_path: float = 0.1, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if image % patch or not 0 < free <= depth:
            raise ValueError(f"{image=} is not a multiple of {patch=}, or {depth=} has no {free=} blocks for the class")
        dim, self.grid, self.gated = dim or 48 * heads, (image // patch, image // patch), depth - free
        self.patches = PatchEmbed(dim, patch, channels=channels, norm=lambda dim: nn.Identity())
        self.positions = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], dim))
        self.cls = nn.Parameter(torch.empty(1, 1, dim))
        gated, norm = partial(GatedAttention, grid=self.grid, local=local), partial(nn.LayerNorm, eps=1e-6)
        kinds = [gated] * self.gated + [partial(Attention, qkv_bias=False)] * free
        self.blocks = nn.ModuleList(
            Block(dim, kind(dim, heads), MLP(dim, int(mlp * dim)), norm=norm, drop_path=rate)
            for kind, rate in zip(kinds, drop_path_rates(drop_path, (depth,))[0], strict=True)
        )
        self.norm, self.head = norm(dim), nn.Linear(dim, classes)
        self.apply(init_truncated_normal)
        for table in (self.positions, self.cls):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, GatedAttention) and module.local:
                module.start_as_convolution()

    def tokens(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to the encoded tokens (B, 1 + N, C), the class token first."""
        x = self.patches(image)
        if x.shape[1:3] != self.grid:
            raise ValueError(f"{tuple(x.shape[1:3])} patches, but positions for {self.grid}: create it with image=")
        x = x.flatten(1, 2) + self.positions
        for i, block in enumerate(self.blocks):
            if i == self.gated:
                x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
            x = block(x)
        return self.norm(x)

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoded patches as one map (B, H, W, C): a pyramid of a single level."""
        return [self.tokens(image)[:, 1:].unflatten(1, self.grid)]

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, channels, H, W) to logits (B, classes), read off the class token."""
        return self.head(self.tokens(image)[:, 0])


@register
def convit_tiny(**overrides: Any) -> ConViT:
    """5.7 M parameters, 1.3 G multiply-adds (d'Ascoli et al. 2021, table 1)."""
    return ConViT(**{"heads": 4} | overrides)


@register
def convit_small(**overrides: Any) -> ConViT:
    """27.8 M parameters, 5.8 G multiply-adds (d'Ascoli et al. 2021, table 1)."""
    return ConViT(**{"heads": 9} | overrides)


@register
def convit_base(**overrides: Any) -> ConViT:
    """86.5 M parameters, 17.5 G multiply-adds (d'Ascoli et al. 2021, table 1)."""
    return ConViT(**overrides)
