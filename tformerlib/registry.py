"""Models by the name the field uses: `create_model("transformer_base", source_vocab=8000)`."""

import ast
import difflib
import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
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


def register_all(model: Callable[..., nn.Module], sizes: Mapping[str, Mapping[str, Any]], paper: str) -> None:
    """Registers a function for each name of a table of sizes, which must be written out where it is called.

    Args:
        sizes: names to the model's arguments.  paper: what to cite, for the docstrings.
    """

    def variant(name: str, size: Mapping[str, Any]) -> None:
        def make(**overrides: Any) -> nn.Module:
            return model(**dict(size) | overrides)

        make.__name__ = make.__qualname__ = name
        make.__module__ = model.__module__
        make.__doc__ = f"{name} ({paper})."
        make.__annotations__["return"] = model
        register(make)

    for name, size in sizes.items():
        variant(name, size)


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered model with random weights; `overrides` replace any of its arguments.

    Raises:
        ValueError: unknown name; the message lists the nearest ones.
        TypeError: an override that the model does not take; the message lists those it takes.
    """
    importlib.import_module(module_of(name))
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
    return sorted(fnmatch.filter(_index(), pattern))


def module_of(name: str) -> str:
    """The module that registers a model: `tformerlib.models.swin` for "swin_tiny". Nothing is imported to find it.

    Raises:
        ValueError: unknown name; the message lists the nearest ones.
    """
    index = _index()
    if name not in index:
        near = difflib.get_close_matches(name, index, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(near)}?" if near else ";"
        raise ValueError(f"no model {name!r}{hint} list_models() has all {len(index)}")
    return index[name]


@functools.cache
def _index() -> dict[str, str]:
    """Names of the registered models with their modules, read off the sources: importing all of them takes a second."""
    from . import models

    return {
        name: f"{models.__name__}.{path.stem}"
        for folder in models.__path__
        for path in sorted(Path(folder).glob("*.py"))
        for name in _registered(ast.parse(path.read_text(encoding="utf-8")))
    }


def _registered(module: ast.Module) -> Iterator[str]:
    """Names that a module registers: its functions under @register, and the keys of tables given to register_all."""
    tables: dict[str, ast.Dict] = {}
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name, decorator_list=[ast.Name(id="register"), *_]):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict() as table):
                tables[name] = table
            case ast.Expr(value=ast.Call(func=ast.Name(id="register_all"), args=[_, ast.Name(id=table), *_])):
                yield from (str(ast.literal_eval(key)) for key in tables[table].keys if key is not None)
