"""What is written down while a model trains."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .averaging import average_checkpoints
from .checkpoints import State


@dataclass
class History:
    """What a training run did. Entry i of steps, losses, seconds, cpu_seconds and of each of `parts` is one step."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)  # what a loss returned beside the loss; NaN if not then
    seconds: list[float] = field(default_factory=list)  # spent training so far: no evaluation, no checkpoint
    cpu_seconds: list[float] = field(default_factory=list)  # the same in CPU time of all threads
    metrics: list[dict[str, Any]] = field(default_factory=list)  # of each evaluation, with its step and seconds
    ema: State | None = None  # the moving average of the weights
    kept: list[State] = field(default_factory=list)  # the weights at the last checkpoints, on the CPU

    @property
    def averaged(self) -> State:
        """The mean of the kept weights (Vaswani et al. 2017, sec. 6.1)."""
        return average_checkpoints(self.kept)

    def add(self, step: int, names: list[str], rows: Tensor) -> None:
        """Writes down the loss and parts (S, 1 + parts) of the S steps up to `step`; refuses NaN and infinity."""
        for number, (loss, *parts) in enumerate(rows.tolist(), step - len(rows) + 1):
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {number}; a lower lr or longer warm-up may help")
            values = dict(zip(names, parts, strict=True))
            for name in {**self.parts, **values}:  # a part that a step did not have is NaN there
                line = self.parts.setdefault(name, [math.nan] * len(self.steps))
                line.append(values.get(name, math.nan))
            self.steps.append(number)
            self.losses.append(loss)
