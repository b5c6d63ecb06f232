"""A recorded run: one line of data/results/<chapter>.jsonl, and the check that writers and readers share.

Lines are only ever added. A later line of the same chapter, profile and seed supersedes an earlier one. A run that
failed or was killed leaves a line too, so that no seed can be dropped unseen. `FIELDS` says what a line holds.

Uses the standard library alone.
"""

import datetime
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

JUDGING = range(10, 30)  # the seeds whose runs judge claims; 0 is the page's, those from 100 on are for pilots
ENDS = ("finished", "failed", "killed")
FIELDS = {
    "run": "id: start in UTC, chapter, profile, seed, and six random hexadecimal digits",
    "chapter": "stem of the chapter's file",
    "profile": "quick, colab or full",
    "seed": "of all generators of random numbers",
    "started": "ISO date and time with offset, when the run began",
    "date": "the same, when it ended; of a killed run, when that was noticed",
    "ended": "finished, failed or killed",
    "claims": "claim's id to its metrics, name to number; nothing unless the run finished",
    "commit": "what was checked out, unchanged, when the run began: 40 hexadecimal digits",
    "key": "content key of the code and the library's files that the run imported: 64 hexadecimal digits",
    "torch": "version",
    "device": "type and name",
    "threads": "of torch on the CPU",
    "isa": "instruction set that torch used on the CPU",
    "python": "version",
    "seconds": "wall time",
    "peak_memory": "bytes of the kernel",
}
OPTIONAL = {
    "error": "of a failed run: the cell, the exception and its message",
    "imported": "the library's files that the run imported, which `key` covers; relative to the repository",
}
MACHINE = ("torch", "device", "threads", "isa", "python", "seconds", "peak_memory")  # null where a run did not finish
WIDTHS = {"commit": 40, "key": 64}
Line = dict[str, Any]


class RecordError(ValueError):
    """A recorded run that cannot be used; the message names it and says why."""


def run_id(chapter: str, profile: str, seed: int, started: datetime.datetime, suffix: str) -> str:
    """The name of a run: `20261201T072859Z-swin-quick-s12-0a1b2c`."""
    return f"{started.astimezone(datetime.UTC):%Y%m%dT%H%M%SZ}-{chapter}-{profile}-s{seed}-{suffix}"


def checked(line: Any, where: str = "", seeds: Collection[int] = JUDGING) -> Line:
    """The line itself, if it is whole and consistent.

    Raises:
        RecordError: a field is missing, unknown, of a wrong type or at odds with another; a seed that is not in
            `seeds`; a metric that is not a finite number.
    """
    name = f"{where}{line.get('run', 'a line without run')}" if isinstance(line, Mapping) else f"{where}{line!r:.80}"
    if not isinstance(line, Mapping):
        raise RecordError(f"{name}: a recorded run is an object, not {type(line).__name__}")
    missing, unknown = sorted(FIELDS.keys() - line.keys()), sorted(line.keys() - FIELDS.keys() - OPTIONAL.keys())
    if missing or unknown:
        raise RecordError(f"{name}: missing fields {missing}, unknown fields {unknown}")
    if problem := _fault(line, seeds):
        raise RecordError(f"{name}: {problem}")
    return dict(line)


