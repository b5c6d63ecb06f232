"""How a published state dict becomes one of ours."""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Rules = Iterable[tuple[str, str | None]]
Maker = Callable[[Any, dict[str, Tensor]], tuple[dict[str, Tensor], Rules]]
_makers: dict[tuple[str, str], Maker] = {}


def published(model: str, source: str) -> Callable[[Maker], Maker]:
    """Decorator of a function (model, state dict) -> (state dict, rules) for a model class and a source.

    The function may reshape tensors first (fused or transposed ones); renaming is left to the rules.
    """

    def keep(maker: Maker) -> Maker:
        _makers[model, source] = maker
        return maker

    return keep


def load_published(model: Model, state: Mapping[str, Tensor], source: str = "transformers") -> Model:
    """Fills a model with weights published for another implementation of it, and returns it.

    Args:
        model: one of ours, of the same size as the published one.
        state: the state dict as published (safetensors, or torch.load(..., weights_only=True)).
        source: whose layout it has: "transformers", "timm", "torchvision", "torch" or "official".

    Raises:
        ValueError: no rules for this model and source; the message lists the sources there are.
        KeyError: a published tensor that no rule takes. Nothing is dropped in silence.
        RuntimeError: a tensor of ours without a source, or a shape that differs (torch's strict loading).
    """
    kind = type(model).__name__
    try:
        importlib.import_module(f"{__package__}.{type(model).__module__.rpartition('.')[2]}")
    except ModuleNotFoundError as error:
        raise ValueError(f"no published weights are known for {kind}") from error
    if (kind, source) not in _makers:
        known = sorted(s for k, s in _makers if k == kind)
        raise ValueError(f"no rules for {kind} from source={source!r}; known sources: {', '.join(known) or 'none'}")
    state, rules = _makers[kind, source](model, dict(state))
    model.load_state_dict(convert(state, rules))
    return model


def convert(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Renames keys. Each rule is (regex, replacement); the first rule that matches the whole key wins.

    A replacement of None drops the key. A replacement holding "{q,k,v}" splits the tensor in three along axis 0.

    Raises:
        KeyError: a key that no rule matches.
        ValueError: two keys that would get the same name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        found = next(((m, r) for p, r in compiled if (m := p.fullmatch(key))), None)
        if found is None:
            raise KeyError(f"no rule for {key!r} {tuple(tensor.shape)}")
        match, replacement = found
        if replacement is None:
            continue
        new = match.expand(replacement)
        parts = (
            {new.replace("{q,k,v}", n): t for n, t in zip("qkv", tensor.chunk(3), strict=True)}
            if "{q,k,v}" in new
            else {new: tensor}
        )
        if twice := parts.keys() & out.keys():
            raise ValueError(f"{key!r} would overwrite {sorted(twice)}")
        out |= parts
    return out
