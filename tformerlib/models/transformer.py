"""The Transformer: an encoder-decoder of attention alone (Vaswani et al. 2017).

Shape letters: B batch, N source tokens, M target tokens, C width (`dim`), V target vocabulary.

Tensor2Tensor, in which the paper's numbers were made, has no bias in the projections of queries, keys, values and
outputs, 1e-6 where our norms have 1e-5, and all sines before all cosines. Its `transformer_base_v1` is the printed
model; from version 2 on `transformer_base` is pre-norm, and drops attention weights and hidden units too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, Branch, KVCache, PostNorm, look_up
from ..layers.derived import Derived
from ..layers.positions import sinusoids
from ..registry import register

KeysValues = tuple[Tensor, Tensor]
Positions = Callable[[int, int], Tensor]


class Transformer(nn.Module):
    """Logits of each next target token, given the source and the targets so far.

    `tformerlib.decoding.search` translates with it.

    Args:
        source_vocab, target_vocab: numbers of ids. Without target_vocab, both languages share one vocabulary.
        dim, depth, heads, hidden: d_model, N, h and d_ff of table 3.
        dropout: on the output of each sublayer, and on embeddings with their positions (sec. 5.4).
        share_embeddings: the output layer multiplies with the target's embeddings; they are the source's too, where
            the vocabulary is shared (sec. 3.4).
        residual: where the norms sit: PostNorm as printed, PreNorm, ResPostNorm.
        positions: (length, dim) -> the table added to embeddings: `sinusoids`, `learned`; None adds nothing.
        on_heads: for self-attention, such as Rotary(dim // heads).
        attention: makes the attention layers; partial(Attention, scale=1.0) does not divide by sqrt(D).
        final_norm: a LayerNorm after each stack; by default where its layers do not end in one.
        output_bias: a bias on the logits, as Marian has it.
        context: the longest sequence, in tokens.  pad: the id after the end of short rows; nothing attends to it.
    """

    def __init__(
        self, *, source_vocab: int = 37000, target_vocab: int | None = None, dim: int = 512, depth: int = 6,
        heads: int = 8, hidden: int = 2048, dropout: float = 0.1, share_embeddings: bool = True,
        residual: type[Branch] = PostNorm, positions: Positions | None = sinusoids,
        on_heads: Callable[..., tuple[Tensor, Tensor]] | None = None, attention: Callable[..., Attention] = Attention,
        final_norm: bool | None = None, output_bias: bool = False, context: int = 1024, pad: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab or source_vocab
        self.context, self.pad = context, pad
        self.source = Embedding(self.source_vocab, dim, context, positions, dropout)
        self.target = Embedding(self.target_vocab, dim, context, positions, dropout)
        branch: dict[str, Any] = {"residual": residual, "dropout": dropout}
        self.encoder = nn.ModuleList(
            Block(dim, attention(dim, heads, on_heads=on_heads), MLP(dim, hidden, nn.ReLU), **branch)
            for _ in range(depth)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(dim, attention(dim, heads, on_heads=on_heads, causal=True), attention(dim, heads),
                         MLP(dim, hidden, nn.ReLU), **branch) for _ in range(depth)
        )  # fmt: skip
        norm = nn.LayerNorm if (residual is not PostNorm if final_norm is None else final_norm) else nn.Identity
        self.encoder_norm, self.decoder_norm = norm(dim), norm(dim)
        self.output = nn.Linear(dim, self.target_vocab, bias=output_bias)
        self.apply(init)
        if share_embeddings:
            self.output.weight = self.target.tokens.weight
            if target_vocab is None:
                self.source.tokens = self.target.tokens

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Ids (B, N) and (B, M), padded at the end, to logits (B, M, V); row m sees targets 0 .. m."""
        return self.decode(self.target(target), self.memory(source), self.mask(source))

    def mask(self, source: Tensor) -> Tensor:
        """(B, 1, 1, N), True at real tokens."""
        return (source != self.pad)[:, None, None]

    def encode(self, source: Tensor) -> Tensor:
        """Source ids (B, N) to one vector for each token, (B, N, C)."""
        x, mask = self.source(source), self.mask(source)
        for block in self.encoder:
            x = block(x, mask=mask)
        return self.encoder_norm(x)

    def memory(self, source: Tensor) -> list[KeysValues]:
        """The encoded source as keys and values of each block of the decoder."""
        encoded, blocks = self.encode(source), cast(Sequence[Any], self.decoder)
        return [block.cross.fn.keys_values(encoded) for block in blocks]

    def decode(
        self, x: Tensor, memory: Sequence[KeysValues], mask: Tensor, caches: Sequence[KVCache] | None = None
    ) -> Tensor:
        """Embedded targets (B, M, C) to logits (B, M, V). Their padding needs no mask: it comes after what counts."""
        for i, block in enumerate(self.decoder):
            x = block(x, memory[i], mask, caches[i] if caches else None)
        return self.output(self.decoder_norm(x))

    def start(self, source: Tensor, capacity: int) -> "Decoding":
        """A decoding of source (B, N), of up to `capacity` target tokens."""
        if capacity > self.context:
            raise ValueError(f"{capacity} target tokens do not fit the model's context={self.context}")
        return Decoding(self, source, capacity)


class Embedding(Derived):
    """Token embeddings times sqrt(C), plus positions (sec. 3.4, 3.5): ids (B, N) to (B, N, C)."""

    def __init__(self, vocab: int, dim: int, context: int, positions: Positions | None, dropout: float) -> None:
        super().__init__()
        self.tokens, self.context, self.dropout = nn.Embedding(vocab, dim), context, dropout
        table = positions(context, dim) if positions else None
        self.positions: Tensor | None
        if positions is None or isinstance(table, nn.Parameter):
            self.positions = table
        else:
            self.derive("positions", partial(positions, context, dim))

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        end = start + ids.shape[1]
        if end > self.context:
            raise ValueError(f"{end} tokens do not fit the model's context={self.context}")
        x = look_up(self.tokens, ids) * self.tokens.embedding_dim**0.5
        return F.dropout(x if self.positions is None else x + self.positions[start:end], self.dropout, self.training)


class DecoderBlock(nn.Module):
    """Attend to the targets so far, then to the source, then transform each token (fig. 1, right)."""

    def __init__(self, dim: int, attn: Attention, cross: Attention, mlp: MLP, *, residual: type[Branch], **branch: Any):
        super().__init__()
        self.attn, self.cross, self.mlp = (residual(dim, fn, **branch) for fn in (attn, cross, mlp))

    def forward(self, x: Tensor, memory: KeysValues, mask: Tensor, cache: KVCache | None = None) -> Tensor:
        return self.mlp(self.cross(self.attn(x, cache=cache), kv=memory, mask=mask))


class Decoding:
    """A decoding under way: keys and values of the source and of the targets so far."""

    def __init__(self, model: Transformer, source: Tensor, capacity: int) -> None:
        self.model, self.memory, self.mask = model, model.memory(source), model.mask(source)
        self.caches = [KVCache(capacity) for _ in model.decoder]

    def step(self, ids: Tensor) -> Tensor:
        """The next target ids (B,) to the logits (B, V) of those after them."""
        x = self.model.target(ids[:, None], start=self.caches[0].length)
        return self.model.decode(x, self.memory, self.mask, self.caches)[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from the old row rows[i]; rows may repeat or be left out."""
        for cache in self.caches:
            cache.reorder(rows)
        self.memory, self.mask = [(k[rows], v[rows]) for k, v in self.memory], self.mask[rows]


def init(module: nn.Module) -> None:
    """Glorot's uniform weights, no biases; embeddings of variance 1 / C, which times sqrt(C) is variance 1."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register
def transformer_base(**overrides: Any) -> Transformer:
    """63.1 M parameters with 37,000 tokens; the paper says 65 M (Vaswani et al. 2017, table 3)."""
    return Transformer(**overrides)


@register
def transformer_big(**overrides: Any) -> Transformer:
    """214.2 M parameters with 37,000 tokens; the paper says 213 M (Vaswani et al. 2017, table 3)."""
    return Transformer(**{"dim": 1024, "heads": 16, "hidden": 4096, "dropout": 0.3} | overrides)
