"""Where two models part: the first submodule whose output differs, by how much, and the usual suspect."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Parting:
    """What `compare_models` found.

    `place` is the submodule of the first model to look at; empty where the models agree. `within` tells whether its
    input is known to the other model, so that the fault is in its own weights or forward pass; otherwise something
    between `agreed`, the last submodule whose output agrees, and `place` went wrong, in the forward pass of the
    module that holds them.
    """

    place: str
    within: bool
    agreed: str
    error: float  # largest difference of the models' outputs
    suspect: str

    def __bool__(self) -> bool:
        """Whether the models differ."""
        return bool(self.place)

    def __str__(self) -> str:
        if not self:
            return f"the models agree: their outputs differ by at most {self.error:.1e}"
        where = f"{self.place} is given the same and returns something else" if self.within else (
            f"between {self.agreed or 'the input'}, which agrees, and {self.place}, which is given something else"
        )  # fmt: skip
        return f"outputs differ by up to {self.error:.1e}; {where}; look at: {self.suspect or 'its forward pass'}"


@dataclass(frozen=True)
class Call:
    """A submodule at work, with its first tensor and its own."""

    name: str
    module: nn.Module
    given: Tensor | None
    made: Tensor


def compare_models(mine: nn.Module, theirs: nn.Module, inputs: Any, *, tolerance: float = 2e-5) -> Parting:
    """Runs both models on the same inputs, in eval mode, and says where they part.

    Submodules need not have the same names, nor be cut in the same way: whatever one of them computes is looked for
    among all that the other one computes. Weights should be the same (`load_published`), and wide: with small ones
    many mistakes hardly show.

    Args:
        inputs: a tensor, a tuple of positional arguments or a dictionary of keyword arguments, for both.
        tolerance: of differences, relative to the largest value of a tensor.

    Raises:
        ValueError: outputs without a floating tensor, or no common submodule at all.

    >>> a, b = (nn.Sequential(nn.LayerNorm(8, eps=e), nn.Linear(8, 3)) for e in (1e-5, 1e-1))
    >>> _ = b.load_state_dict(a.state_dict())
    >>> compare_models(a, b, torch.randn(2, 8)).suspect
    'eps=1e-05 here, 0.1 there'
    """
    a, b = _calls(mine, inputs), _calls(theirs, inputs)
    error = (a[-1].made - b[-1].made).abs().max().item() if a[-1].made.shape == b[-1].made.shape else float("inf")
    if _alike(a[-1].made, b[-1].made, tolerance):
        return Parting("", False, a[-1].name, error, "")
    known = [x for call in b for x in (call.given, call.made) if x is not None]
    known += [part for x in known if x.shape[-1:].numel() % 3 == 0 for part in x.chunk(3, -1)]  # q, k and v in one
    leaves = [call for call in a if not any(True for _ in call.module.children())]
    agreeing = [i for i, call in enumerate(leaves) if any(_alike(call.made, x, tolerance) for x in known)]
    last = agreeing[-1] if agreeing else -1
    strays = (
        i for i, call in enumerate(leaves[:last])
        if i not in agreeing and call.given is not None and any(_alike(call.given, x, tolerance) for x in known)
        and not any(_same_numbers(call.made, x, tolerance) for x in known)
    )  # fmt: skip
    last = next(strays, last + 1) - 1  # what is given the same and returns something else, though others went on
    if last == len(leaves) - 1:
        return Parting(leaves[-1].name, False, leaves[-1].name, error, "what is done with the last submodule's output")
    culprit, agreed = leaves[last + 1], leaves[last].name if agreeing else ""
    within = culprit.given is not None and any(_alike(culprit.given, x, tolerance) for x in known)
    if within:
        twins = [
            call for call in b
            if call.given is not None and not any(True for _ in call.module.children())
            and culprit.given is not None and _alike(call.given, culprit.given, tolerance)
        ]  # fmt: skip
        suspect = next(filter(None, (_suspect(culprit, twin) for twin in _likely(culprit, twins))), "")
    else:
        suspect = _between(culprit, b, tolerance)
    return Parting(culprit.name, within, agreed, error, suspect)


def _calls(model: nn.Module, inputs: Any) -> list[Call]:
    """Every submodule at work, in the order in which they finish; the model itself comes last."""
    calls: list[Call] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            tensors = list(_tensors(out))
            if tensors:
                given = next(_tensors((args, kwargs)), None)
                calls.append(Call(name, module, given, tensors[0].detach()))

        return hook

    training = model.training
    with ExitStack() as stack, torch.no_grad():
        stack.callback(model.train, training)
        model.eval()
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(keep(name), with_kwargs=True).remove)
        if isinstance(inputs, dict):
            model(**inputs)
        else:
            model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    if not calls or calls[-1].name:
        raise ValueError(f"{type(model).__name__} returned no floating tensor")
    return calls


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _alike(x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Equal numbers in the same order, whatever the axes: images may be (B, C, H, W) here and (B, H, W, C) there."""
    if x.numel() != y.numel() or x.numel() == 0:
        return False
    scale = max(x.abs().max().item(), 1e-6)
    if x.shape == y.shape or x.squeeze().shape == y.squeeze().shape:
        return bool((x.reshape(-1) - y.reshape(-1)).abs().max() <= tolerance * scale)
    if x.ndim != y.ndim and (x.reshape(-1) - y.reshape(-1)).abs().max() <= tolerance * scale:
        return True
    forms = (y.movedim(-1, 1), y.movedim(1, -1)) if y.ndim == 4 else (y.mT,) if y.ndim == 3 else ()
    flat = x.flatten(1) if x.ndim > 1 else x[None]
    return any(
        form.shape[0] == x.shape[0] and bool((form.flatten(1) - flat).abs().max() <= tolerance * scale)
        for form in forms
    )


