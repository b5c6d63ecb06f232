"""Where things are: chapters by the table of contents, and what is generated from them."""

import datetime
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

PROFILES = ("quick", "colab", "full")  # these two as the library has them; importing that would import torch
JUDGING = range(10, 30)  # the seeds whose runs are recorded, and judge claims


@dataclass(frozen=True)
class Book:
    """A checkout of the book. Chapters are named by the stem of their file: `attention`."""

    root: Path = Path(__file__).resolve().parents[2]

    @property
    def build(self) -> Path:
        return self.root / "build"

    @cached_property
    def entries(self) -> list[str]:
        """The pages of the table of contents, the landing page first, without their endings."""
        toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        return [entry.removesuffix(".py").removesuffix(".md") for entry in [toc["root"], *_files(toc)]]

    @cached_property
    def chapters(self) -> dict[str, Path]:
        """The chapters of the table of contents, in its order.

        Raises:
            ValueError: an entry under chapters/ that has no file.
        """
        found: dict[str, Path] = {}
        for entry in self.entries:
            name = entry.rpartition("/")[2]
            if path := next(iter(sorted((self.root / "chapters").rglob(f"{name}.py"))), None):
                found[name] = path
            elif entry.startswith("chapters/"):
                raise ValueError(f"_toc.yml names {entry}, but there is no chapters/**/{name}.py")
        return found

    def chapter(self, name: str) -> Path:
        """The source of a chapter, also of one that is not in the table of contents (the template).

        Raises:
            ValueError: no such chapter; the message lists those there are.
        """
        path = next(iter(sorted((self.root / "chapters").rglob(f"{name}.py"))), None)
        if path is None:
            raise ValueError(f"no chapter {name!r}; there are {', '.join(self.chapters)}")
        return path

    def executed(self, name: str, profile: str = "quick", seed: int = 0) -> Path:
        """The executed notebook; its provenance lies beside it, with the ending .json."""
        return self.build / "executed" / profile / f"{name}-s{seed}.ipynb"

    def failed(self, name: str, profile: str = "quick", seed: int = 0) -> Path:
        """The notebook of a failed run, with its traceback."""
        return self.build / "failed" / profile / f"{name}-s{seed}.ipynb"

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The rows of data/claims, each with its chapter."""
        return [
            {**row, "chapter": path.stem}
            for path in sorted((self.root / "data" / "claims").glob("*.yml"))
            for row in yaml.safe_load(path.read_text(encoding="utf-8")) or []
        ]

    @property
    def repository(self) -> str:
        """The address of the public repository, as pyproject.toml has it."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["urls"]["Repository"])


def now() -> str:
    """The time in UTC, as ISO has it, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def atomic_write(path: Path, text: str) -> None:
    """Writes a file whole or not at all, so that an interrupted build leaves no half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _files(node: Any) -> Iterator[str]:
    """Every `file:` of a table of contents, in order."""
    if isinstance(node, dict):
        if "file" in node:
            yield str(node["file"])
        for value in node.values():
            yield from _files(value)
    elif isinstance(node, list):
        for value in node:
            yield from _files(value)
