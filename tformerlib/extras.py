"""Packages that only a part of the library needs, and what to install where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of packages that an extra brings: `with needs("show"): import yaml`.

    Raises:
        ModuleNotFoundError: one is missing; the message says which, and that `tformerlib[extra]` has it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise
        text = f"No module named {error.name!r}: pip install 'tformerlib[{extra}]' brings it"
        raise ModuleNotFoundError(text, name=error.name, path=error.path) from error
