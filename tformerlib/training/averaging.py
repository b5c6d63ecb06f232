"""Averages of weights: of a run's last checkpoints, and along the way."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from .checkpoints import State, weights


def average_checkpoints(checkpoints: Sequence[State | str | Path]) -> State:
    """The mean of several states of one model (Vaswani et al. 2017, sec. 6.1): state_dicts, or files that hold one.

    Files may be checkpoints of `fit`, a state_dict saved by torch.save, or safetensors. Sums run in float64;
    tensors of whole numbers, such as counters, are taken from the last state.

    Raises ValueError for an empty list and for states whose names or shapes differ.
    """
    if not checkpoints:
        raise ValueError("no checkpoint to average")
    first: State = {}
    total: State = {}
    for number, checkpoint in enumerate(checkpoints, 1):
        state = checkpoint if isinstance(checkpoint, dict) else weights(Path(checkpoint))
        first = first or state
        for name in sorted(first.keys() | state.keys()):
            shapes = [tuple(s[name].shape) if name in s else "missing" for s in (first, state)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{name!r} is {shapes[0]} in the first checkpoint and {shapes[1]} in number {number}")
        for name, tensor in state.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor.double() if name in total else tensor.double()
            else:
                total[name] = tensor
    return {
        name: (value / len(checkpoints)).to(first[name].dtype) if value.is_floating_point() else value
        for name, value in total.items()
    }


class MovingAverage:
    """An exponential moving average of everything in a model's state_dict that has fractions.

    Args:
        decay: weight of the past at each update, in [0, 1): an average over about 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema={decay} must lie in [0, 1)")
        self.decay = decay
        self.model: State = model.state_dict()  # shares the model's storage, so it follows every step
        self.names = [name for name, value in self.model.items() if value.is_floating_point()]
        self.now = [self.model[name] for name in self.names]
        self.averages = [value.clone() for value in self.now]

    @torch.no_grad()
    def update(self) -> None:
        """Moves every average towards the present value."""
        torch._foreach_lerp_(self.averages, self.now, 1 - self.decay)

    def state_dict(self) -> State:
        """The averages under the model's own names; `model.load_state_dict` takes them."""
        state = self.model | dict(zip(self.names, self.averages, strict=True))
        return {name: value.clone() for name, value in state.items()}

    def load_state_dict(self, state: State) -> None:
        """Takes the averages up where a checkpoint left them."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])