def _fault(line: Mapping[str, Any], seeds: Collection[int]) -> str:
    """What is wrong with a line that has all fields; empty if nothing is."""
    finished = line["ended"] == "finished"
    for field in ("run", "chapter", "profile", *(["torch", "device", "isa", "python"] if finished else [])):
        if not isinstance(line[field], str) or not line[field]:
            return f"{field}={line[field]!r} is not a name"
    for field, width in WIDTHS.items():
        if not isinstance(line[field], str) or not re.fullmatch(f"[0-9a-f]{{{width}}}", line[field]):
            return f"{field}={line[field]!r} is not {width} hexadecimal digits"
    for field in ("seed", *(["threads", "peak_memory"] if finished else [])):
        if type(line[field]) is not int or line[field] < 0:
            return f"{field}={line[field]!r} is not a whole number"
    if line["ended"] not in ENDS:
        return f"ended={line['ended']!r} is not one of {', '.join(ENDS)}"
    if line["profile"] not in ("quick", "colab", "full"):
        return f"profile={line['profile']!r} is not one of quick, colab, full"
    if line["seed"] not in seeds:
        return f"seed {line['seed']} does not judge; seeds {min(seeds)} to {max(seeds)} do"
    if finished and not _number(line["seconds"]):
        return f"seconds={line['seconds']!r} is not a number"
    try:
        started, date = (datetime.datetime.fromisoformat(line[field]) for field in ("started", "date"))
        if started > date:
            return f"it ended at {line['date']}, before it started at {line['started']}"
    except (TypeError, ValueError) as error:
        return f"started={line['started']!r}, date={line['date']!r}: {error}"
    suffix = line["run"][-6:]
    expected = run_id(line["chapter"], line["profile"], line["seed"], started, suffix)
    if line["run"] != expected or not re.fullmatch("[0-9a-f]{6}", suffix):
        return f"its id is not that of {expected}"
    if (line["ended"] == "failed") != isinstance(line.get("error"), str):
        return f"ended={line['ended']!r} with error={line.get('error')!r}"
    return _claims_fault(line["claims"], finished)


def _claims_fault(claims: Any, finished: bool) -> str:
    if not isinstance(claims, Mapping) or not all(isinstance(metrics, Mapping) for metrics in claims.values()):
        return f"claims={claims!r:.80} does not give metrics by claim"
    if claims and not finished:
        return f"it did not finish, and yet has metrics of {', '.join(claims)}"
    for claim, metrics in claims.items():
        if not metrics:
            return f"{claim} has no metrics"
        for metric, value in metrics.items():
            if not _number(value):
                return f"{claim}: {metric}={value!r} is not a finite number"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def dumps(line: Line) -> str:
    """A line as it is written, its end included: keys sorted, no value that JSON does not have."""
    return json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> list[Line]:
    """All runs of a file, oldest first, checked; none where there is no file.

    Raises:
        RecordError: a line is not JSON, is cut off, is not as it should be, or repeats a run's id.
    """
    if not path.exists():
        return []
    lines: dict[str, Line] = {}
    *whole, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        raise RecordError(f"{path.name}, line {len(whole) + 1}: cut off, for it has no end: {rest[:60]!r}")
    for i, raw in enumerate(whole, 1):
        where = f"{path.name}, line {i}: "
        try:
            line = json.loads(raw)
        except json.JSONDecodeError as error:
            raise RecordError(f"{where}not JSON ({error}): {raw[:60]!r}") from None
        line = checked(line, where)
        if line["run"] in lines:
            raise RecordError(f"{where}{line['run']} is there already")
        lines[line["run"]] = line
    return list(lines.values())


def in_force(lines: Collection[Line]) -> dict[tuple[str, int], Line]:
    """The last line that finished, by profile and seed: those that no later run has superseded."""
    return {(line["profile"], line["seed"]): line for line in lines if line["ended"] == "finished"}


def sealed(line: Line) -> Line:
    """A line with a digest of its content, for a file that leaves its author's hands."""
    return {**line, "digest": _digest(line)}


def unsealed(document: Any, where: str = "") -> Line:
    """The line of a sealed document, of any seed.

    Raises:
        RecordError: it has no digest, or its content is not what was sealed.
    """
    if not isinstance(document, Mapping) or "digest" not in document:
        raise RecordError(f"{where}not a record: it has no digest")
    line = {name: value for name, value in document.items() if name != "digest"}
    if _digest(line) != document["digest"]:
        raise RecordError(f"{where}{line.get('run')} was changed after the run: its digest does not fit its content")
    return checked(line, where, range(2**32))


def _digest(line: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(dumps(dict(line)).encode()).hexdigest()
    except (TypeError, ValueError):  # Infinity, NaN: json reads them, and a record never holds them
        return "not to be written as JSON"


def replications(folder: Path) -> Counter[str]:
    """How many runs by others have tested each claim, from the sealed records of a folder.

    Raises:
        RecordError: one of them was changed, or is no record.
    """
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        line = unsealed(json.loads(path.read_text(encoding="utf-8")), f"{path.name}: ")
        counts.update(line["claims"].keys())
    return counts
