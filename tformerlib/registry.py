"""Models by the name the field uses: `create_model("transformer_base", source_vocab=8000)`."""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_factories: dict[str, Callable[..., nn.Module]] = {}


def register(factory: Factory) -> Factory:
    """Decorator: makes a variant's function known under its own name. Its docstring cites the paper.

    Raises:
        ValueError: another function has that name already.
    """
    name = factory.__name__
    if _factories.get(name, factory).__module__ != factory.__module__:
        raise ValueError(f"model {name!r} is already registered by {_factories[name].__module__}")
    _factories[name] = factory
    return factory


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered model with random weights; `overrides` replace any of its arguments.

    Raises:
        ValueError: unknown name; the message lists the nearest ones.
        TypeError: an override that the model does not take; the message lists those it takes.
    """
    _import_models()
    if name not in _factories:
        near = difflib.get_close_matches(name, _factories, n=3, cutoff=0.4) or sorted(_factories)
        raise ValueError(f"no model {name!r}; did you mean {', '.join(near)}? list_models() has all {len(_factories)}")
    try:
        return _factories[name](**overrides)
    except TypeError as error:
        model = inspect.signature(_factories[name]).return_annotation
        takes = list(inspect.signature(model).parameters) if inspect.isclass(model) else []
        unknown = [key for key in overrides if takes and key not in takes]
        if not unknown:
            raise
        raise TypeError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(takes)}") from error


def list_models(pattern: str = "*") -> list[str]:
    """Names of registered models that match a shell pattern, sorted: `list_models("transformer_*")`."""
    _import_models()
    return sorted(fnmatch.filter(_factories, pattern))


def _import_models() -> None:
    """Importing a module of `models` registers its variants; done at the first question, to keep the import light."""
    from . import models

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
