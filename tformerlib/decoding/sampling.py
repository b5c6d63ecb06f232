"""Writing with a decoder-only model: the next token, again and again, from the probabilities that it gives."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import KVCache
from .search import inference


class LanguageModel(Protocol):
    """What generation asks of a model."""

    training: bool
    vocab: int
    context: int
    output: nn.Linear

    def features(
        self, ids: Tensor, *, positions: Tensor | None, mask: Tensor | None, caches: Sequence[KVCache] | None
    ) -> Tensor:
        """Ids (B, N) to vectors (B, N, C)."""

    def caches(self, capacity: int) -> list[KVCache]:
        """Memories for up to `capacity` tokens."""

    def train(self, mode: bool = True) -> object:
        """With dropout or without."""


def generate(
    model: LanguageModel,
    prompts: Tensor | Sequence[Sequence[int]],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
    seed: int | None = None,
) -> list[list[int]]:
    """What the model writes after each prompt: up to `tokens` ids, less where `end` comes first (it is the last then).

    Prompts may differ in length: shorter ones are padded on the left, where nothing looks, and every token keeps the
    position that it has in its own text. So each row is what its prompt gives alone, up to rounding, when temperature
    is 0; drawn rows share one generator.

    Args:
        prompts: ids (B, N), or a list of lists of ids.
        temperature: logits are divided by it; below 1 favors likely tokens, 0 always takes the likeliest.
        top_k, top_p: draw from the k likeliest tokens, from the likeliest that together have probability p.
        seed: of the draws; by default they come from torch's generator.

    Raises:
        ValueError: no prompt, an empty one, ids outside the vocabulary, a prompt that with `tokens` is longer than the
            model's context, or a temperature, top_k or top_p that means nothing.
    """
    if any(isinstance(row, int) or (isinstance(row, Tensor) and not row.ndim) for row in prompts):
        raise ValueError(f"prompts are a list of lists of ids, or a tensor (B, N), not one list: {prompts!r:.60}")
    rows = [list(map(int, row)) for row in prompts]
    _check(model, rows, tokens, end)
    _check_choice(temperature, top_k, top_p)
    device, longest = model.output.weight.device, max(map(len, rows))
    padding = torch.tensor([longest - len(row) for row in rows], device=device)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    seen = None  # (B, longest + tokens), False at padding
    if padding.any():
        seen = torch.arange(longest + tokens, device=device) >= padding[:, None]
    generator = None if seed is None else torch.Generator(ids.device).manual_seed(seed)
    written, ended = ids.new_empty(len(rows), tokens), torch.zeros(len(rows), dtype=torch.bool, device=device)
    with inference(model):
        caches, done = model.caches(longest + tokens), 0
        for count in range(tokens):
            now = done + ids.shape[1]
            positions = mask = None
            if seen is not None:
                positions = (torch.arange(done, now, device=device) - padding[:, None]).clamp(min=0)
                mask = seen[:, None, None, :now]
            logits = model.output(model.features(ids, positions=positions, mask=mask, caches=caches)[:, -1])
            if logits.isnan().any():
                raise ValueError(f"the model's logits are NaN after {count} tokens")
            if temperature == 0:
                ids = logits.argmax(-1, keepdim=True)
            else:
                p = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
                ids = torch.multinomial(p, 1, generator=generator)
            done, written[:, count] = now, ids[:, 0]
            if end is not None:
                ended |= ids[:, 0] == end
                if ended.all():
                    break
    lines = written[:, : count + 1].tolist()
    return [line[: line.index(end) + 1] if end in line else line for line in lines]


def probabilities(
    logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Of the next token, (..., V), as `generate` draws it: softmax(logits / temperature), cut by top_k, then by top_p.

    top_k keeps the k likeliest and what is as likely as the last of them; top_p the smallest set of likeliest tokens
    whose probabilities sum to at least p (Holtzman et al. 2020), at least one. The rest get 0; what is kept sums to 1.

    Raises:
        ValueError: a temperature below 0, top_k below 1, or top_p outside (0, 1].
    """
    _check_choice(temperature, top_k, top_p)
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    p = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        before = F.pad(ordered.cumsum(-1)[..., :-1], (1, 0))  # what the likelier ones have together
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        p = torch.zeros_like(p).scatter(-1, order, ordered)
        p = p / p.sum(-1, keepdim=True)
    return p


def _check(model: LanguageModel, rows: list[list[int]], tokens: int, end: int | None) -> None:
    if not rows:
        raise ValueError("there is no prompt")
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise ValueError(f"prompts {empty} are empty: the first token needs one before it, such as the end of a text")
    if tokens < 1:
        raise ValueError(f"tokens={tokens}: there is nothing to write")
    for i, row in enumerate(rows):
        if len(row) + tokens > model.context:
            raise ValueError(f"prompt {i} of {len(row)} ids and {tokens} tokens do not fit context={model.context}")
        if wrong := [token for token in row if not 0 <= token < model.vocab]:
            raise ValueError(f"prompt {i} has id {wrong[0]}, outside the vocabulary 0 .. {model.vocab - 1}")
    if end is not None and (isinstance(end, bool) or not isinstance(end, int)):
        raise ValueError(f"end={end!r} is not one id")
    if end is not None and not 0 <= end < model.vocab:
        raise ValueError(f"end={end} is outside the vocabulary 0 .. {model.vocab - 1}")


def _check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} is not a number from 0 on")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: at least one token must be left")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is not in (0, 1]")
