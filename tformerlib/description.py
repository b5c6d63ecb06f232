"""What a registered model is: paper, size, arguments, the implementation it is compared with, and its claims."""

import inspect
import re
from pathlib import Path
from typing import Any

import torch

from .extras import needs
from .registry import create_model, module_of, variant_of

_ROOT = Path(__file__).resolve().parent.parent


def describe(name: str) -> None:
    """Prints what is known of a registered model: `describe("swin_tiny")`.

    Systems and claims are read from data/systems.yml and the ledger, in a clone of the book; an installed library has
    the ledger alone. Nothing is built: parameters are counted on torch's device "meta".

    Raises:
        ValueError: an unknown name, with the nearest ones.
    """
    print(description(name))


def description(name: str) -> str:
    """The text that `describe` prints."""
    factory = variant_of(name)
    with torch.device("meta"):
        count = sum(p.numel() for p in create_model(name).parameters())
    about = inspect.cleandoc(factory.__doc__ or "").replace("\n", "\n  ")
    arguments = [f"{key}={_shown(p.default)}" for key, p in inspect.signature(factory).parameters.items()]
    lines = [f"{name}: {about}", f"  parameters  {count:,}", f"  arguments   {', '.join(arguments)}"]
    for system in _systems(name, factory.__doc__ or ""):
        lines += [
            f"  paper       {system['name']}, {system['authors']} {system['year']}: {system['introduces']}",
            f"  compared    with {system['peer'] or 'nothing yet'}",
        ]
        lines += [
            f"  claim       {claim.id} ({claim.source['where']}): {claim.claim.strip()}" for claim in _claims(system)
        ]
    return "\n".join(lines)


def _systems(name: str, about: str) -> list[dict[str, Any]]:
    """The rows of data/systems.yml about a model: those of its file, and of these the ones its docstring cites."""
    table = _ROOT / "data" / "systems.yml"
    if not table.exists():
        return []
    with needs("show"):
        import yaml
    rows = yaml.safe_load(table.read_text(encoding="utf-8"))
    file = module_of(name)
    here = file.relative_to(_ROOT).as_posix() if file.is_relative_to(_ROOT) else ""
    rows = [row for row in rows if row["model"] and row["model"].partition("::")[0] == here]
    cited = [row for row in rows if re.search(rf"{re.escape(row['authors'])},? \(?{row['year']}", about)]
    return cited or rows


def _claims(system: dict[str, Any]) -> list[Any]:
    from .claims import load_ledger

    return [claim for claim in load_ledger().values() if claim.system == system["id"]]


def _shown(value: Any) -> str:
    """A default: functions and classes by their names."""
    return getattr(value, "__name__", None) or repr(getattr(value, "func", value))
