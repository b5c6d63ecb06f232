"""GPT: a decoder alone, pre-trained to predict the next token, then fine-tuned (Radford et al. 2018).

Shape letters: B batch, N tokens, M tokens with those that a cache holds, C width (`dim`), V vocabulary.

The decoder of the Transformer without its cross-attention, with learned positions and GELU. Norms come after the
residual sums, so nothing is left to normalize at the end: there is no final norm.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, KVCache, PostNorm, look_up
from ..registry import register


class GPT(nn.Module):
    """Logits of each next token, given the tokens so far. `tformerlib.decoding.sampling` writes with it.

    Args:
        vocab: number of ids. The released weights have 40,478; their code put special tokens and positions into the
            same matrix, so in its fine-tuning a language model's logits had rows for positions, too. Ours have not.
        dim, depth, heads: width, layers and heads (sec. 4.1).  hidden: of the MLP; 4 dim by default.
        dropout: on embeddings, attention weights and what each sublayer adds.
        context: the longest sequence, in tokens.
        attention: makes the attention layers.
    """

    def __init__(
        self, *, vocab: int = 40478, dim: int = 768, depth: int = 12, heads: int = 12, hidden: int | None = None,
        dropout: float = 0.1, context: int = 512, attention: Callable[..., Attention] = Attention,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocab, self.context, self.dropout = vocab, context, dropout
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        gelu = partial(nn.GELU, approximate="tanh")  # the erf form differs by up to 5e-4
        self.blocks = nn.ModuleList(
            Block(dim, attention(dim, heads, causal=True, dropout=dropout), MLP(dim, hidden or 4 * dim, gelu),
                  residual=PostNorm, dropout=dropout) for _ in range(depth)
        )  # fmt: skip
        self.output = nn.Linear(dim, vocab, bias=False)
        self.apply(init)
        self.output.weight = self.tokens.weight

    def forward(self, ids: Tensor, **where: Any) -> Tensor:
        """Ids (B, N) to logits (B, N, V); row n sees ids 0 .. n. Further arguments are those of `features`."""
        return self.output(self.features(ids, **where))

    def features(
        self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:  # fmt: skip
        """Ids (B, N) to what the last block says of each, (B, N, C): a classifier's input, and the logits'.

        Args:
            positions: (B, N) or (N,), where the ids stand; by default they follow those in the caches.
            mask: bool, broadcastable to (B, 1, N, M), True where a query may look; later tokens are always hidden.
            caches: of `self.caches`, with the earlier ids' keys and values; those of these ids are appended.
        """
        start = caches[0].length if caches else 0
        if start + ids.shape[1] > self.context:
            raise ValueError(f"{start + ids.shape[1]} tokens do not fit the model's context={self.context}")
        if positions is None:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = F.dropout(look_up(self.tokens, ids) + self.positions(positions), self.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, mask=mask, cache=caches[i] if caches else None)
        return x

    def caches(self, capacity: int) -> list[KVCache]:
        """Empty memories for a text of up to `capacity` tokens, one for each block."""
        return [KVCache(capacity) for _ in self.blocks]


def init(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), no biases (sec. 4.1)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@register
def gpt(**overrides: Any) -> GPT:
    """116.5 M parameters, as the released weights have (Radford et al. 2018, sec. 4.1)."""
    return GPT(**overrides)
