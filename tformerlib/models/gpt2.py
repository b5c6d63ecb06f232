"""GPT-2: GPT with its norms moved to the input of each sublayer, larger, and asked in words (Radford et al. 2019).

Shape letters: B batch, N tokens, M tokens with those that a cache holds, C width (`dim`), V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attention as softmax_attention
from ..layers.blocks import MLP, Attention, Block, KVCache, PreNorm, look_up
from ..registry import register


class GPT2(nn.Module):
    """Logits of each next token, given the tokens so far. `tformerlib.decoding.sampling` writes with it.

    Args:
        vocab: number of ids: 256 bytes, 50,000 merges and the end of a text.
        dim, depth, heads: width, layers and heads (table 2).  hidden: of the MLP; 4 dim by default.
        head_dim: width of a head, where it is not dim / heads.
        dropout: on embeddings, attention weights and what each sublayer adds.
        context: the longest sequence, in tokens.
        windows: layer i sees the last windows[i % len(windows)] tokens, its own included; None is all of them.
        attention: makes the attention layers.
    """

    def __init__(
        self, *, vocab: int = 50257, dim: int = 768, depth: int = 12, heads: int = 12, hidden: int | None = None,
        head_dim: int | None = None, dropout: float = 0.1, context: int = 1024,
        windows: Sequence[int | None] = (None,), attention: Callable[..., Attention] = Attention,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocab, self.context, self.dropout = vocab, context, dropout
        self.windows = [windows[i % len(windows)] for i in range(depth)]
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)

        def mixer(window: int | None) -> Attention:
            attend = partial(softmax_attention, window=window) if window else softmax_attention
            return attention(dim, heads, head_dim=head_dim, causal=True, dropout=dropout, attend=attend)

        gelu = partial(nn.GELU, approximate="tanh")
        self.blocks = nn.ModuleList(
            Block(dim, mixer(window), MLP(dim, hidden or 4 * dim, gelu), residual=PreNorm, dropout=dropout)
            for window in self.windows
        )
        self.norm = nn.LayerNorm(dim)  # "an additional layer normalization was added" after the last block (sec. 2.3)
        self.output = nn.Linear(dim, vocab, bias=False)
        self.init()
        self.output.weight = self.tokens.weight

    def init(self) -> None:
        """Weights from N(0, 0.02^2), no biases; what adds to the residual stream is smaller by sqrt(2 depth), sec. 2.3.

        The released code does not scale the latter and draws positions from N(0, 0.01^2); we take the paper's word
        for the first and the code's for the second, of which the paper says nothing.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                adds = name.endswith(("mixer.fn.out", "mlp.fn.3"))
                std = 0.02 / (2 * len(self.blocks)) ** 0.5 if adds else 0.01 if name == "positions" else 0.02
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, **where: Any) -> Tensor:
        """Ids (B, N) to logits (B, N, V); row n sees ids 0 .. n. Further arguments are those of `features`."""
        return self.output(self.features(ids, **where))

    def features(
        self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:  # fmt: skip
        """Ids (B, N) to the normalized output of the last block, (B, N, C): what the logits are read from.

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
        return self.norm(x)

    def caches(self, capacity: int) -> list[KVCache]:
        """Empty memories for a text of up to `capacity` tokens, one for each block."""
        return [KVCache(capacity) for _ in self.blocks]


@register
def gpt2(**overrides: Any) -> GPT2:
    """124.4 M parameters (Radford et al. 2019, table 2).

    The paper says 117 M, which the released code's README calls wrong.
    """
    return GPT2(**overrides)


@register
def gpt2_medium(**overrides: Any) -> GPT2:
    """354.8 M parameters; the paper says 345 M (Radford et al. 2019, table 2)."""
    return GPT2(**{"dim": 1024, "depth": 24, "heads": 16} | overrides)


@register
def gpt2_large(**overrides: Any) -> GPT2:
    """774.0 M parameters; the paper says 762 M (Radford et al. 2019, table 2)."""
    return GPT2(**{"dim": 1280, "depth": 36, "heads": 20} | overrides)


@register
def gpt2_xl(**overrides: Any) -> GPT2:
    """1,557.6 M parameters; the paper says 1,542 M (Radford et al. 2019, table 2)."""
    return GPT2(**{"dim": 1600, "depth": 48, "heads": 25} | overrides)
