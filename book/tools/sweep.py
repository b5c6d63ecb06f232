"""How far a call of Snakemake is: a log in build/sweeps, to which each of its runs adds a line as it ends."""

import json
import os
import time
from pathlib import Path


def begin(log: Path, total: int) -> None:
    """Starts the log of a call that has this many runs to do."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(json.dumps({"total": total}) + "\n", encoding="utf-8")


def add(log: Path, did: str, seconds: float) -> str:
    """Notes how a run ended, and says how far they all are: "3 of 25 runs done, 1 failed, about 14 min left".

    Runs that had nothing to execute take seconds, so the time that is left comes from those that had: their number for
    each second since the first of them began, which counts runs side by side as they are.
    """
    if not log.exists():
        return ""
    file = os.open(log, os.O_WRONLY | os.O_APPEND)  # one short write, so that runs that end together don't mix
    try:
        os.write(file, (json.dumps({"did": did, "end": time.time(), "seconds": seconds}) + "\n").encode())
    finally:
        os.close(file)
    first, *ends = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return progress(first["total"], ends)


def progress(total: int, ends: list[dict[str, float | str]]) -> str:
    """What `add` says, of ends with the fields did, end (seconds since 1970) and seconds."""
    parts = [f"{len(ends)} of {total} runs done"]
    if failed := sum(end["did"] == "failed" for end in ends):
        parts.append(f"{failed} failed")
    took = [(float(end["end"]), float(end["seconds"])) for end in ends if end["did"] in ("executed", "failed")]
    left = total - len(ends)
    if took and left > 0:
        span = max(end for end, _ in took) - min(end - seconds for end, seconds in took)
        parts.append(f"about {duration(left * span / len(took))} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours, else hours."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
