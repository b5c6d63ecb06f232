"""BERT and SqueezeBERT beside transformers' models of the same size and weights, and beside each other."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.models.bert import BERT
from tformerlib.models.squeezebert import SqueezeBERT
from tformerlib.objectives.masking import mask_tokens
from tformerlib.peers import prepare

from .models import Pair, Run, step

SIZES: dict[str, dict[str, Any]] = {  # the chapter's, then bert_mini, and two layers of the width of bert_base
    "chapter": {"vocab": 600, "dim": 64, "depth": 2, "heads": 4, "hidden": 256, "context": 32},
    "mini": {"vocab": 8000, "dim": 256, "depth": 4, "heads": 4, "hidden": 1024, "context": 128},
    "base, 2 layers": {"vocab": 8000, "dim": 768, "depth": 2, "heads": 12, "hidden": 3072, "context": 512},
}


def peer(kind: str, size: str, dropout: float) -> Any:
    """transformers' model for masked language modeling: of BERT with the tanh-GELU as one kernel, its fastest form."""
    prepare()
    import transformers

    s = SIZES[size]
    own = {"embedding_size": s["dim"]} if kind == "SqueezeBert" else {"hidden_act": "gelu_pytorch_tanh"}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=s["vocab"], hidden_size=s["dim"], num_hidden_layers=s["depth"], num_attention_heads=s["heads"],
        intermediate_size=s["hidden"], max_position_embeddings=s["context"], hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, **own,
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForMaskedLM")(config)


def same(theirs: nn.Module, kind: str, size: str, dropout: float) -> BERT | SqueezeBERT:
    """Our model with their weights."""
    model = BERT if kind == "Bert" else SqueezeBERT
    return tf.load_published(model(**SIZES[size], dropout=dropout), theirs.state_dict())


def sentences(size: str, batch: int, length: int) -> Tensor:
    """Ids (B, N) in rows of half the length and more, padded."""
    torch.manual_seed(0)
    ids = torch.randint(5, SIZES[size]["vocab"], (batch, length))
    return ids.masked_fill(torch.arange(length) >= torch.linspace(length // 2, length, batch).long()[:, None], 0)


def training(kind: str, size: str, *, batch: int, length: int, dropout: float = 0.1) -> Pair:
    """One step of masked language modeling: forward, backward, Adam. `kind` is Bert or SqueezeBert.

    Theirs makes logits for every token and leaves most out of the loss; ours makes those that are asked for.
    """
    theirs = peer(kind, size, dropout)
    ours = same(theirs, kind, size, dropout)
    ids = sentences(size, batch, length)
    masked = mask_tokens(ids, vocab=SIZES[size]["vocab"], mask=4, special=range(5))
    labels = torch.full((batch * length,), -100).index_copy(0, masked.places, masked.targets).view(batch, length)
    seen = (ids != 0).long()

    def our_loss() -> Tensor:
        logits = ours(masked.ids, None, masked.places)
        return F.cross_entropy(logits[0] if isinstance(logits, tuple) else logits, masked.targets)

    def their_loss() -> Tensor:
        return theirs(input_ids=masked.ids, attention_mask=seen, labels=labels).loss

    with torch.no_grad():
        for each in (ours, theirs):
            each.eval()
        torch.testing.assert_close(our_loss(), their_loss(), atol=1e-4, rtol=1e-4)

    what = f"{kind} training step, {size}, {batch} x {length}, dropout {dropout}"
    return what, f"{kind}ForMaskedLM", step(ours, lambda _: our_loss()), step(theirs, lambda _: their_loss())


def encoding(kind: str, size: str, *, batch: int, length: int) -> Pair:
    """The vectors of sentences, without gradients. `kind` is Bert or SqueezeBert."""
    theirs = peer(kind, size, 0.0).eval()
    ours = same(theirs, kind, size, 0.0).eval()
    ids = sentences(size, batch, length)
    seen = (ids != 0).long()

    @torch.no_grad()
    def run_ours() -> Tensor:
        return ours.encode(ids)

    @torch.no_grad()
    def run_theirs() -> Tensor:
        return theirs.base_model(input_ids=ids, attention_mask=seen).last_hidden_state

    torch.testing.assert_close(run_ours()[ids != 0], run_theirs()[ids != 0], atol=1e-4, rtol=1e-4)
    return f"{kind} encoding, {size}, {batch} x {length}", f"{kind}Model", run_ours, run_theirs


def squeezed(size: str, *, batch: int, length: int) -> Pair:
    """Our SqueezeBERT (first) and our BERT of the same size, encoding sentences: 1 / ratio is the speed-up."""
    torch.manual_seed(0)
    first, second = (kind(**SIZES[size], dropout=0.0).eval() for kind in (SqueezeBERT, BERT))
    ids = torch.randint(5, SIZES[size]["vocab"], (batch, length))

    def encode(model: BERT | SqueezeBERT) -> Run:
        return torch.no_grad()(lambda: model.encode(ids))

    return f"SqueezeBERT encoding, {size}, {batch} x {length}", "our BERT", encode(first), encode(second)


def pairs() -> Iterator[Pair]:
    """All that is timed. One pair at a time exists, to keep memory small."""
    for kind in ("Bert", "SqueezeBert"):
        yield training(kind, "chapter", batch=64, length=32, dropout=0.0)
        yield training(kind, "mini", batch=16, length=64)
        yield training(kind, "base, 2 layers", batch=4, length=128)
        yield encoding(kind, "mini", batch=8, length=64)
        yield encoding(kind, "base, 2 layers", batch=1, length=128)
    for length in (32, 128, 512):
        yield squeezed("base, 2 layers", batch=1, length=length)
