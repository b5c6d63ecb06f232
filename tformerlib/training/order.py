"""Which examples make up each batch, and how they become tensors."""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

Examples = Sequence[Any] | tuple[Tensor, ...] | Tensor


def size(examples: Examples) -> int:
    """The number of examples. Raises ValueError for a tuple of tensors of different lengths."""
    if not isinstance(examples, tuple):
        return len(examples)
    lengths = [len(tensor) for tensor in examples]
    if len(set(lengths)) > 1:
        raise ValueError(f"the tensors of examples differ in length: {lengths}")
    return lengths[0] if lengths else 0


def fingerprint(examples: Examples) -> int:
    """A number that other examples of the same count would hardly have: of some evenly spread ones."""
    count = size(examples)
    some = torch.linspace(0, max(count - 1, 0), min(count, 16)).long()
    picked = pick(examples, some) if count else ()
    return zlib.crc32(repr(_content(picked)).encode())


def _content(example: Any) -> Any:
    if isinstance(example, Tensor):
        return example.detach().cpu().tolist()
    if isinstance(example, dict):
        return {key: _content(value) for key, value in example.items()}
    if isinstance(example, (list, tuple)):
        return [_content(value) for value in example]
    return example if isinstance(example, (str, bytes, int, float, bool)) else type(example).__name__


def chosen(count: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The examples of a step's batch: indices (batch_size,).

    Shuffled passes over all examples follow each other without end, and batches are cut from that stream. A batch
    depends on nothing but these numbers, so a run that continues sees what it would have seen.
    """
    first, end = (step - 1) * batch_size, step * batch_size
    passes = range(first // count, (end - 1) // count + 1)
    if len(passes) == 1:
        return _pass(count, passes[0], seed)[first - passes[0] * count : end - passes[0] * count]
    stream = torch.cat([_pass(count, number, seed) for number in passes])
    return stream[first - passes[0] * count : end - passes[0] * count]


@lru_cache(maxsize=4)
def _pass(count: int, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**32)
    return torch.randperm(count, generator=generator)


def pick(examples: Examples, indices: Tensor) -> Any:
    """The examples at the indices: indexed tensors where examples are tensors, otherwise a list."""
    if isinstance(examples, Tensor):
        return examples[indices]
    if isinstance(examples, tuple):
        return tuple(tensor[indices] for tensor in examples)
    if hasattr(examples, "__getitems__"):  # a Hugging Face Dataset reads many rows at once
        return examples.__getitems__(indices.tolist())
    return [examples[i] for i in indices.tolist()]


def default_collation(examples: Examples) -> Callable[[Any], Any]:
    """What makes a batch if nothing else is asked for: indexed tensors are one already, a list is stacked."""
    return (lambda batch: batch) if isinstance(examples, (Tensor, tuple)) else default_collate
