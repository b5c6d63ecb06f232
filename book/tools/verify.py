"""The second run: executes chapters again and holds what comes out against what is in build/executed.

Where torch, threads, instruction set, device and Python are those of the first run, nbval compares every output
exactly; a cell tagged `nbval-ignore-output` is left out, for what it prints is a time. Everywhere, each claim's metrics
must agree within the ledger's tolerance with those of the first run, and with the recorded results of the same seed.
"""

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import click

from .execute import ENVIRONMENT, sidecar
from .layout import Book
from .notebooks import MIME
from .results import Row, load, measured, recorded

SAME = ("torch", "threads", "isa", "device", "python")  # what bitwise equal results need to have in common


class Records:
    """A pytest plugin that keeps the records that notebooks leave while nbval runs them."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def pytest_runtest_teardown(self, item: Any) -> None:
        for output in item.test_outputs or []:
            if MIME in output.get("data", {}):
                self.found[item.path.name].append(dict(output["data"][MIME]))


def verify(book: Book, names: Iterable[str], profile: str = "quick", seed: int = 0) -> list[str]:
    """Runs chapters again; returns what differs, nothing if they agree."""
    import pytest

    first = {name: json.loads(sidecar(book.executed(name, profile, seed)).read_text("utf-8")) for name in names}
    again = Records()
    problems = []
    for strict in (True, False):
        paths = [book.executed(name, profile, seed) for name in first if same_machine(first[name]) == strict]
        if paths:
            click.echo(f"comparing {'every output' if strict else 'metrics'}: {', '.join(path.stem for path in paths)}")
            options = ["--nbval" if strict else "--nbval-lax", "--nbval-kernel-name=python3", "-p", "no:cacheprovider"]
            code = pytest.main([*map(str, paths), *options, f"--rootdir={book.root}", "--durations=3"], plugins=[again])
            if code:
                problems.append(f"nbval found differences or errors, above ({', '.join(path.stem for path in paths)})")
    for name, provenance in first.items():
        records = again.found[book.executed(name, profile, seed).name]
        second = measured({**provenance, "records": records})
        if missing := {row["claim"] for row in measured(provenance)} - {row["claim"] for row in second}:
            problems.append(f"{name}: the second run reports nothing for {', '.join(sorted(missing))}")
        for other, title in ((measured(provenance), "the first run"), (load(recorded(book, name)), "data/results")):
            problems += differences(book.ledger, second, other, title)
    return problems


def same_machine(provenance: dict[str, Any]) -> bool:
    """Whether this machine should give the same bits as the one of a run."""
    import torch

    from tformerlib.run.profiles import environment

    here = environment(torch.device(provenance["device"].partition(":")[0]), min(2, os.cpu_count() or 1))
    return all(here[name] == provenance[name] for name in SAME)


def differences(ledger: list[dict[str, Any]], second: list[Row], other: list[Row], title: str) -> Iterator[str]:
    """The metrics of a second run that are further from another run's than the ledger allows."""
    tolerances = {row["id"]: row["tolerance"] for row in ledger}
    before = {(row["claim"], row["profile"], row["seed"]): row["metrics"] for row in other}
    for row in second:
        for metric, expected in before.get((row["claim"], row["profile"], row["seed"]), {}).items():
            found, tolerance = row["metrics"][metric], tolerances[row["claim"]][metric]
            close = [math.isclose(a, b, rel_tol=0, abs_tol=tolerance) for a, b in zip(expected, found, strict=False)]
            if len(expected) != len(found) or not all(close):
                yield f"{row['claim']}: {metric} is {found}, in {title} {expected}; the tolerance is {tolerance}"


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Executes chapters (default: all) a second time and compares."""
    os.environ.update(ENVIRONMENT)  # as for the first run
    book = Book()
    problems = verify(book, names or book.chapters)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"second run: {len(problems)} problems" if problems else "second run: equal")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
