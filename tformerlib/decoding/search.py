"""From logits to sentences: greedy and beam search over any model that can be decoded a token at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class State(Protocol):
    """A decoding under way, of R rows."""

    def step(self, ids: Tensor) -> Tensor:
        """The next ids (R,) to the logits (R, V) of those after them."""

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from the old row rows[i]; rows may repeat or be left out."""


class Model(Protocol):
    """What the searches ask of an encoder-decoder."""

    training: bool
    source_vocab: int
    target_vocab: int
    pad: int

    def start(self, source: Tensor, capacity: int) -> State:
        """A decoding of source ids (B, N) that will be fed up to `capacity` target ids."""

    def train(self, mode: bool = True) -> object:
        """With dropout or without."""


def greedy(model: Model, source: Tensor, *, limit: int, bos: int = 1, eos: int = 2) -> Tensor:
    """The likeliest token at each step, until every row has ended or has `limit` tokens.

    Args:
        source: (B, N) ids, padded at the end.
        limit: the most tokens of a row, its `eos` included.

    Returns:
        (B, <= limit) ids without `bos`: each row, its `eos` if it came to one, then padding.

    Raises:
        ValueError: an empty source, ids outside the vocabulary, or a limit that the model has no room for.
    """
    _check(model, source, limit, bos, eos)
    with inference(model):
        state, out = model.start(source, limit), source.new_full((len(source), limit), model.pad)
        ids, ended = source.new_full((len(source),), bos), source.new_zeros(len(source), dtype=torch.bool)
        for length in range(1, limit + 1):
            ids = _step(model, state, ids).argmax(-1).masked_fill(ended, model.pad)
            out[:, length - 1] = ids
            ended |= ids == eos
            if ended.all():
                break
    return out[:, :length]


def beam_search(
    model: Model, source: Tensor, *, beams: int = 4, alpha: float = 0.6, limit: int, bos: int = 1, eos: int = 2
) -> tuple[Tensor, Tensor]:
    """Extends the `beams` likeliest beginnings of each translation, and returns the best that came to an end.

    The best is the largest log P(y | x) / ((5 + |y|) / 6)^alpha, where |y| counts the `eos` (Wu et al. 2016, eq. 14).
    A translation that has ended keeps its place in the beam, so one beam is `greedy`; Tensor2Tensor gives its place to
    another beginning. A translation of `limit` tokens ends there, with `eos` or without.

    Args:
        source: (B, N) ids, padded at the end.  limit: the most tokens of a row, its `eos` included.
        alpha: 0 compares log-probabilities, which favors short translations; larger values favor longer ones.

    Returns:
        (B, <= limit) ids as `greedy` returns them, and their scores (B,).

    Raises:
        ValueError: as `greedy`, or fewer than one beam.
    """
    _check(model, source, limit, bos, eos)
    if beams < 1:
        raise ValueError(f"beams={beams}: a search needs at least one")
    batch = torch.arange(len(source), device=source.device)[:, None]
    with inference(model):
        state = model.start(source, limit)
        state.reorder(batch.expand(-1, beams).flatten())
        ids, out = source.new_full((len(source), beams), bos), source.new_full((len(source), beams, limit), model.pad)
        ended, lengths = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
        scores = torch.full(ids.shape, float("-inf"), device=source.device)
        scores[:, 0] = 0.0  # the beams begin alike: only one may branch
        for length in range(1, limit + 1):
            log_p = _step(model, state, ids.flatten()).float().log_softmax(-1).unflatten(0, ids.shape)
            log_p = log_p.masked_fill(ended[..., None], float("-inf"))
            log_p[..., model.pad] = torch.where(ended, 0.0, float("-inf"))  # what has ended goes on as padding
            total = scores[..., None] + log_p  # (B, beams, V)
            rank = total.clone()
            rank[..., model.pad] = torch.where(ended, float("inf"), float("-inf"))  # and keeps its place
            choice = rank.flatten(1).topk(beams).indices
            scores, ids = total.flatten(1).gather(1, choice), choice % total.shape[-1]
            parent = choice // total.shape[-1]
            out, ended, lengths = out[batch, parent], ended[batch, parent], lengths[batch, parent]
            out[..., length - 1] = ids
            lengths += ~ended
            ended |= (ids == eos) & scores.isfinite()  # a place may be empty: fewer beginnings than beams
            if ended.all():
                break
            state.reorder((batch * beams + parent).flatten())
        scores, best = (scores / ((5 + lengths) / 6) ** alpha).max(1)
    return out[batch[:, 0], best, :length], scores


def _step(model: Model, state: State, ids: Tensor) -> Tensor:
    """The next logits, with no way to choose padding: it stands for no token."""
    logits = state.step(ids)
    logits[:, model.pad] = float("-inf")
    return logits


def _check(model: Model, source: Tensor, limit: int, bos: int, eos: int) -> None:
    if source.ndim != 2 or source.is_floating_point():
        raise ValueError(f"source is {source.dtype} {tuple(source.shape)}; it takes whole ids (B, N)")
    if not source.numel():
        raise ValueError(f"source {tuple(source.shape)} holds nothing")
    if empty := (source == model.pad).all(1).nonzero().flatten().tolist():
        raise ValueError(f"source rows {empty} are empty: nothing but padding")
    low, high = int(source.min()), int(source.max())
    if low < 0 or high >= model.source_vocab:
        raise ValueError(f"source ids {low} .. {high} reach out of the vocabulary, 0 .. {model.source_vocab - 1}")
    for name, token in (("bos", bos), ("eos", eos)):
        if not 0 <= token < model.target_vocab:
            raise ValueError(f"{name}={token} is not in the target vocabulary, 0 .. {model.target_vocab - 1}")
    if limit < 1:
        raise ValueError(f"limit={limit}: a translation has at least one token")


class Trainable(Protocol):
    """A module, as far as `inference` needs one."""

    training: bool

    def train(self, mode: bool = True) -> object:
        """With dropout or without."""


@contextmanager
def inference(model: Trainable) -> Iterator[None]:
    """No gradients and no dropout inside; afterwards the model is as it was."""
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
