"""The second run: executes chapters again and compares what comes out with what is in build/executed.

Where torch, instruction set, device and Python are those of the first run, and both have one thread, the bits must be
the same: nbval compares every output, but for cells tagged `nbval-ignore-output`, which show times; and each claim's
metrics must be equal.

Elsewhere metrics may differ by rounding that training has amplified. How far, the records say: by 4 standard
deviations of the same seed's runs on several instruction sets, where there are such runs; else by 4 standard
deviations over seeds, for another machine changes a run no more than another seed does; and where fewer than three
seeds are recorded, by a tenth of the first run's value. Of the outputs nbval then asks only that no cell fails.
"""

import datetime
import json
import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from .execute import ENVIRONMENT, ChapterError, Job, run, sidecar
from .layout import PROFILES, Book
from .notebooks import MIME
from .results import Line, measured, read, recorded

SAME = ("torch", "threads", "isa", "device", "python")  # what bitwise equal results need to have in common
DEVIATIONS = 4
UNKNOWN = 0.1  # of a value, where nothing is recorded of its spread
Metrics = dict[str, dict[str, float]]  # by claim


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

    # nbval starts kernels beside the notebooks, from where they would import an installed library, not this clone's
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(book.root), os.environ.get("PYTHONPATH")]))
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
        before, after = measured(provenance), measured({**provenance, "records": records})
        lines = [] if same_machine(provenance) else read(recorded(book, name))
        problems += differences(before, after, spread(lines, profile) if lines else {}, same_machine(provenance))
    return problems


def same_machine(provenance: dict[str, Any]) -> bool:
    """Whether a second run should give the same bits as the one of a provenance: it will have one thread."""
    import torch

    from tformerlib.run.profiles import environment

    here = environment(torch.device(provenance["device"].partition(":")[0]), 1)
    return all(here[name] == provenance[name] for name in SAME)


def differences(before: Metrics, after: Metrics, spread: Metrics, exact: bool) -> Iterator[str]:
    """The metrics of a second run that are further from the first's than they may be."""
    for claim in before:
        if claim not in after:
            yield f"{claim}: the second run does not report it"
            continue
        for metric, value in before[claim].items():
            found, deviation = after[claim].get(metric, math.nan), spread.get(claim, {}).get(metric)
            allowed = 0.0 if exact else UNKNOWN * abs(value) if deviation is None else DEVIATIONS * deviation
            if not abs(found - value) <= allowed:
                yield f"{claim}: {metric} is {found}, in the first run {value}; it may differ by {allowed:.3g}"


def spread(lines: Sequence[Line], profile: str) -> Metrics:
    """Standard deviations by claim and metric, from recorded runs of a profile: see the head of this file.

    Of one seed's runs the last on each instruction set counts. Deviations within seeds are pooled over them.
    """
    values: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["profile"] == profile:
            for claim, metrics in line["claims"].items():
                for metric, value in metrics.items():
                    values[claim, metric][line["seed"]][line["isa"]] = value
    found: Metrics = defaultdict(dict)
    for (claim, metric), seeds in values.items():
        repeats = [list(runs.values()) for runs in seeds.values() if len(runs) > 1]
        if repeats:
            freedom = sum(len(runs) - 1 for runs in repeats)
            squares = sum(statistics.variance(runs) * (len(runs) - 1) for runs in repeats)
            found[claim][metric] = math.sqrt(squares / freedom)
        elif len(seeds) > 2:
            found[claim][metric] = statistics.stdev(next(iter(runs.values())) for runs in seeds.values())
    return found


def of_the_week(names: Sequence[str], n: int, date: datetime.date) -> list[str]:
    """The n chapters whose turn it is in a date's week: each comes as often as the others."""
    week = (date.toordinal() - 1) // 7  # weeks since the first Monday of the calendar
    return [names[(week * n + i) % len(names)] for i in range(min(n, len(names)))]


@click.command()
@click.argument("names", nargs=-1)
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--of-the-week", "n", type=int, help="As many chapters, chosen by the date, in place of names.")
def main(names: tuple[str, ...], profile: str, seed: int, n: int | None) -> None:
    """Executes chapters (default: all) a second time and compares; a first time too, where that has not been done."""
    os.environ.update(ENVIRONMENT)  # as for the first run
    if profile != "quick":
        os.environ["OMP_NUM_THREADS"] = "1"  # quick has one thread by itself
    book = Book()
    chosen = list(names or (of_the_week([*book.chapters], n, datetime.date.today()) if n else book.chapters))
    try:
        for name in chosen:
            run(Job(book, name, profile, seed))
        problems = verify(book, chosen, profile, seed)
    except ChapterError as error:
        raise click.ClickException(str(error)) from None
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"second run: {len(problems)} problems" if problems else "second run: equal")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
