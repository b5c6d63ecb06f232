"""The standard library's own source: a corpus of Python that is on every machine that can run this book."""

import hashlib
import sys
import sysconfig
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..run.records import emit
from .hub import DataError

# Not on every machine (a distribution's packages of their own), gone from newer Pythons, or tables of names.
LEFT_OUT = frozenset({
    "asynchat", "asyncore", "distutils", "encodings", "ensurepip", "idlelib", "imp", "lib2to3", "pydoc_data", "smtpd",
    "tkinter", "turtle", "turtledemo",
})  # fmt: skip
TESTS = frozenset({"test", "tests", "idle_test"})
HELD_OUT = (
    "argparse",
    "concurrent",
    "fractions",
    "json",
    "logging",
    "pathlib",
    "queue",
    "shutil",
    "wsgiref",
    "zipfile",
)

# A run of this seed or above chooses settings. It is tested on packages that the others learn from.
FIRST_PILOT = 100
VALIDATION = ("asyncio", "csv", "heapq", "http", "sched", "statistics", "tarfile", "unittest")


class Source(NamedTuple):
    """A file: its package ("json"), its path inside the library ("json/decoder.py") and its text."""

    package: str
    path: str
    text: str


def standard_library(*, leave_out: Collection[str] = LEFT_OUT, folder: Path | str | None = None) -> list[Source]:
    """The .py files of the running Python's standard library, sorted by path, without tests.

    What they say differs between versions of Python, so results on them do too; the version and the SHA-256 of the
    content go into the record of the run.

    Args:
        leave_out: packages that are not wanted.
        folder: the library's place, if not that of the running Python.

    Raises:
        DataError: the folder holds no source (a Python that was packed without it).
    """
    root = Path(folder or sysconfig.get_path("stdlib"))
    files = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        package = parts[0].removesuffix(".py")
        if package in sys.stdlib_module_names and package not in leave_out and not TESTS & set(parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                files.append(Source(package, "/".join(parts), text))
    if not files:
        raise DataError(f"{root} holds no source of the standard library: is this Python packed without it?")
    files.sort(key=lambda file: file.path)
    version = ".".join(map(str, sys.version_info[:3]))
    emit("data", {"name": "standard_library", "split": "all", "sha256": source_hash(files),
                  "source": f"Python {version}", "rows": len(files)})  # fmt: skip
    return files


def split_packages(files: Sequence[Source], held_out: Collection[str] = HELD_OUT) -> tuple[list[Source], list[Source]]:
    """(training, test) files: whole packages are held out, because files of one package repeat each other.

    Raises:
        ValueError: a package to hold out that is not there, or nothing left to train on.
    """
    packages = {file.package for file in files}
    if missing := sorted(set(held_out) - packages):
        raise ValueError(f"no package {', '.join(missing)} among the files; there are {', '.join(sorted(packages))}")
    if not 0 < len(set(held_out)) < len(packages):
        raise ValueError(f"{len(set(held_out))} of {len(packages)} packages held out: one side is empty")
    return [f for f in files if f.package not in held_out], [f for f in files if f.package in held_out]


def split_for(seed: int, files: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """`split_packages` for a run of this seed. A pilot never sees the held-out packages, only validation packages."""
    training, held_out = split_packages(files)
    return split_packages(training, VALIDATION) if seed >= FIRST_PILOT else (training, held_out)


def source_hash(files: Iterable[Source]) -> str:
    """SHA-256 of paths and texts, as a hex string."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.text}\0".encode())
    return digest.hexdigest()
