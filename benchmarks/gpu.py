"""All that needs a GPU, in steps that may be cut off at any time: `make gpu`.

    python -m benchmarks.gpu                       # tests, kernels, models, then every chapter in profile full
    python -m benchmarks.gpu --minutes 9           # no longer than that; the same command goes on where it stopped
    python -m benchmarks.gpu --only attention      # the steps whose name contains this
    python -m benchmarks.gpu --list                # what there is and what is done; needs no GPU

Each step leaves what it has as it goes: times in benchmarks/results, checkpoints and executed chapters in build, and
what chapters measured in data/results. The chapters with the fewest recorded seeds of their profile come first.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from book.tools.execute import ENVIRONMENT, Job
from book.tools.layout import JUDGING, Book
from book.tools.results import is_recorded, recorded
from tformerlib.run.results import in_force, read

from . import attention, attention_cases, steps, timing

BOOK = Book()
LEAST = 60.0  # seconds that a step is begun with at least
SPARE = 30.0  # seconds before its end at which a benchmark begins nothing new


@dataclass(frozen=True)
class Step:
    """A command, and whether what it makes is there. A command that is cut off goes on when it is called again."""

    name: str
    command: Callable[[float], list[str]]  # given the minutes that are left
    done: Callable[[], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--profile", choices=("colab", "full"), default="full", help="of the chapters (default full)")
    parser.add_argument("--seeds", type=int, default=1, help="of each chapter, from 10 on (default 1)")
    parser.add_argument("--chapters", nargs="*", default=list(BOOK.chapters), help="default: all")
    parser.add_argument("--only", default="", help="steps whose name contains this")
    parser.add_argument("--list", action="store_true", help="only say what is done")
    given = parser.parse_args()
    if unknown := set(given.chapters) - set(BOOK.chapters):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BOOK.chapters)}")
    plan = [*measurements(), *chapters(BOOK, given.chapters, given.profile, given.seeds)]
    plan = [step for step in plan if given.only in step.name]
    if given.list:
        print("\n".join(f"{'done ' if step.done() else 'waits'} {step.name}" for step in plan))
        return
    if not torch.cuda.is_available():
        parser.error("there is no GPU here: torch.cuda.is_available() is False")
    raise SystemExit(run(plan, given.minutes))


def measurements() -> list[Step]:
    """The kernels' tests, their times, the table made of them, whole models."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = timing.slug(timing.device_name(device))
    kernels, models = (attention.RESULTS / f"{name}{end}.json" for end in ("", "-models"))
    code = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(timing.KERNELS.rglob("*.py")))).hexdigest()[:16]
    passed = BOOK.build / "gpu" / f"tests-{name}-{code}"
    python = [sys.executable, "-m"]
    tests = f"{shlex.join([*python, 'pytest', '-q', '-m', 'gpu', 'tests/library/test_gpu.py'])} && "
    tests += f"mkdir -p {shlex.quote(str(passed.parent))} && touch {shlex.quote(str(passed))}"
    return [
        Step("tests of the kernels", lambda _: ["bash", "-c", tests], passed.exists),
        Step(
            "times of attention",
            lambda minutes: [*python, "benchmarks.attention", "--minutes", str(minutes)],
            lambda: timed(kernels, [case.name for case in attention_cases.on_gpu()]),
        ),
        Step(
            "dispatch table",
            lambda _: [*python, "benchmarks.attention", "--install", str(kernels)],
            lambda: kernels.exists() and installed(kernels, attention.TABLE),
        ),
        Step(
            "times of models",
            lambda minutes: [*python, "benchmarks.steps", "--minutes", str(minutes)],
            lambda: timed(models, steps.CASES),
        ),
    ]


def timed(result: Path, names: Iterable[str]) -> bool:
    """Whether a file of results holds all cases."""
    return result.exists() and set(names) <= set(json.loads(result.read_text())["cases"])


def installed(result: Path, table: Path) -> bool:
    """Whether the library's table has a result's rows."""
    rows, there = json.loads(result.read_text())["dispatch"], json.loads(table.read_text())
    return all(there.get(arch) == row for arch, row in rows.items())


def chapters(book: Book, names: Sequence[str], profile: str, seeds: int) -> list[Step]:
    """A step for each chapter and judging seed; first the chapters with the fewest recorded seeds of this profile."""

    def there(name: str) -> int:
        return sum(done == profile for done, _ in in_force(read(recorded(book, name))))

    def step(name: str, seed: int) -> Step:
        job = Job(book, name, profile, seed)
        line = [sys.executable, "-m", "book.tools.execute", name, "--profile", profile, "--seed", str(seed)]
        both = f"{shlex.join(line)} && {shlex.join([sys.executable, '-m', 'book.tools.results', name])}"
        title = f"chapter {name}, {profile}, seed {seed}"
        return Step(title, lambda _: ["bash", "-c", both], lambda: is_recorded(job))

    return [step(name, seed) for seed in JUDGING[:seeds] for name in sorted(names, key=there)]


def run(plan: Sequence[Step], minutes: float) -> int:
    """Does what is not done, in order; the number of steps that failed. What the time does not suffice for waits."""
    end, failed = time.monotonic() + 60 * minutes, 0
    for step in plan:
        if step.done():
            print(f"done before: {step.name}", flush=True)
            continue
        left = end - time.monotonic()
        if left < LEAST:
            print(f"{minutes:g} minutes are over; the same command goes on with: {step.name}")
            break
        print(f"begins: {step.name}", flush=True)
        code = call(step.command(round((left - SPARE) / 60, 2)), left)
        if code is None:
            print(f"cut off: {step.name}; the same command goes on with it")
            break
        if code:
            failed += 1
            print(f"failed with exit code {code}: {step.name}", flush=True)
    return failed


def call(command: list[str], seconds: float) -> int | None:
    """A command's exit code; None if the time was over, and then all that it started is stopped."""
    process = subprocess.Popen(command, cwd=BOOK.root, env={**os.environ, **ENVIRONMENT}, start_new_session=True)
    try:
        return process.wait(None if seconds == float("inf") else seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None


if __name__ == "__main__":
    main()
