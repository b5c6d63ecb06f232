"""BERT: a Transformer's encoder that fills in what was masked, from both sides (Devlin et al. 2019).

Shape letters: B batch, N tokens, C width (`dim`), V vocabulary, K places that are asked for.

The paper calls its activation GELU; the official code computes the tanh approximation, and so do we. Norms sit after
each branch, as in the Transformer of 2017.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, PostNorm, init_truncated_normal, look_up
from ..registry import register

LayerNorm = partial(nn.LayerNorm, eps=1e-12)
GELU = partial(nn.GELU, approximate="tanh")


class BERT(nn.Module):
    """Logits of the tokens at masked places, and of whether the second segment follows the first.

    Args:
        vocab, segments: numbers of ids.  dim, depth, heads, hidden: H, L, A of sec. 3 and the feed-forward width 4H.
        context: the longest sequence, in tokens.  dropout: on embeddings, attention weights and branches.
        pad: the id after the end of short rows; nothing attends to it.
        causal: a token sees only what comes before it: the left-to-right model of sec. 5.1. Not BERT.
    """

    def __init__(
        self, *, vocab: int = 30522, segments: int = 2, dim: int = 768, depth: int = 12, heads: int = 12,
        hidden: int = 3072, context: int = 512, dropout: float = 0.1, pad: int = 0, causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocab, self.dim, self.pad = vocab, dim, pad
        self.embed = Embedding(vocab, segments, dim, context, dropout)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, causal=causal, dropout=dropout), MLP(dim, hidden, GELU),
                  residual=PostNorm, norm=LayerNorm, dropout=dropout) for _ in range(depth)
        )  # fmt: skip
        self.pooler = nn.Linear(dim, dim)
        self.masked = MaskedHead(self.embed.tokens, GELU())
        self.follows = nn.Linear(dim, 2)
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

    def forward(
        self, ids: Tensor, segments: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids and segments (B, N) to token logits and to logits (B, 2): 0 the segments belong together, 1 they do not.

        Token logits are (B, N, V), or (K, V) at `places` (K,), which number the B * N tokens: most are not asked for.
        """
        x = self.encode(ids, segments)
        return self.masked(x if places is None else x.flatten(0, 1)[places]), self.follows(self.pool(x))


class Embedding(nn.Module):
    """Token plus position plus segment, normed, then dropped (sec. 3, fig. 2): ids (B, N) to (B, N, C)."""

    def __init__(self, vocab: int, segments: int, dim: int, context: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.positions, self.segments = (nn.Embedding(n, dim) for n in (vocab, context, segments))
        self.norm, self.dropout = LayerNorm(dim), dropout

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        length, context = ids.shape[1], self.positions.num_embeddings
        if length > context:
            raise ValueError(f"{length} tokens do not fit the model's context={context}")
        if segments is not None and segments.shape != ids.shape:
            raise ValueError(f"segments {tuple(segments.shape)} are not one for each of the ids {tuple(ids.shape)}")
        x = look_up(self.tokens, ids) + self.positions.weight[:length]
        kind = self.segments.weight[0] if segments is None else look_up(self.segments, segments, "segments")
        return F.dropout(self.norm(x + kind), self.dropout, self.training)


class MaskedHead(nn.Module):
    """One more layer, then a product with the embeddings of all tokens: (..., C) to (..., V) (official code)."""

    def __init__(self, tokens: nn.Embedding, act: nn.Module) -> None:
        super().__init__()
        vocab, dim = tokens.weight.shape
        self.dense, self.act, self.norm, self.output = nn.Linear(dim, dim), act, LayerNorm(dim), nn.Linear(dim, vocab)
        self.output.weight = tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.act(self.dense(x))))


@register
def bert_tiny(**overrides: Any) -> BERT:
    """4.4 M parameters (Turc et al. 2019; released with BERT)."""
    return BERT(**{"dim": 128, "depth": 2, "heads": 2, "hidden": 512} | overrides)


@register
def bert_mini(**overrides: Any) -> BERT:
    """11.3 M parameters (Turc et al. 2019; released with BERT)."""
    return BERT(**{"dim": 256, "depth": 4, "heads": 4, "hidden": 1024} | overrides)


@register
def bert_small(**overrides: Any) -> BERT:
    """29.1 M parameters (Turc et al. 2019; released with BERT)."""
    return BERT(**{"dim": 512, "depth": 4, "heads": 8, "hidden": 2048} | overrides)


@register
def bert_medium(**overrides: Any) -> BERT:
    """41.7 M parameters (Turc et al. 2019; released with BERT)."""
    return BERT(**{"dim": 512, "depth": 8, "heads": 8, "hidden": 2048} | overrides)


@register
def bert_base(**overrides: Any) -> BERT:
    """110.1 M parameters with both heads; the paper says 110 M (Devlin et al. 2019, sec. 3)."""
    return BERT(**overrides)


@register
def bert_large(**overrides: Any) -> BERT:
    """336.2 M parameters with both heads; the paper says 340 M (Devlin et al. 2019, sec. 3)."""
    return BERT(**{"dim": 1024, "depth": 24, "heads": 16, "hidden": 4096} | overrides)
