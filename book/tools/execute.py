"""Runs one chapter: `python -m book.tools.execute attention --profile quick --seed 0`.

What has run with the same content key is not run again; changed prose is merged into the notebook it left. A run
leaves the normalised notebook and its provenance in build/executed. A run that fails leaves those of the last good
run as they are, and its own notebook, with the traceback, in build/failed. The larger profiles leave
checkpoints in build/checkpoints, from which a killed run of the same content goes on; a run that ends well deletes
them.
"""

import datetime
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import nbformat
from nbformat import NotebookNode

from .keys import content_key
from .layout import PROFILES, Book, atomic_write
from .notebooks import convert, defaults, dumps, merge, normalise, records

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",  # matplotlib and others write no dates
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on GPUs
    "TOKENIZERS_PARALLELISM": "false",
}
KERNEL_START = 180  # seconds; a first import of torch on a busy machine is slow


class ChapterError(Exception):
    """A chapter raised, or its kernel died; the message says where and what."""


@dataclass(frozen=True)
class Job:
    """One chapter with its parameters, and where its results go."""

    book: Book
    name: str
    profile: str = "quick"
    seed: int = 0
    position: str = ""  # "2/5", for the progress line
    force: bool = False

    @property
    def output(self) -> Path:
        return self.book.executed(self.name, self.profile, self.seed)

    @property
    def failed(self) -> Path:
        return self.book.failed(self.name, self.profile, self.seed)

    @property
    def source(self) -> NotebookNode:
        return convert(self.book.chapter(self.name), self.book.repository)

    @property
    def checkpoints(self) -> Path | None:
        """A folder for what this very content trains; None in quick, where a run is shorter than its resumption."""
        if self.profile == "quick":
            return None
        return self.book.build / "checkpoints" / self.profile / f"{self.name}-s{self.seed}" / self.key[:16]

    @property
    def parameters(self) -> dict[str, Any]:
        return {"profile": self.profile, "seed": self.seed}

    @property
    def key(self) -> str:
        return content_key(self.book, self.source, self.name, self.parameters)


def run(job: Job) -> str:
    """Executes a chapter if it has to be. Returns "executed", "cached" or "prose" (new prose, old outputs).

    Raises:
        ChapterError: the chapter raised; the last good notebook is untouched.
    """
    provenance = last_good(job)
    if provenance is None or job.force:
        execute(job)
        return "executed"
    job.failed.unlink(missing_ok=True)  # of another version
    notebook = nbformat.read(job.output, as_version=4)
    text = dumps(merge(notebook, job.source, job.name))
    if _digest(text) == provenance["output_sha256"]:
        return "cached"
    _write(job.output, text, provenance)
    return "prose"


