"""GPT-2 beside transformers' of the same size and weights: training steps and writing."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.decoding.sampling import generate
from tformerlib.models.gpt2 import GPT2
from tformerlib.peers import prepare

from .models import Pair, step

SIZES: dict[str, dict[str, Any]] = {
    "chapter": {"vocab": 1024, "dim": 64, "depth": 4, "heads": 4, "context": 128},
    "small": {"vocab": 4096, "dim": 256, "depth": 4, "heads": 4, "context": 256},
    "base": {"vocab": 8192, "dim": 768, "depth": 6, "heads": 12, "context": 512},
}


def pair(size: str, dropout: float) -> tuple[GPT2, Any]:
    """Ours and transformers', with the same weights."""
    prepare()
    from transformers import GPT2Config, GPT2LMHeadModel

    s = SIZES[size]
    config = GPT2Config(
        vocab_size=s["vocab"], n_embd=s["dim"], n_layer=s["depth"], n_head=s["heads"], n_positions=s["context"],
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config)
    return tf.load_published(GPT2(**s, dropout=dropout), theirs.state_dict()), theirs


def training(size: str, *, batch: int, length: int, dropout: float = 0.1) -> Pair:
    """One step: forward, loss, backward, Adam. Both in training mode with the same dropout, in the same places."""
    ours, theirs = pair(size, dropout)
    ours.train()
    theirs.train()
    ids = torch.randint(SIZES[size]["vocab"], (batch, length))
    if not dropout:
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(our_loss(ours, ids), theirs(ids, labels=ids).loss, atol=1e-4, rtol=1e-4)

    def their_loss(model: nn.Module) -> Tensor:
        return model(ids, labels=ids).loss

    what = f"training step, {size}, {batch} x {length}, dropout {dropout}"
    return what, "GPT2LMHeadModel", step(ours, lambda model: our_loss(model, ids)), step(theirs, their_loss)


def our_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross-entropy of each next token."""
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def generation(size: str, *, batch: int, prompt: int, tokens: int) -> Pair:
    """Greedy continuations with cached keys and values; they must be equal."""
    ours, theirs = pair(size, 0.0)
    ours.eval()
    theirs.eval()
    ids = torch.randint(SIZES[size]["vocab"], (batch, prompt))

    def run_theirs() -> Tensor:
        options = {"max_new_tokens": tokens, "do_sample": False, "use_cache": True, "pad_token_id": 0}
        return theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    def run_ours() -> list[list[int]]:
        return generate(ours, ids, tokens=tokens, temperature=0)

    assert run_ours() == run_theirs()[:, prompt:].tolist(), "the texts differ"
    what = f"greedy writing, {size}, {batch} x {prompt} + {tokens}"
    return what, "GPT2LMHeadModel.generate", run_ours, run_theirs


def pairs() -> Iterator[Pair]:
    """All that is timed."""
    yield training("chapter", batch=32, length=64, dropout=0.0)
    yield training("chapter", batch=32, length=64)
    yield training("small", batch=8, length=128, dropout=0.0)
    yield training("small", batch=8, length=128)
    yield training("base", batch=2, length=128)
    yield generation("chapter", batch=1, prompt=16, tokens=48)
    yield generation("chapter", batch=16, prompt=16, tokens=48)
    yield generation("small", batch=1, prompt=32, tokens=48)
    yield generation("base", batch=1, prompt=32, tokens=32)
    yield generation("base", batch=8, prompt=32, tokens=32)
