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
    As in Tensor2Tensor, which the Transformer's results come from, a translation that ends leaves its place in the beam
    to another beginning, and the `beams` best ended ones are kept beside it: of the 2 * `beams` likeliest extensions
    those with `eos` end, and the likeliest others go on, until none of them could still beat all that are kept. So one
    beam may find what `greedy` passes by. A translation of `limit` tokens ends there, with `eos` or without.

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
        going = torch.full(ids.shape, float("-inf"), device=source.device)  # log-probabilities
        going[:, 0] = 0.0  # the beams begin alike: only one may branch
        kept, best = out.clone(), torch.full_like(going, float("-inf"))  # ended translations and their scores
        for length in range(1, limit + 1):
            log_p = _step(model, state, ids.flatten()).float().log_softmax(-1).unflatten(0, ids.shape)
            total = (going[..., None] + log_p).flatten(1)
            likely, choice = total.topk(min(2 * beams, total.shape[1]))
            token, parent = choice % log_p.shape[-1], choice // log_p.shape[-1]
            longer = out[batch, parent]
            longer[..., length - 1] = token
            ends = (token == eos) | (length == limit)
            penalty = ((5 + length) / 6) ** alpha
            best, order = torch.cat([best, (likely / penalty).masked_fill(~ends, float("-inf"))], 1).topk(beams)
            kept = torch.cat([kept, longer], 1)[batch, order]
            going, order = likely.masked_fill(ends, float("-inf")).topk(beams)
            out, ids, parent = longer[batch, order], token.gather(1, order), parent.gather(1, order)
            hope = going[:, 0] / max(penalty, ((5 + limit) / 6) ** alpha)  # the most that a going one can still reach
            if (hope <= best[:, -1]).all():
                break
            state.reorder((batch * beams + parent).flatten())
        return kept[:, 0, :length], best[:, 0]


def _step(model: Model, state: State, ids: Tensor) -> Tensor:
    """The next logits, with no way to choose padding: it stands for no token."""
    logits = state.step(ids)
    if logits.isnan().any():
        raise ValueError("the model's logits are NaN: no token is likelier than another")
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
    if not 0 <= model.pad < model.target_vocab:
        raise ValueError(f"the model's pad={model.pad} is not in the target vocabulary, 0 .. {model.target_vocab - 1}")
    if model.pad in (bos, eos):
        raise ValueError(f"pad={model.pad} is bos={bos} or eos={eos}: padding is never chosen, so nothing would end")
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
