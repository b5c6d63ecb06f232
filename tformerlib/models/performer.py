"""Performer: a Transformer whose attention is estimated, in time linear in the length (Choromanski et al. 2021).

Shape letters: B batch, N tokens, C width (`dim`), V vocabulary.

Everything but attention is as in an ordinary Transformer with norms at the start of each branch. The paper trains both
kinds, those that see all tokens (B) and those that see the past (U).
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.favor import FAVOR, orthogonal_directions, positive, relu
from ..layers.blocks import MLP, Attention, Block, init_truncated_normal, look_up
from ..registry import register


class Performer(nn.Module):
    """Logits of tokens, from all of a sequence or from what came before.

    Args:
        vocab: number of ids.  dim, depth, heads, hidden: d, n_layers, n_heads and d_ff of sec. 4.1.
        context: the longest sequence, in tokens.  dropout: on embeddings and branches; there are no weights to drop.
        causal: a token sees itself and what came before it.
        pad: the id after the end of short rows, which nothing attends to; None if there is none.
        features, kernel, draw, redraw: as of `FAVOR`.
        attend: makes what attends in each layer, in the place of FAVOR; None is softmax attention.
    """

    def __init__(
        self, *, vocab: int = 256, dim: int = 512, depth: int = 6, heads: int = 8, hidden: int = 2048,
        context: int = 4096, dropout: float = 0.1, causal: bool = False, pad: int | None = None, features: int = 256,
        kernel: Callable[..., tuple[Tensor, Tensor]] = positive,
        draw: Callable[[int, int], Tensor] = orthogonal_directions, redraw: int = 1000,
        attend: Callable[[], Callable[..., Tensor]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        make = attend or (lambda: FAVOR(dim // heads, features, kernel=kernel, draw=draw, redraw=redraw))
        self.vocab, self.pad, self.dropout = vocab, pad, dropout
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, causal=causal, attend=make()), MLP(dim, hidden), dropout=dropout)
            for _ in range(depth)
        )
        self.norm, self.output = nn.LayerNorm(dim), nn.Linear(dim, vocab)
        self.apply(init_truncated_normal)

    def features(self, ids: Tensor) -> Tensor:
        """Ids (B, N) to vectors (B, N, C)."""
        length, context = ids.shape[1], self.positions.num_embeddings
        if length > context:
            raise ValueError(f"{length} tokens do not fit the model's context={context}")
        x = F.dropout(look_up(self.tokens, ids) + self.positions.weight[:length], self.dropout, self.training)
        mask = None if self.pad is None else (ids != self.pad)[:, None, None]
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, N) to logits (B, N, V)."""
        return self.output(self.features(ids))


@register
def performer_base(**overrides: Any) -> Performer:
    """21.3 M parameters, of them 2.1 M positions: the default size (Choromanski et al. 2021, sec. 4.1)."""
    return Performer(**overrides)


@register
def performer_relu(**overrides: Any) -> Performer:
    """21.3 M parameters, with the ReLU kernel: Performer-ReLU (Choromanski et al. 2021, sec. 4.4)."""
    return Performer(**{"kernel": relu} | overrides)


@register
def performer_protein(**overrides: Any) -> Performer:
    """76.3 M parameters in 36 layers, for proteins (Choromanski et al. 2021, sec. 4.4)."""
    return Performer(**{"vocab": 32, "depth": 36, "hidden": 1024, "context": 1024} | overrides)
