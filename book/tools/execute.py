"""Runs one chapter: `python -m book.tools.execute attention --profile quick --seed 0`.

What has run with the same content key is not run again; changed prose is merged into the notebook it left. A run
leaves the normalised notebook and its provenance in build/executed. A run that fails leaves those of the last good
run as they are, and its own notebook, with the traceback, in build/failed. The larger profiles leave
checkpoints in build/checkpoints, from which a killed run of the same content goes on; a run that ends well deletes
them.

A run with a judging seed is recorded however it ends (book/tools/results.py). So it begins only where its record can
be traced: in a clone whose files are those of its commit.
"""

import copy
import hashlib
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import nbformat
from nbformat import NotebookNode

from . import history
from .keys import LIBRARY, basis, content_key, digests, whole_library
from .layout import JUDGING, PROFILES, Book, atomic_write, now
from .notebooks import convert, defaults, dumps, merge, normalise, records
from .sweep import add

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",  # matplotlib and others write no dates
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on GPUs
    "TOKENIZERS_PARALLELISM": "false",
}
KERNEL_START = 180  # seconds; a first import of torch on a busy machine is slow
SOCKET_PATH = 103  # bytes of a socket's path that every system takes (Linux 107, macOS 103)
IMPORTED = f"""\
import sys
print(*{{getattr(module, "__file__", None) for name, module in list(sys.modules.items())
        if name.split(".")[0] == "{LIBRARY}"}}, sep="\\n")"""  # asked of the kernel after the last cell

SAID = {
    "executed": "executed",
    "cached": "unchanged",
    "prose": "new prose, no cell executed",
    "recorded": "recorded already",
}


class ChapterError(Exception):
    """A chapter raised, or its kernel died, or its run can't be recorded; the message says where and what."""


@dataclass(frozen=True)
class Job:
    """One chapter with its parameters, and where its results go."""

    book: Book
    name: str
    profile: str = "quick"
    seed: int = 0
    position: str = ""  # "2/5", for the progress line
    force: bool = False
    keep: bool = False  # of a judging seed: a record of earlier code will do
    record: Path | None = None  # a folder for the run's record, sealed, in place of a line in data/results

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
        """A folder for what this very content trains; None in quick, where a run is shorter than its resumption.

        What a run that was killed had imported nobody knows, so the folder's name covers the whole library.
        """
        if self.profile == "quick":
            return None
        key = self.key(whole_library(self.book.root))
        return self.book.build / "checkpoints" / self.profile / f"{self.name}-s{self.seed}" / key[:16]

    @property
    def parameters(self) -> dict[str, Any]:
        return {"profile": self.profile, "seed": self.seed}

    def key(self, imported: Iterable[str]) -> str:
        """Today's content key of a run that imports these files of the library."""
        return content_key(basis(self.book, self.source, self.name, self.parameters), digests(self.book.root, imported))


def run(job: Job) -> str:
    """Executes a chapter if it has to be.

    Returns "executed", "cached", "prose" (new prose, old outputs) or "recorded" (a judging seed with a record).

    Raises:
        ChapterError: the chapter raised; the last good notebook is untouched. Or its run cannot be recorded.
    """
    if job.seed in JUDGING or job.record:
        return _for_the_record(job)
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


def _for_the_record(job: Job) -> str:
    """A run that leaves a line however it ends. What it measures is not taken from an earlier run's notebook."""
    from .results import Journal, RecordError, collect, is_recorded  # these import the library, and so torch

    try:
        if not (job.force or job.record) and is_recorded(job):
            return "recorded"
        journal = Journal.begin(job)
    except RecordError as error:
        raise ChapterError(f"at its start: {error}") from None
    try:
        journal.finish(execute(job))
    except ChapterError as error:
        journal.end("failed", error=str(error))
        raise
    except BaseException:  # Ctrl-C, a bug of ours
        journal.end("killed")
        raise
    finally:
        refused = journal.export(job.record) if job.record else collect(job.book, job.name).refused
        for problem in refused:
            click.echo(f"not recorded: {problem}", err=True)
    if any(journal.line["run"] in problem for problem in refused):
        raise ChapterError("at its end: it is not recorded, as said above")
    return "executed"


def last_good(job: Job) -> dict[str, Any] | None:
    """The provenance of a run that would be the same today and whose notebook is still as it was written, or None."""
    provenance = intact(job.output)
    if provenance is None or "imported" not in provenance:  # the latter: of an earlier version of this program
        return None
    return provenance if provenance["key"] == job.key(provenance["imported"]) else None