def _same_numbers(x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Equal numbers in any order: tokens of windows stand in other places than tokens of a map."""
    if x.numel() != y.numel():
        return False
    x, y = x.flatten().sort().values, y.flatten().sort().values
    return bool((x - y).abs().max() <= tolerance * max(x.abs().max().item(), 1e-6))


def _likely(culprit: Call, twins: list[Call]) -> list[Call]:
    """Of the other model's submodules that are given the same: those of the same kind first."""
    return sorted(twins, key=lambda call: type(call.module).__name__ != type(culprit.module).__name__)


def _suspect(mine: Call, theirs: Call) -> str:
    """What differs between two submodules that are given the same tensor."""
    a, b = mine.module, theirs.module
    if _is_norm(a) != _is_norm(b):
        return ""
    for name in ("eps", "p", "num_groups", "stride", "padding"):
        x, y = getattr(a, name, None), getattr(b, name, None)
        if x is not None and y is not None and x != y:
            return f"{name}={x} here, {y} there"
    for name in ("weight", "bias"):
        x, y = getattr(a, name, None), getattr(b, name, None)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            if x.shape == y.shape and torch.allclose(x, y, atol=1e-6):
                continue
            if x.ndim == 2 and x.mT.shape == y.shape and torch.allclose(x.mT, y, atol=1e-6):
                if type(b).__name__ == "Conv1D":
                    continue  # transformers stores these the other way round
                return "a transposed weight"
            if x.shape == y.shape:
                return f"another {name}"
        elif isinstance(x, Tensor) != isinstance(y, Tensor):
            return f"a {name} that only one of them has"
    return _activation(mine, theirs)


def _activation(mine: Call, theirs: Call) -> str:
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "GELU": F.gelu, "GELU by tanh": lambda x: F.gelu(x, approximate="tanh"), "ReLU": F.relu, "SiLU": F.silu,
        "GELU by a logistic": lambda x: x * torch.sigmoid(1.702 * x),
    }  # fmt: skip

    def named(call: Call) -> str:
        x = call.given
        if x is None or x.shape != call.made.shape:
            return ""
        return next((name for name, f in known.items() if torch.allclose(f(x), call.made, atol=1e-6)), "")

    here, there = named(mine), named(theirs)
    return f"{here} here, {there} there" if here and there and here != there else ""


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _between(culprit: Call, others: list[Call], tolerance: float) -> str:
    """What may have gone wrong before a submodule that is given something unknown to the other model."""
    given = culprit.given
    if given is None or given.ndim < 3:
        return "what is added, permuted or pooled before it"
    same_shape = [x for call in others for x in (call.given,) if x is not None and x.shape == given.shape]
    for x in same_shape:
        near = (given - x).abs().amax(-1).flatten(1) <= tolerance * max(x.abs().max().item(), 1e-6)
        rows = near.all(0)
        if rows.any() and not rows.all() and (rows[0] or rows[-1]):
            return "the mask: some tokens agree and others do not"
    for x in same_shape:
        ratio = (given * x).sum() / (x * x).sum().clamp_min(1e-12)
        if abs(ratio.item() - 1) > 1e-3 and (given - ratio * x).abs().max() <= tolerance * given.abs().max():
            return f"a factor of {ratio:.4g}"
    if _is_norm(culprit.module):
        return "what enters the norm: the residual, or a norm before instead of after the sublayer"
    return "attention itself (scale, heads, bias, mask), or the order of norm and sublayer"
