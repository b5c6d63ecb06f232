"""SqueezeBERT: BERT whose matrices are cut into groups, for speed on a phone (Iandola et al. 2020).

Shape letters: B batch, N tokens, C width (`dim`), G groups, V vocabulary, K places that are asked for.

The paper writes its layers as convolutions of width 1 over (B, C, N). Such a layer is a product of each token with a
matrix, and with G groups a matrix that is zero outside G blocks. We keep tokens as rows and multiply the blocks. The
activation is the exact GELU, as in the authors' code; BERT's is the tanh approximation.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import attention
from ..layers.blocks import Block, PostNorm, init_truncated_normal
from ..registry import register
from .bert import Embedding, MaskedHead

LayerNorm = partial(nn.LayerNorm, eps=1e-12)


class SqueezeBERT(nn.Module):
    """Logits of the tokens at masked places. Arguments as BERT's, and `groups`: of the queries, keys, values and the
    feed-forward network. The layer after attention has one group, and is the only one to mix all channels.

    Raises:
        ValueError: groups or heads that do not divide dim, or groups that do not divide hidden.
    """

    def __init__(
        self, *, vocab: int = 30522, segments: int = 2, dim: int = 768, depth: int = 12, heads: int = 12,
        hidden: int = 3072, groups: int = 4, context: int = 512, dropout: float = 0.1, pad: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocab, self.dim, self.groups, self.pad = vocab, dim, groups, pad
        self.embed = Embedding(vocab, segments, dim, context, dropout)
        self.blocks = nn.ModuleList(
            Block(dim, GroupedAttention(dim, heads, groups, dropout), GroupedMLP(dim, hidden, groups),
                  residual=PostNorm, norm=LayerNorm, dropout=dropout) for _ in range(depth)
        )  # fmt: skip
        self.pooler = nn.Linear(dim, dim)
        self.masked = MaskedHead(self.embed.tokens, nn.GELU())
        self.apply(init_truncated_normal)

    def encode(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """Ids (B, N), padded at the end, and their segments (B, N), all 0 by default, to vectors (B, N, C)."""
        x, mask = self.embed(ids, segments), (ids != self.pad)[:, None, None]
        for block in self.blocks:
            x = block(x, mask=mask)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """The first token's vector, through one more layer, for tasks about the whole: (B, N, C) to (B, C)."""
        return self.pooler(x[:, 0]).tanh()

    def forward(self, ids: Tensor, segments: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Ids and segments (B, N) to token logits (B, N, V), or (K, V) at `places` (K,) of the B * N tokens."""
        x = self.encode(ids, segments)
        return self.masked(x if places is None else x.flatten(0, 1)[places])


class Grouped(nn.Module):
    """G matrices side by side, each for its own slice of the channels: (G, B * N, C / G) to (G, B * N, out / G)."""

    def __init__(self, dim: int, out: int, groups: int) -> None:
        super().__init__()
        if dim % groups or out % groups:
            raise ValueError(f"groups={groups} do not divide the widths {dim} and {out}")
        self.weight = nn.Parameter(torch.empty(groups, dim // groups, out // groups))
        self.bias = nn.Parameter(torch.zeros(groups, 1, out // groups))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, slices: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, slices, self.weight)


def cut(x: Tensor, groups: int) -> Tensor:
    """(B, N, C) to the channels' slices (G, B * N, C / G)."""
    return x.flatten(0, 1).unflatten(-1, (groups, -1)).transpose(0, 1)


def join(slices: Tensor, batch: int) -> Tensor:
    """Slices (G, B * N, C / G) back to (B, N, C)."""
    return slices.transpose(0, 1).reshape(batch, -1, slices.shape[0] * slices.shape[2])


class GroupedAttention(nn.Module):
    """Multi-head attention over (B, N, C) whose queries, keys and values come from slices of the channels (fig. 1)."""

    def __init__(self, dim: int, heads: int, groups: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        self.heads, self.groups, self.dropout = heads, groups, dropout
        self.q, self.k, self.v = (Grouped(dim, dim, groups) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        slices = cut(x, self.groups)
        q, k, v = (
            join(layer(slices), x.shape[0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = attention(q, k, v, mask=mask, dropout=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(-2))


class GroupedMLP(nn.Module):
    """G feed-forward networks side by side: with equal groups in both layers, no slice ever hears of another."""

    def __init__(self, dim: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.layers = nn.Sequential(Grouped(dim, hidden, groups), nn.GELU(), Grouped(hidden, dim, groups))

    def forward(self, x: Tensor) -> Tensor:
        return join(self.layers(cut(x, self.groups)), x.shape[0])


@register
def squeezebert(**overrides: Any) -> SqueezeBERT:
    """51.7 M parameters with the masked head, 51.1 M without (Iandola et al. 2020)."""
    return SqueezeBERT(**overrides)