def intact(notebook: Path) -> dict[str, Any] | None:
    """The provenance of an executed notebook; None if either is missing, damaged or not as the run left it."""
    try:
        provenance: dict[str, Any] = json.loads(sidecar(notebook).read_text(encoding="utf-8"))
        same = _digest(notebook.read_text(encoding="utf-8")) == provenance["output_sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return provenance if same else None


def sidecar(notebook: Path) -> Path:
    """Where the provenance of an executed notebook lies."""
    return notebook.with_suffix(".json")


def execute(job: Job) -> dict[str, Any]:
    """Runs a chapter in a kernel of its own, writes notebook and provenance, and returns the provenance.

    Commit, code and library are those of the run's start. `changed` names library files that were edited meanwhile;
    which version the run imported nobody knows, so its key, which has the earlier ones, fits no later content.

    Raises:
        ChapterError: the chapter raised or its kernel died.
    """
    root, source = job.book.root, job.source
    depends, library = basis(job.book, source, job.name, job.parameters), digests(root, whole_library(root))
    dirty, commit, started = history.changed(root), history.head(root), now()
    running = job.failed.with_name(f".{job.failed.name}")  # papermill writes it while it goes on
    running.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    question = nbformat.v4.new_code_cell(IMPORTED)
    try:
        notebook = _papermill(job, source, question, running)
        imported = _imported(notebook.cells.pop(), root)
    except ChapterError:
        if running.exists():
            atomic_write(job.failed, dumps(_without(question, nbformat.read(running, as_version=4))))
            running.unlink()
        raise
    seconds = time.perf_counter() - start
    running.unlink()
    job.failed.unlink(missing_ok=True)
    notebook = merge(normalise(notebook, job.name), source, job.name)
    found = records(notebook)
    ran = next((record for record in found if record["kind"] == "run"), {})
    after = digests(root, imported)
    provenance = {
        **{name: value for name, value in ran.items() if name != "kind"},
        "chapter": job.name,
        **job.parameters,
        "key": content_key(depends, {name: library.get(name, "new") for name in after}),
        "imported": imported,
        "changed": [name for name in after if after[name] != library.get(name)],
        "commit": commit and commit[:12] + "+" * bool(dirty),
        "started": started,
        "date": now(),
        "seconds": round(seconds, 1),
        "peak_memory": _peak_memory(),
        "records": [record for record in found if record["kind"] != "run"],
    }
    _write(job.output, dumps(notebook), provenance)
    if job.checkpoints:
        shutil.rmtree(job.checkpoints.parent, ignore_errors=True)  # those of other contents too
    return provenance


def _imported(answer: NotebookNode, root: Path) -> list[str]:
    """The library's files, relative to the root, that a kernel named when it was asked IMPORTED.

    Raises:
        ChapterError: they are not this clone's, so no key of this clone's files would be the run's.
    """
    paths = {Path(line) for output in answer.outputs for line in output.get("text", "").split("\n") if line.strip()}
    files = {path.resolve() for path in paths if path.name != "None"}
    if strange := [path for path in files if not path.is_relative_to(root.resolve())]:
        raise ChapterError(f"at its end: {LIBRARY} was not {root}'s but came from {strange[0].parent}")
    return sorted(str(path.relative_to(root.resolve())) for path in files)


def _without(cell: NotebookNode, notebook: NotebookNode) -> NotebookNode:
    notebook.cells = [other for other in notebook.cells if other.get("id") != cell.id]
    return notebook


def _papermill(job: Job, source: NotebookNode, question: NotebookNode, saved: Path) -> NotebookNode:
    """The executed notebook, with the answer to a last cell; it is saved all along, so that a failure leaves it."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    own = defaults(source)
    if job.checkpoints:
        os.environ["TFORMER_CHECKPOINTS"] = str(job.checkpoints)  # the kernel inherits it
    asked = copy.copy(source)
    asked.cells = [*source.cells, question]
    with Progress(job, source) as progress, tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        # A TCP port can be taken before it is used; sockets of a default name would be those of a run beside this one.
        if len(os.fsencode(f"{sockets}/ipc-1")) > SOCKET_PATH:
            too_long = f"{Path(sockets).parent} is too long a path for a kernel's sockets"
            raise ChapterError(f"at its start: {too_long}; set TMPDIR to a folder of at most 80 characters")
        manager = {"transport": "ipc", "ip": f"{sockets}/ipc"}
        try:
            return papermill.execute_notebook(
                asked,
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
            raise ChapterError(f"in cell {error.exec_count}: {error.ename}: {error.evalue}") from None
        except DeadKernelError:
            raise ChapterError(
                f"in cell {min(progress.at, progress.total)}: the kernel died; was it out of memory?"
            ) from None


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


@click.command()
@click.argument("name")
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--position", default="", help="Where in the book this chapter is, such as 2/5, for the progress line.")
@click.option("--force", is_flag=True, help="Run even if nothing changed.")
@click.option("--keep", is_flag=True, help="Of a judging seed: let a record of earlier code do.")
@click.option("--record", type=click.Path(path_type=Path), help="Write the run's record into this folder.")
@click.option("--sweep", type=click.Path(path_type=Path), help="The log of the sweep that this run is part of.")
def main(
    name: str, profile: str, seed: int, position: str, force: bool, keep: bool, record: Path | None, sweep: Path | None
) -> None:
    """Runs one chapter, unless an equal run is there already."""
    os.environ.update(ENVIRONMENT)  # the kernel inherits it
    job = Job(Book(), name, profile, seed, position, force, keep, record)
    start = time.perf_counter()
    title, did = Progress(job, job.source).title, "failed"
    far = ""
    try:
        did = run(job)
    except ChapterError as error:
        message = f"{title} failed {error}"
        if job.failed.exists():
            message += f"\n  the notebook with its traceback: {job.failed.relative_to(job.book.root)}"
        raise click.ClickException(message) from None
    finally:
        if sweep and (far := add(sweep, did, time.perf_counter() - start)):
            far = f"; {far}"
        if did == "failed":
            click.echo(f"{title}: failed{far}", err=True)
    click.echo(f"{title}: {SAID[did]} ({time.perf_counter() - start:.0f} s){far}", err=True)


if __name__ == "__main__":
    main()
