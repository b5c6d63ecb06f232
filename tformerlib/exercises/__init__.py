"""Checks of a reader's code: `tf.check("swin-reach", farthest)` says what is wrong, or that it is right.

The checks of a chapter are in the module of its name. What they must reject and accept is in tests/exercises: every
check is itself checked, with planted wrong answers and a second right one.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..run.records import emit

Check = Callable[[Any], None]


class NotYet(AssertionError):  # noqa: N818 - no error of the program: an answer that is not right yet
    """An answer that a check rejects; the message names the symptom, never the cure."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback through our code."""
        return [f"Not yet: {self}"]


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is code: its name, its chapter, and the check."""

    name: str
    chapter: str
    check: Check


_known: dict[str, Exercise] = {}


def exercise(name: str) -> Callable[[Check], Check]:
    """Decorator: the function is the check of the exercise of that name; it raises `NotYet`, by `expect`."""

    def keep(check: Check) -> Check:
        if name in _known and _known[name].check.__module__ != check.__module__:
            raise ValueError(f"two checks are called {name!r}")
        _known[name] = Exercise(name, check.__module__.rpartition(".")[2], check)
        return check

    return keep


def expect(holds: bool, symptom: str) -> None:
    """Part of a check: raises NotYet with the symptom where something does not hold."""
    if not holds:
        raise NotYet(symptom)


def known() -> dict[str, Exercise]:
    """All checks by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_known.items()))


def check(name: str, answer: Any) -> None:
    """Checks an answer (mostly a function) to an exercise of the book and says that it is right.

    Random numbers in a check are drawn from a seed of its own; those of the chapter go on as if it had not run.

    Raises:
        NotYet: the answer is not right; the message names a case and what came out.
        KeyError: no exercise of that name; the message lists close ones.

    >>> check("attention-weights", lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
    attention-weights: right.
    """
    exercises = known()
    if name not in exercises:
        close = difflib.get_close_matches(name, exercises, n=3, cutoff=0.4) or sorted(exercises)
        raise KeyError(f"no exercise {name!r}; close to it: {', '.join(close)}")
    with _own_randomness():
        try:
            exercises[name].check(answer)
        except (NotYet, NotImplementedError):
            raise
        except Exception as error:
            raise NotYet(f"it raised {type(error).__name__}: {error}") from error
    emit("check", {"name": name}, text=f"{name}: right.")


@contextmanager
def _own_randomness() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2026)
        yield
