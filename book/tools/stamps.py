"""What the Snakefile has to know: which runs are wanted, and the stamps that say that they are done."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .execute import Job
from .layout import PROFILES, Book

SITE = ("book", "data", "_toc.yml", "_config.yml", "pyproject.toml", "CITATION.cff", "tformerlib/show")


@dataclass(frozen=True)
class Stamps:
    """The runs that `--config chapters=a,b profile=quick seeds=5` asks for; without it all chapters, quick, seed 0."""

    book: Book
    config: dict[str, Any]

    @cached_property
    def names(self) -> list[str]:
        asked = [name for name in str(self.config.get("chapters", "")).split(",") if name]
        for name in asked:
            self.book.chapter(name)  # refuses an unknown one
        return asked or list(self.book.chapters)

    @cached_property
    def jobs(self) -> list[Job]:
        profile, seeds = self.config.get("profile", "quick"), int(self.config.get("seeds", 1))
        if profile not in PROFILES:
            raise ValueError(f"profile={profile!r} is not one of {', '.join(PROFILES)}")
        if seeds < 1:
            raise ValueError(f"seeds={seeds} is not a positive number")
        return [Job(self.book, name, profile, seed) for name in self.names for seed in range(seeds)]

    @cached_property
    def chapters(self) -> list[str]:
        """One stamp for each run, relative to the repository's root."""
        return [self._stamp(job) for job in self.jobs]

    @property
    def targets(self) -> list[str]:
        """What the configuration asks for: a sweep's results, some chapters, or the whole book."""
        if self.config.get("seeds") or self.config.get("profile"):
            return [self.results]
        return self.chapters if self.config.get("chapters") else [self.site]

    @cached_property
    def results(self) -> str:
        """The stamp of a sweep whose results have been collected."""
        return f"build/stamps/results.{hashlib.sha256(' '.join(self.chapters).encode()).hexdigest()[:16]}"

    @cached_property
    def site(self) -> str:
        """The stamp of the website: the chapters' stamps and every file that the pages are made from."""
        digest = hashlib.sha256("\0".join(self.chapters).encode())
        for path in (file for name in SITE for file in _files(self.book.root / name)):
            digest.update(str(path.relative_to(self.book.root)).encode() + path.read_bytes())
        return self._fresh("site", digest.hexdigest()[:16], self.book.build / "site" / "index.html")

    def position(self, name: str) -> str:
        """Where a chapter is among those asked for: "2/5"."""
        return f"{self.names.index(name) + 1}/{len(self.names)}"

    def failed(self) -> list[str]:
        """The traceback notebooks of the last runs that failed."""
        return [str(job.failed.relative_to(self.book.root)) for job in self.jobs if job.failed.exists()]

    def _stamp(self, job: Job) -> str:
        """The digest covers the prose as well: new prose has to get into the notebook, though nothing runs again."""
        source = job.book.chapter(job.name).read_bytes()
        digest = hashlib.sha256(job.key.encode() + source).hexdigest()[:16]
        return self._fresh(f"{job.profile}/{job.name}-s{job.seed}", digest, job.output)

    def _fresh(self, name: str, digest: str, product: Path) -> str:
        """The stamp's path; a stamp whose product was deleted is deleted too."""
        stamp = self.book.build / "stamps" / f"{name}.{digest}"
        if not product.exists():
            stamp.unlink(missing_ok=True)
        return str(stamp.relative_to(self.book.root))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [path] if path.exists() else []
