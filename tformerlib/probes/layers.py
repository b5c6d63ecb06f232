"""Outputs of named submodules, and models that go without some of them; both by hooks, the model stays as it is."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def _modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    known = dict(model.named_modules())
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"{type(model).__name__} has no submodules {missing}")
    return [known[name] for name in names]


@torch.no_grad()
def outputs_of(model: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """What the named submodules give for one batch, by name, in the order of `names`.

    Raises:
        ValueError: a name that the model does not have, or a submodule that the batch did not reach.

    >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    >>> {name: tuple(y.shape) for name, y in outputs_of(model, ["0", "1"], torch.zeros(2, 3)).items()}
    {'0': (2, 5), '1': (2, 5)}
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in zip(names, _modules(model, names), strict=True):
            hook = module.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out.detach()))
            stack.callback(hook.remove)
        model(x)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the batch did not reach {missing}")
    return {name: found[name] for name in names}


@contextmanager
def without(model: nn.Module, *names: str) -> Iterator[None]:
    """Inside, the named submodules hand on their input. Of a residual block that leaves the stream as it came.

    Raises:
        ValueError: a name that the model does not have; on the way, a submodule whose output has another shape than
            its input.
    """

    def skip(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
        if inputs[0].shape != out.shape:
            raise ValueError(
                f"{type(module).__name__} makes {tuple(out.shape)} of {tuple(inputs[0].shape)}: not left out"
            )
        return inputs[0]

    with ExitStack() as stack:
        for module in _modules(model, names):
            stack.callback(module.register_forward_hook(skip).remove)
        yield
