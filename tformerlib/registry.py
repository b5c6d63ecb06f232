"""Models by the name the field uses: `create_model("transformer_base", source_vocab=8000)`."""

import difflib
import fnmatch
import importlib
import inspect
import numbers
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from torch import nn

from . import models

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_factories: dict[str, Callable[..., nn.Module]] = {}

PROBABILITIES = {"dropout", "attention_dropout", "drop_path"}
POSITIVE = {
    "image", "patch", "channels", "dim", "dims", "embed", "heads", "head_dim", "hidden", "mlp", "expansion", "kernel",
    "stride", "strides", "window", "groups", "vocab", "source_vocab", "target_vocab", "segments", "context", "queries",
    "levels", "points",
}  # fmt: skip
# a name at the start of a line after @register, or as variant's first argument: what `module_of` reads of a source
_NAMES = re.compile(r'^@register\s+def (\w+)|^variant\("(\w+)"', re.MULTILINE)


@dataclass(frozen=True)
class Takes:
    """Says what `**options` of a constructor are, where it hands them to something else than its base class.

    `**trunk: Annotated[Any, Takes(Trunk, but=("blocks",))]`: the arguments of Trunk without blocks.
    """

    source: Callable[..., Any]
    but: tuple[str, ...] = ()


def register(factory: Factory) -> Factory:
    """Decorator: makes a variant's function known under its own name, and gives it a signature that can be read.

    Of `def swin_base(**overrides: Any) -> Swin`, the signature has each argument of Swin with the default of swin_base.
    The function's docstring cites the paper and says the model's size.

    Raises:
        ValueError: another function has that name already.
    """
    name, module = factory.__name__, factory.__module__
    owner = _factories[name].__module__ if name in _factories else _module_names().get(name, module)
    if owner != module:
        raise ValueError(f"model {name!r} is already registered by {owner}")
    own = inspect.signature(factory)
    if [p.kind for p in own.parameters.values()] == [inspect.Parameter.VAR_KEYWORD]:
        factory.__signature__ = _signature(factory, own.return_annotation)  # type: ignore[attr-defined]
    _factories[name] = factory
    return factory


def variant(name: str, model: type[nn.Module], about: str, **size: Any) -> None:
    """Registers `model(**size)` under a name: for papers with so many sizes that a table says them best.

    Args:
        about: the docstring: parameters, paper and table.
    """

    def make(**overrides: Any) -> nn.Module:
        return model(**size | overrides)

    make.__name__ = make.__qualname__ = name
    make.__module__, make.__doc__ = model.__module__, about
    make.__annotations__["return"] = model
    register(make)


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered model with random weights; `overrides` replace any of its arguments.

    `help(tformerlib.models.swin.swin_tiny)` shows them with their defaults, `describe("swin_tiny")` what the model is.

    Raises:
        ValueError: an unknown name, with the nearest ones; or a value that no model could have.
        TypeError: an override that the model does not take, or one of the wrong type. What the model itself raises
            while it is built comes through as it is.
    """
    factory = variant_of(name)
    return factory(**_checked(name, inspect.signature(factory), overrides))


def list_models(pattern: str = "*") -> list[str]:
    """Names of registered models that match a shell pattern, sorted: `list_models("transformer_*")`."""
    return sorted(fnmatch.filter(_module_names().keys() | _factories.keys(), pattern))


def variant_of(name: str) -> Callable[..., nn.Module]:
    """The function that builds the model of a name. Imports that model's module and no other.

    Raises:
        ValueError: an unknown name, with the nearest ones.
    """
    if name not in _factories:
        known = _module_names()
        if name not in known:
            names = list_models()
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise ValueError(f"no model {name!r}; {hint}list_models() has all {len(names)}")
        importlib.import_module(known[name])
    return _factories[name]


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments that a name's overrides may replace, with their defaults."""
    return dict(inspect.signature(variant_of(name)).parameters)


def module_of(name: str) -> Path:
    """The file that registers a model, found without importing it.

    Raises:
        ValueError: an unknown name.
    """
    known = _module_names()
    if name in known:
        return Path(models.__path__[0]) / f"{known[name].rpartition('.')[2]}.py"
    return Path(inspect.getfile(variant_of(name)))


