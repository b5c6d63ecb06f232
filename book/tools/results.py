"""Adds runs with judging seeds to data/results/<chapter>.jsonl, which is committed. Lines are added, never changed.

A run keeps a journal, build/runs/<run>.json, from its start on, and its end is written there before anything else.
Collecting moves journals into the results, each as a line on disk before its journal is deleted, so that nothing is
lost when a disk is full or the program is killed in between. The journal of a process that is gone becomes the line of
a killed run.

What cannot be traced to the code and the claims that it ran with is refused, with its reason, to build/refused.

Comparisons of models (tformerlib.training.compare) go to data/results/comparisons/<chapter>.json. They judge nothing;
there a row that differs replaces the older one.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil
import yaml

from tformerlib.run.results import MACHINE, Line, RecordError, checked, dumps, read, run_id, sealed

from . import history
from .keys import whole_library
from .layout import PROFILES, Book, atomic_write, now

if TYPE_CHECKING:
    from .execute import Job

JUDGED = ("kind", "metrics", "gate", "reproduced", "partly", "profile")  # of a claim's row: older than its runs
ELSEWHERE = 24 * 3600  # seconds after which the run of another machine, of which nothing can be asked, counts as killed
PROVENANCE = ("commit", "key", "torch", "device", "threads", "isa", "seconds", "peak_memory", "date")
Row = dict[str, Any]


# --- journals -------------------------------------------------------------------------------------------------------


@dataclass
class Journal:
    """A run's line as far as it is known, and what speaks against recording it."""

    path: Path
    line: Line
    problems: list[str] = field(default_factory=list)
    process: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, job: "Job") -> "Journal":
        """Reads the commit, finds the tree clean, and writes down that the run has begun.

        Raises:
            RecordError: the run could not be traced, so it is not worth its time.
        """
        root, started = job.book.root, now()
        commit, dirty = history.head(root), history.changed(root)
        problem = f"{listed(dirty)} not as committed" if dirty else "" if commit else "git knows no commit here"
        if problem:
            way_out = "" if job.record else "; runs with seeds from 100 on need no record"
            raise RecordError(f"it could not be recorded: {problem}{way_out}")
        run = run_id(job.name, job.profile, job.seed, datetime.fromisoformat(started), secrets.token_hex(3))
        line = {
            **dict.fromkeys(MACHINE),
            "run": run,
            "chapter": job.name,
            **job.parameters,
            "started": started,
            "ended": None,
            "date": None,
            "claims": {},
            "commit": commit,
            "key": job.key(whole_library(root)),
        }
        here = {"pid": os.getpid(), "began": psutil.Process().create_time(), "host": platform.node()}
        folder = job.book.build / ("replications" if job.record else "runs")  # the collector looks at the latter
        journal = cls(folder / f"{run}.json", line, process=here)
        journal.save()
        return journal

    @classmethod
    def load(cls, path: Path) -> "Journal":
        return cls(path, **json.loads(path.read_text(encoding="utf-8")))

    def save(self) -> None:
        content = {"line": self.line, "problems": self.problems, "process": self.process}
        atomic_write(self.path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """The end of a run that finished, with its provenance as the runner wrote it beside the notebook."""
        if provenance["changed"]:
            self.problems.append(f"{listed(provenance['changed'])} edited while it ran")
        try:
            claims = measured(provenance)
            if not claims:
                self.problems.append(f"it reports no claim that profile {provenance['profile']} judges")
        except RecordError as error:
            claims = {}
            self.problems.append(str(error))
        known = {name: provenance.get(name) for name in (*MACHINE, "key", "imported")}
        self.end("finished", claims=claims, **known)

    def end(self, ended: str, **known: Any) -> None:
        self.line |= {"ended": ended, "date": now(), **known}
        self.save()

    @property
    def gone(self) -> bool:
        """Whether the run stopped without saying how: its process is no more."""
        if self.process["host"] != platform.node():
            started = datetime.fromisoformat(self.line["started"])
            return (datetime.now(started.tzinfo) - started).total_seconds() > ELSEWHERE
        try:
            return psutil.Process(self.process["pid"]).create_time() != self.process["began"]
        except psutil.NoSuchProcess:
            return True

    def export(self, folder: Path) -> list[str]:
        """Writes a run that finished to a file of its own, sealed, and forgets the journal.

        Returns what speaks against the run, if anything; then nothing is written.
        """
        if not self.problems and self.line["ended"] == "finished":
            text = json.dumps(sealed(self.line), indent=1, sort_keys=True) + "\n"
            atomic_write(folder / f"{self.line['run']}.json", text)
        self.path.unlink(missing_ok=True)
        return [f"{self.line['run']}: {problem}" for problem in self.problems]


def measured(provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics by claim that a run reported; without those that its profile does not reach.

    Raises:
        RecordError: a claim is reported twice.
    """
    reports = [record for record in provenance["records"] if record["kind"] == "claim" and record["metrics"]]
    ids = [record["claim"] for record in reports]
    if twice := sorted({id for id in ids if ids.count(id) > 1}):
        raise RecordError(f"{', '.join(twice)} reported twice")
    return {record["claim"]: record["metrics"] for record in reports}


# --- collecting -----------------------------------------------------------------------------------------------------


@dataclass
class Collected:
    """What a collection did: lines that it added, and for each refused run its id with the reason."""

    added: list[Line] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def collect(book: Book, name: str) -> Collected:
    """Adds the ended runs of a chapter to its recorded results, under a lock.

    Raises:
        RecordError: the file holds what is not a line, or ends in the middle of one.
        OSError: the disk is full; the file is as it was, and the journal stays for the next collection.
    """
    path, done = recorded(book, name), Collected()
    with _alone(book):
        journals = [Journal.load(file) for file in sorted((book.build / "runs").glob(f"*-{name}-*.json"))]
        journals = [journal for journal in journals if journal.line["chapter"] == name]
        _drop_torn_end(path, [journal.line for journal in journals])
        there = {line["run"] for line in read(path)}
        for journal in journals:
            if not journal.line["ended"] and journal.gone:
                journal.end("killed")
            if not journal.line["ended"]:
                continue  # it runs
            problems = [] if journal.line["run"] in there else journal.problems + faults(book, journal.line)
            if problems:
                done.refused += [f"{journal.line['run']}: {problem}" for problem in problems]
                journal.problems = problems
                journal.path.unlink()
                journal.path = book.build / "refused" / journal.path.name
                journal.save()
                continue
            if journal.line["run"] not in there:
                append(path, journal.line)
                done.added.append(journal.line)
            journal.path.unlink()
    return done


def faults(book: Book, line: Line) -> list[str]:
    """What keeps a line from being recorded; nothing if it is sound and can be traced."""
    try:
        checked(line)
    except RecordError as error:
        return [str(error).removeprefix(f"{line['run']}: ")]
    claims = chain.from_iterable(row_faults(book, line, claim) for claim in line["claims"])
    return [*untraceable(book, line), *claims]


def untraceable(book: Book, line: Line) -> list[str]:
    """Why the code of a run cannot be found again; nothing if it can."""
    if history.is_ancestor(book.root, line["commit"]):
        return []
    if history.shallow(book.root):
        return ["this clone is shallow and lacks old commits; run git fetch --unshallow"]
    return [f"its commit {line['commit'][:12]} is not in the history of what is checked out"]


def row_faults(book: Book, line: Line, claim: str) -> Iterator[str]:
    """How a claim's row differs between the commit that a run began with and today, in what judges the run."""
    then, today = rows_at(book.root, line["commit"], line["chapter"]).get(claim), rows(book, line["chapter"]).get(claim)
    if then is None:
        yield f"{claim} has no row in data/claims/{line['chapter']}.yml at commit {line['commit'][:12]}"
    elif today is None:
        yield f"{claim} has no row in data/claims/{line['chapter']}.yml"
    elif other := [name for name in JUDGED if then.get(name) != today.get(name)]:
        yield f"the row of {claim} has another {' and '.join(other)} than at commit {line['commit'][:12]}"
    elif set(line["claims"][claim]) != set(today["metrics"]):
        yield f"{claim} has the metrics {sorted(line['claims'][claim])}, its row {sorted(today['metrics'])}"


def rows(book: Book, chapter: str) -> dict[str, Row]:
    """A chapter's rows of the ledger by id, as they are now."""
    path = book.root / "data" / "claims" / f"{chapter}.yml"
    return _by_id(path.read_text(encoding="utf-8") if path.exists() else None)


@cache
def rows_at(root: Path, commit: str, chapter: str) -> dict[str, Row]:
    """A chapter's rows of the ledger by id, as a commit has them."""
    return _by_id(history.show(root, commit, f"data/claims/{chapter}.yml"))


def _by_id(text: str | None) -> dict[str, Row]:
    return {row["id"]: row for row in yaml.safe_load(text or "") or []}


def append(path: Path, line: Line) -> None:
    """Adds a line whole, on the disk when this returns, or leaves the file as it was and raises OSError."""
    data = dumps(line).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        try:
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def _drop_torn_end(path: Path, pending: list[Line]) -> None:
    """Takes away the beginning of a line that was cut off while it was written: its journal still has all of it."""
    content = path.read_bytes() if path.exists() else b""
    torn = content[content.rfind(b"\n") + 1 :]
    if torn and any(line["ended"] and dumps(line).encode().startswith(torn) for line in pending):
        os.truncate(path, len(content) - len(torn))


@contextmanager
def _alone(book: Book) -> Iterator[None]:
    """Keeps other collections of this clone waiting."""
    (book.build / "runs").mkdir(parents=True, exist_ok=True)
    with (book.build / "runs" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def recorded(book: Book, name: str) -> Path:
    """Where a chapter's recorded results lie."""
    return book.root / "data" / "results" / f"{name}.jsonl"


def is_recorded(job: "Job") -> bool:
    """Whether a run with a job's parameters has been recorded with today's code; with `keep`, with any.

    Where ATEN_CPU_CAPABILITY asks for an instruction set, one that ran on it.
    """
    isa = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    return any(
        (line["ended"], line["profile"], line["seed"]) == ("finished", job.profile, job.seed)
        and isa in ("", line["isa"])
        and (job.keep or current(job, line))
        for line in read(recorded(job.book, job.name))
    )


def current(job: "Job", line: Line) -> bool:
    """Whether a recorded run of a job's parameters would run with the same code today."""
    imported = line["imported"] if "imported" in line else whole_library(job.book.root)
    return bool(job.key(imported) == line["key"])


def listed(names: list[str]) -> str:
    """Some names as a sentence begins with them: "a, b and 3 more are"."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more} {'are' if len(names) > 1 else 'is'}"


# --- comparisons ----------------------------------------------------------------------------------------------------


def collect_comparisons(book: Book, name: str, profiles: tuple[str, ...] = PROFILES) -> list[Row]:
    """Merges the models that all executed runs of a chapter compared into its recorded comparisons.

    Throughput is never twice the same, so a row is new only where something else in it differs.
    """
    path = book.root / "data" / "results" / "comparisons" / f"{name}.json"
    rows = {_compared(row): row for row in load(path)}
    for profile in profiles:
        for sidecar in sorted((book.build / "executed" / profile).glob(f"{name}-s*.json")):
            provenance = json.loads(sidecar.read_text(encoding="utf-8"))
            about = {key: provenance[key] for key in PROVENANCE if key in provenance}
            for record in provenance["records"]:
                if record["kind"] == "comparison":
                    row = {key: value for key, value in record.items() if key != "kind"} | {"provenance": about}
                    old = rows.get(_compared(row), {})
                    if any(old.get(key) != row[key] for key in row.keys() - {"images_per_second", "provenance"}):
                        rows[_compared(row)] = row
    result = [rows[identity] for identity in sorted(rows)]
    if result:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
    return result


def load(path: Path) -> list[Row]:
    """Recorded comparisons; none if there are none yet."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def _compared(row: Row) -> tuple[str, str, str, int]:
    return row["profile"], row["task"], row["model"], row["seed"]


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Collects what runs with judging seeds left, and says what is recorded."""
    book, refused = Book(), False
    for name in names or book.chapters:
        collect_comparisons(book, name)
        try:
            done = collect(book, name)
            lines = read(recorded(book, name))
        except RecordError as error:
            raise click.ClickException(str(error)) from None
        for problem in done.refused:
            refused = True
            click.echo(f"not recorded: {problem}", err=True)
        if lines:
            ends = [f"{sum(line['ended'] == end for line in lines)} {end}" for end in ("finished", "failed", "killed")]
            click.echo(f"data/results/{name}.jsonl: {len(lines)} runs ({', '.join(ends)})")
    if refused:
        raise click.ClickException("some runs are not recorded, as said above")


if __name__ == "__main__":
    main()