def last_good(job: Job) -> dict[str, Any] | None:
    """The provenance of a run with this job's key whose notebook is still as it was written, or None."""
    try:
        provenance: dict[str, Any] = json.loads(sidecar(job.output).read_text(encoding="utf-8"))
        intact = _digest(job.output.read_text(encoding="utf-8")) == provenance["output_sha256"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return provenance if intact and provenance["key"] == job.key else None


def sidecar(notebook: Path) -> Path:
    """Where the provenance of an executed notebook lies."""
    return notebook.with_suffix(".json")


def execute(job: Job) -> dict[str, Any]:
    """Runs a chapter in a kernel of its own, writes notebook and provenance, and returns the provenance.

    Raises:
        ChapterError: the chapter raised or its kernel died.
    """
    source, key = job.source, job.key
    running = job.failed.with_name(f".{job.failed.name}")  # papermill writes it while it goes on
    running.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        notebook = _papermill(job, source, running)
    except ChapterError:
        running.replace(job.failed)
        raise
    seconds = time.perf_counter() - start
    running.unlink()
    job.failed.unlink(missing_ok=True)
    notebook = merge(normalise(notebook, job.name), source, job.name)
    found = records(notebook)
    ran = next((record for record in found if record["kind"] == "run"), {})
    provenance = {
        **{name: value for name, value in ran.items() if name != "kind"},
        "chapter": job.name,
        **job.parameters,
        "key": key,
        "commit": _commit(job.book.root),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "peak_memory": _peak_memory(),
        "records": [record for record in found if record["kind"] != "run"],
    }
    _write(job.output, dumps(notebook), provenance)
    if job.checkpoints:
        shutil.rmtree(job.checkpoints.parent, ignore_errors=True)  # those of other contents too
    return provenance


def _papermill(job: Job, source: NotebookNode, saved: Path) -> NotebookNode:
    """The executed notebook; it is saved to a file all along, so that a failure leaves it."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    own = defaults(source)
    if job.checkpoints:
        os.environ["TFORMER_CHECKPOINTS"] = str(job.checkpoints)  # the kernel inherits it
    with Progress(job, source) as progress, tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        # A TCP port can be taken before it is used; sockets of a default name would be those of a run beside this one.
        manager = {"transport": "ipc", "ip": f"{sockets}/ipc"}
        try:
            return papermill.execute_notebook(
                source,
                saved,
                # what the chapter's own cell says already is not injected: a reader's page has one parameters cell
                parameters={name: value for name, value in job.parameters.items() if own.get(name) != value},
                kernel_name="python3",
                cwd=job.book.root,
                progress_bar=False,
                start_timeout=KERNEL_START,
                config=Config({"KernelManager": manager}),
                on_cell_start=progress.cell,
            )
        except papermill.PapermillExecutionError as error:
            raise ChapterError(f"cell {error.exec_count}: {error.ename}: {error.evalue}") from None
        except DeadKernelError:
            raise ChapterError(f"cell {progress.at}: the kernel died; was it out of memory?") from None


class Progress:
    """Says which chapter runs, how far it is and for how long: one line kept up to date on a terminal, else a log."""

    def __init__(self, job: Job, source: NotebookNode) -> None:
        words = [f"chapter {job.position}".strip(), job.name, job.profile if job.profile != "quick" else ""]
        self.title = " ".join(filter(None, [*words, f"seed {job.seed}" if job.seed else ""]))
        self.total = sum(cell.cell_type == "code" for cell in source.cells)
        self.at = 0
        self.start = time.perf_counter()
        self.finished = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        self.ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finished.set()
        self.ticker.join()

    def cell(self, cell: NotebookNode, cell_index: int) -> None:
        """Called by nbclient before a cell runs."""
        self.at += cell.cell_type == "code"

    def _tick(self) -> None:
        terminal = sys.stderr.isatty()
        while not self.finished.wait(1 if terminal else 15):
            seconds = time.perf_counter() - self.start
            done = f"{self.title}: cell {min(self.at, self.total)}/{self.total}, {seconds:.0f} s"
            click.echo(f"\r\033[K{done}" if terminal else done, nl=not terminal, err=True)
        if terminal:
            click.echo("\r\033[K", nl=False, err=True)


def _write(output: Path, text: str, provenance: dict[str, Any]) -> None:
    """Notebook first: if the build stops in between, the old provenance no longer fits it, and it runs again."""
    atomic_write(output, text)
    provenance = {**provenance, "output_sha256": _digest(text)}
    atomic_write(sidecar(output), json.dumps(provenance, indent=1, sort_keys=True) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _peak_memory() -> int:
    """Bytes of the largest process that this one started and that has ended: the kernel."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _commit(root: Path) -> str | None:
    """The commit that is checked out, with a + if tracked files differ from it; None outside a clone."""
    git = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


@click.command()
@click.argument("name")
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--position", default="", help="Where in the book this chapter is, such as 2/5, for the progress line.")
@click.option("--force", is_flag=True, help="Run even if nothing changed.")
def main(name: str, profile: str, seed: int, position: str, force: bool) -> None:
    """Runs one chapter, unless an equal run is there already."""
    os.environ.update(ENVIRONMENT)  # the kernel inherits it
    job = Job(Book(), name, profile, seed, position, force)
    start = time.perf_counter()
    title = Progress(job, job.source).title
    try:
        did = run(job)
    except ChapterError as error:
        kept = job.failed.relative_to(job.book.root)
        raise click.ClickException(f"{title} failed in {error}\n  the notebook with its traceback: {kept}") from None
    said = {"executed": "executed", "cached": "unchanged", "prose": "new prose, no cell executed"}[did]
    click.echo(f"{title}: {said} ({time.perf_counter() - start:.0f} s)", err=True)


if __name__ == "__main__":
    main()
