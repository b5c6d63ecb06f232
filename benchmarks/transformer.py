"""The Transformer beside torch's, in training, and beside transformers' MarianMTModel, in greedy decoding."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.decoding.search import greedy
from tformerlib.layers.positions import sinusoids
from tformerlib.models.transformer import Transformer
from tformerlib.peers import prepare

from .models import Pair, step

SIZES: dict[str, dict[str, Any]] = {
    "chapter": {"source_vocab": 64, "dim": 64, "depth": 2, "heads": 4, "hidden": 256},
    "small": {"source_vocab": 2000, "dim": 256, "depth": 3, "heads": 4, "hidden": 1024},
    "base": {"source_vocab": 8000, "dim": 512, "depth": 6, "heads": 8, "hidden": 2048},
}


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` as its documentation has it used, with the embeddings and output that ours has."""

    def __init__(self, source_vocab: int, dim: int, depth: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.dropout = nn.Embedding(source_vocab, dim), nn.Dropout(dropout)
        self.body = nn.Transformer(dim, heads, depth, depth, hidden, dropout, batch_first=True)
        self.body.encoder.norm = self.body.decoder.norm = None  # ours has none there, as the paper
        self.positions = nn.Buffer(sinusoids(1024, dim), persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        scale, pad = self.tokens.embedding_dim**0.5, source == 0
        x, y = (self.dropout(self.tokens(i) * scale + self.positions[: i.shape[1]]) for i in (source, target))
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        y = self.body(x, y, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=pad, memory_key_padding_mask=pad)
        return F.linear(y, self.tokens.weight)


def training(size: str, *, batch: int, length: int, dropout: float = 0.0) -> Pair:
    """One step: forward, backward, Adam. Sources are padded to `length`; both have the same weights.

    With dropout, torch's model drops attention weights and hidden units too, as its layers always do; ours does not,
    as in the paper. Without, both compute the same, and that is checked.
    """
    torch.manual_seed(0)
    ours, theirs = Transformer(**SIZES[size], dropout=dropout), TorchTransformer(**SIZES[size], dropout=dropout)
    tf.load_published(ours, theirs.body.state_dict(), source="torch")
    theirs.tokens.load_state_dict(ours.source.tokens.state_dict())
    source, target = torch.randint(3, SIZES[size]["source_vocab"], (2, batch, length + 1))
    source, lengths = source[:, 1:], torch.linspace(length // 2, length, batch).long()
    source = source.masked_fill(torch.arange(length) >= lengths[:, None], 0)
    if not dropout:
        torch.testing.assert_close(ours(source, target), theirs(source, target), atol=1e-4, rtol=1e-4)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())

    what = f"training step, {size}, {batch} x {length}, dropout {dropout}"
    return what, "torch.nn.Transformer", step(ours, loss), step(theirs, loss)


def decoding(size: str, *, batch: int, length: int) -> Pair:
    """Greedy translations of `length` tokens with cached keys and values, by the same weights; they must be equal."""
    prepare()
    from transformers import MarianConfig, MarianMTModel

    s = SIZES[size]
    config = MarianConfig(
        vocab_size=s["source_vocab"], d_model=s["dim"], encoder_layers=s["depth"], decoder_layers=s["depth"],
        encoder_attention_heads=s["heads"], decoder_attention_heads=s["heads"], encoder_ffn_dim=s["hidden"],
        decoder_ffn_dim=s["hidden"], activation_function="relu", scale_embedding=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = MarianMTModel(config).eval()
    theirs.final_logits_bias[0, :3] = -1e4  # neither padding nor an early end: both decode `length` tokens
    ours = tf.load_published(Transformer(**s, output_bias=True), theirs.state_dict()).eval()
    source = torch.randint(3, s["source_vocab"], (batch, length))

    def run_theirs() -> Tensor:
        options = {"max_new_tokens": length, "num_beams": 1, "do_sample": False, "use_cache": True}
        return theirs.generate(input_ids=source, attention_mask=torch.ones_like(source), **options)

    def run_ours() -> Tensor:
        return greedy(ours, source, limit=length)

    assert torch.equal(run_ours(), run_theirs()[:, 1:]), "the translations differ"
    return f"greedy decoding, {size}, {batch} x {length}", "MarianMTModel.generate", run_ours, run_theirs


def pairs() -> Iterator[Pair]:
    """All that is timed."""
    yield training("chapter", batch=64, length=24)
    yield training("chapter", batch=64, length=24, dropout=0.1)
    yield training("small", batch=32, length=32)
    yield training("small", batch=32, length=32, dropout=0.1)
    yield training("base", batch=8, length=32)
    yield decoding("chapter", batch=64, length=24)
    yield decoding("small", batch=16, length=32)
    yield decoding("base", batch=1, length=32)
    yield decoding("base", batch=8, length=32)
