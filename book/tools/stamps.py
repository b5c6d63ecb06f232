"""What the Snakefile has to know: which runs are wanted, and the stamps that say that they are done."""

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .execute import Job, intact
from .keys import data_sets, digests, whole_library
from .layout import JUDGING, PROFILES, Book

SITE = (
    "book",
    "data",
    "_toc.yml",
    "_config.yml",
    "pyproject.toml",
    "CITATION.cff",
    "tformerlib/show",
    "tformerlib/claims",
)
KEYS = ("chapters", "profile", "seeds", "earlier")
SEEDS = "seeds=10..14 or seeds=10,11"


@dataclass(frozen=True)
class Stamps:
    """The runs that `--config chapters=a,b profile=quick seeds=10..14` asks for; without it all in quick with seed 0.

    `earlier=keep` lets the records of earlier code count for seeds that judge; else such seeds run again.

    Raises:
        ValueError: another key, or a value that none of them takes.
    """

    book: Book
    config: dict[str, Any]

    def __post_init__(self) -> None:
        for key in self.config:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"--config has no {key!r}, only {', '.join(KEYS)}{meant}")
        if self.config.get("earlier", "keep") != "keep":
            raise ValueError(f"earlier={self.config['earlier']!r} is not keep")
        _ = self.jobs  # refuses unknown values

    @cached_property
    def names(self) -> list[str]:
        asked = [name for name in _text(self.config.get("chapters", "")).split(",") if name]
        for name in asked:
            self.book.chapter(name)  # refuses an unknown one
        return asked or list(self.book.chapters)

    @cached_property
    def profile(self) -> str:
        profile = str(self.config.get("profile", "quick"))
        if profile not in PROFILES:
            raise ValueError(f"profile={profile!r} is not one of {', '.join(PROFILES)}")
        return profile

    @cached_property
    def jobs(self) -> list[Job]:
        seeds = seeds_of(self.config["seeds"]) if "seeds" in self.config else [0]
        keep = "earlier" in self.config
        return [Job(self.book, name, self.profile, seed, keep=keep) for seed in seeds for name in self.names]

    @cached_property
    def chapters(self) -> list[str]:
        """One stamp for each run, relative to the repository's root."""
        return [self._stamp(job) for job in self.jobs]

    @property
    def targets(self) -> list[str]:
        """What the configuration asks for: a sweep's results, some chapters, or the whole book."""
        if "seeds" in self.config or "profile" in self.config:
            return [self.results]
        return self.chapters if self.config.get("chapters") else [self.site]

    @cached_property
    def results(self) -> str:
        """The stamp of a sweep whose results have been collected."""
        return f"build/stamps/results.{self._digest}"

    @property
    def log(self) -> Path:
        """Where this call's runs say how they ended."""
        return self.book.build / "sweeps" / f"{self._digest}.jsonl"

    @property
    def missing(self) -> int:
        """How many runs have no stamp."""
        return sum(not (self.book.root / stamp).exists() for stamp in self.chapters)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(" ".join(self.chapters).encode()).hexdigest()[:16]

    @cached_property
    def site(self) -> str:
        """The stamp of the website: the chapters' stamps and every file that the pages are made from."""
        digest = hashlib.sha256("\0".join(self.chapters).encode())
        for path in (file for name in SITE for file in _files(self.book.root / name)):
            digest.update(str(path.relative_to(self.book.root)).encode() + path.read_bytes())
        return self._fresh("site", digest.hexdigest()[:16], (self.book.build / "site" / "index.html").exists())

    def position(self, name: str, seed: str) -> str:
        """Where a run is among those asked for: "2/5"."""
        runs = [(job.name, job.seed) for job in self.jobs]
        return f"{runs.index((name, int(seed))) + 1}/{len(runs)}"

    def failed(self) -> list[str]:
        """The traceback notebooks of the last runs that failed."""
        return [str(job.failed.relative_to(self.book.root)) for job in self.jobs if job.failed.exists()]

    @cached_property
    def _surroundings(self) -> bytes:
        """All that a run could depend on beside its chapter.

        Which files a run imports is known when it has ended, and a stamp's name before it begins. So every file of the
        library counts here, and a run whose own files are as they were ends at once.
        """
        root = self.book.root
        parts = [*digests(root, whole_library(root)).items(), *sorted(data_sets())]
        read = ("constraints.txt", "data/results/comparisons", "benchmarks/results")
        files = [file for name in read for file in _files(root / name)]
        return repr(parts).encode() + b"".join(path.read_bytes() for path in files)

    def _stamp(self, job: Job) -> str:
        """The digest covers the prose as well: new prose has to get into the notebook, though nothing runs again."""
        digest = hashlib.sha256(self._surroundings + job.book.chapter(job.name).read_bytes())
        there = intact(job.output) is not None  # else its run is wanted again
        if job.seed in JUDGING:  # another instruction set asks for a record of its own
            digest.update(f"{job.keep} {os.environ.get('ATEN_CPU_CAPABILITY')}".encode())
            there = (self.book.root / "data" / "results" / f"{job.name}.jsonl").exists()
        return self._fresh(f"{job.profile}/{job.name}-s{job.seed}", digest.hexdigest()[:16], there)

    def _fresh(self, name: str, digest: str, there: bool) -> str:
        """The stamp's path; a stamp whose product is not there any more is deleted too."""
        stamp = self.book.build / "stamps" / f"{name}.{digest}"
        if not there:
            stamp.unlink(missing_ok=True)
        return str(stamp.relative_to(self.book.root))


def seeds_of(value: Any) -> list[int]:
    """The seeds that `10..14` or `10,11` names.

    Raises:
        ValueError: it is a bare number, which meant how many seeds before it could be taken for one, or no seeds.
    """
    text = _text(value)
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise ValueError(f"seeds={text} goes backwards; write {SEEDS}")
        return list(range(first, last + 1))
    if re.fullmatch(r"\d+(,\d+)+", text):
        return list(dict.fromkeys(map(int, text.split(","))))
    if text.isdecimal():
        raise ValueError(f"seeds={text} may mean one seed or how many; write {SEEDS}, and for one {text}..{text}")
    raise ValueError(f"seeds={text} names no seeds; write {SEEDS}")


def _text(value: Any) -> str:
    """A value of --config as it was typed: Snakemake makes lists and numbers of some."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [path] if path.exists() else []
