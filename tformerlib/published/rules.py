"""How a published state dict becomes one of ours."""

import contextlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Rules = Iterable[tuple[str, str | None]]
Maker = Callable[[Any, dict[str, Tensor]], tuple[dict[str, Tensor], Rules]]
MODELS = "tformerlib.models."
_makers: dict[tuple[str, str], Maker] = {}


def published(model: str, source: str) -> Callable[[Maker], Maker]:
    """Decorator of a function (model, state dict) -> (state dict, rules) for a model class and a source.

    The function may reshape tensors first (fused or transposed ones); renaming is left to the rules.
    """

    def keep(maker: Maker) -> Maker:
        _makers[model, source] = maker
        return maker

    return keep


def load_published(model: Model, state: Mapping[str, Any], source: str = "transformers") -> Model:
    """Fills a model with weights published for another implementation of it, and returns it.

    Args:
        model: one of ours, of the same size as the published one.
        state: the state dict as published (safetensors, or torch.load(..., weights_only=True)), also inside of
            {"model": ...} or under names that begin with `module.`, as training scripts save it.
        source: whose layout it has: "transformers", "timm", "torchvision", "torch" or "official".

    Raises:
        ValueError: no rules for this model and source; the message lists the sources there are.
        KeyError: a published tensor that no rule takes. Nothing is dropped in silence.
        RuntimeError: a tensor of ours without a source, or a shape that differs (torch's strict loading).
    """
    kinds = [kind for kind in type(model).__mro__ if kind.__module__.startswith(MODELS)]  # also of a reader's subclass
    for kind in kinds:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{__package__}.{kind.__module__.removeprefix(MODELS)}")
    names = [kind.__name__ for kind in kinds]
    maker = next((_makers[name, source] for name in names if (name, source) in _makers), None)
    if maker is None:
        own, known = type(model).__name__, sorted({s for k, s in _makers if k in names})
        if not known:
            raise ValueError(f"no published weights are known for {own}")
        raise ValueError(f"no rules for {own} from source={source!r}; known sources: {', '.join(known)}")
    state, rules = maker(model, unwrap(state))
    model.load_state_dict(convert(state, rules))
    return model


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside of what training scripts save: {"model": ...}, and names that begin as wrappers have them.

    LayerNorms of files converted from TensorFlow have `gamma` and `beta`; half precision becomes float32, in which
    position tables can be resized.

    Raises:
        ValueError: a whole pickled model, or a dictionary with something else than tensors in it.
    """
    if isinstance(state, nn.Module):
        raise ValueError(f"a whole {type(state).__name__}; give its state_dict()")
    for wrapper in ("model", "state_dict", "model_state_dict", "module"):
        if isinstance(inner := state.get(wrapper), Mapping):
            state = inner
    for prefix in ("module.", "_orig_mod.", "module."):  # either may stand in the other
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if others := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{others[0]!r} is a {type(state[others[0]]).__name__}, not a tensor: no state dict")
    named = ((re.sub(r"(LayerNorm)\.gamma$", r"\1.weight", key), x) for key, x in state.items())
    named = ((re.sub(r"(LayerNorm)\.beta$", r"\1.bias", key), x) for key, x in named)
    return {key: x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for key, x in named}


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