@cache
def _module_names() -> dict[str, str]:
    """Names that the files of `models` register, with their modules: read off the sources, as importing takes long."""
    return {
        next(filter(None, found)): f"{models.__name__}.{path.stem}"
        for path in sorted(Path(models.__path__[0]).glob("*.py"))
        for found in _NAMES.findall(path.read_text(encoding="utf-8"))
    }


def _signature(factory: Callable[..., nn.Module], model: type[nn.Module]) -> inspect.Signature:
    """The arguments of the model, with the defaults that the factory chooses; those that it sets by place are gone."""
    place, chosen = _chosen(factory, model)
    taken: dict[str, inspect.Parameter] = {}
    for parameter in _arguments(model):
        taken.setdefault(parameter.name, parameter)  # a class before what it is derived from
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=chosen.get(p.name, p.default))
        for p in list(taken.values())[len(place) :]
    ]
    return inspect.Signature(parameters, return_annotation=model)


def _arguments(source: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """What a class or function can be called with: by name, and through `**options` what base classes take too."""
    inits = [vars(c)["__init__"] for c in source.__mro__ if "__init__" in vars(c)] if inspect.isclass(source) else []
    for function in inits or [source]:
        own = list(inspect.signature(function).parameters.values())[bool(inits) :]  # without self
        yield from (p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        rest = next((p for p in own if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return
        for takes in getattr(rest.annotation, "__metadata__", ()):
            if isinstance(takes, Takes):
                yield from (p for p in _arguments(takes.source) if p.name not in takes.but)
                return


def _chosen(factory: Callable[..., nn.Module], model: type[nn.Module]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which a factory builds its model, by place and by name: caught where the building begins."""
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    build: Callable[..., None] = model.__init__
    own, thread = "__init__" in vars(model), threading.get_ident()

    class CaughtError(Exception):
        pass

    def catch(self: nn.Module, *place: Any, **chosen: Any) -> None:
        if threading.get_ident() != thread:  # somebody else builds one meanwhile
            return build(self, *place, **chosen)
        caught.append((place, chosen))
        raise CaughtError

    model.__init__ = catch  # type: ignore[method-assign]
    try:
        factory()
    except CaughtError:
        pass
    finally:
        if own:
            model.__init__ = build  # type: ignore[method-assign]
        else:
            del model.__init__
    return caught[0]


def _checked(name: str, signature: inspect.Signature, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides with tuples for lists where tuples are asked for; refuses what cannot be right."""
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # a factory that does not say what it builds
        return overrides
    if unknown := [key for key in overrides if key not in parameters]:
        near = [match for key in unknown for match in difflib.get_close_matches(key, parameters, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise TypeError(f"{name} takes no {', '.join(unknown)}{hint}; it takes {', '.join(parameters)}")
    checked = {}
    for key, value in overrides.items():
        annotation = parameters[key].annotation
        checked[key] = value = value if _fits(value, annotation) else _tuples(value)
        if not _fits(value, annotation):
            wanted = inspect.formatannotation(annotation).replace("collections.abc.", "")
            raise TypeError(
                f"{name}: {key}={overrides[key]!r} is of type {type(overrides[key]).__name__}, not {wanted}"
            )
        for x in _numbers(value):
            if key in PROBABILITIES and not 0 <= x < 1:
                raise ValueError(f"{name}: {key}={value} is not a probability in [0, 1)")
            if key in POSITIVE and not x > 0:
                raise ValueError(f"{name}: {key}={value} is not positive")
    return checked


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the annotated type. A bool is no number here, and an int is a float."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, inner[0])
    if annotation in (Any, inspect.Parameter.empty):
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if annotation in (None, NoneType):
        return value is None
    if annotation in (int, float):
        return isinstance(value, numbers.Integral if annotation is int else numbers.Real) and not isinstance(
            value, bool
        )
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is ... else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(x, inner[0]) for x in value)
    if origin is type:
        return isinstance(value, type) and (not inspect.isclass(inner[0]) or issubclass(value, inner[0]))
    if origin is Callable or annotation is Callable:
        return callable(value)
    return isinstance(value, annotation) if inspect.isclass(annotation) else True


def _tuples(value: Any) -> Any:
    """Lists as tuples, also inside: JSON and YAML know no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    elif type(value) is not bool and isinstance(value, numbers.Real):
        yield value
