"""Collects what sweeps measured into data/results/<chapter>.json, which is committed.

Each row is {claim, profile, seed, metrics, provenance}. A row with the metrics that are recorded already keeps its
older provenance, so that repeating a sweep changes nothing.

Comparisons of models (tformerlib.training.compare) go to data/results/comparisons/<chapter>.json, likewise.
"""

import json
from pathlib import Path
from typing import Any

import click

from .layout import PROFILES, Book, atomic_write

PROVENANCE = ("commit", "key", "torch", "device", "threads", "isa", "seconds", "peak_memory", "date")
Row = dict[str, Any]


def collect(book: Book, name: str, profiles: tuple[str, ...] = PROFILES) -> list[Row]:
    """Merges the claims of all executed runs of a chapter into its recorded results, writes and returns them."""
    path = recorded(book, name)
    rows = {_identity(row): row for row in load(path)}
    for profile in profiles:
        for sidecar in sorted((book.build / "executed" / profile).glob(f"{name}-s*.json")):
            for row in measured(json.loads(sidecar.read_text(encoding="utf-8"))):
                if rows.get(_identity(row), {}).get("metrics") != row["metrics"]:
                    rows[_identity(row)] = row
    result = [rows[identity] for identity in sorted(rows)]
    if result:
        atomic_write(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
    return result


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


def measured(provenance: dict[str, Any]) -> list[Row]:
    """The claims that one run reported, as rows."""
    about = {name: provenance[name] for name in PROVENANCE if name in provenance}
    return [
        {
            "claim": record["claim"],
            "profile": provenance["profile"],
            "seed": provenance["seed"],
            "metrics": record["metrics"],
            "provenance": about,
        }
        for record in provenance["records"]
        if record["kind"] == "claim" and any(record["metrics"].values())  # none: out of reach in this profile
    ]


def recorded(book: Book, name: str) -> Path:
    """Where a chapter's recorded results lie."""
    return book.root / "data" / "results" / f"{name}.json"


def load(path: Path) -> list[Row]:
    """Recorded rows; none if nothing was recorded yet."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def _identity(row: Row) -> tuple[str, int, int]:
    return row["claim"], PROFILES.index(row["profile"]), row["seed"]


def _compared(row: Row) -> tuple[str, str, str, int]:
    return row["profile"], row["task"], row["model"], row["seed"]


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Collects the claims of executed chapters into data/results."""
    book = Book()
    for name in names or book.chapters:
        rows = collect(book, name)
        collect_comparisons(book, name)
        seeds = len({(row["profile"], row["seed"]) for row in rows})
        click.echo(f"data/results/{name}.json: {len(rows)} results from {seeds} runs")


if __name__ == "__main__":
    main()
