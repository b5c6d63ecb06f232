"""The pages that are data: notation, systems, scoreboard and league, as Markdown with HTML tables.

A page asks for one with a line `<!-- generated: NAME -->`; book/tools/site.py puts it there.
"""

import html
import json
import re
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from typing import Any

import yaml

from tformerlib.claims import Claim, Verdict, load_ledger, verdict
from tformerlib.claims.card import card
from tformerlib.claims.ledger import lines
from tformerlib.show.interactive import on_a_page
from tformerlib.show.pareto import pareto_figure

from . import scoreboard as scoreboards
from .execute import Job
from .layout import Book
from .notation import NotationError, Symbol, load, unknown
from .notebooks import convert
from .plain import Citation, citations
from .results import current

PARTS = {
    "foundations": "Foundations",
    "language": "Language",
    "vision": "Vision",
    "hybrids": "Convolution and attention",
    "detection": "Detection and dense prediction",
    "generation": "Generation and self-supervision",
    "beyond": "Beyond text and images",
    "libraries": "Libraries that chapters use, compare with or load from",
}


class PageError(ValueError):
    """Data that does not fit together; the message names the entry."""


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def raw(lines: Iterable[str]) -> str:
    """HTML for a Markdown page. A blank line would end it early, so there is none."""
    body = "\n".join(line for line in "\n".join(lines).splitlines() if line.strip())
    return f"```{{raw}} html\n{body}\n```"


def table(columns: list[str], rows: list[str], *, name: str, sortable: bool = False) -> list[str]:
    """A table whose rows become blocks on a phone; each cell knows its column's name (see `cell`)."""
    head = "".join(f'<th scope="col">{esc(column)}</th>' for column in columns)
    kind = "tf-rows tf-sortable" if sortable else "tf-rows"
    return [f'<table class="{kind}" id="{name}"><thead><tr>{head}</tr></thead><tbody>', *rows, "</tbody></table>"]


def cell(column: str, content: str, sort: object = None) -> str:
    key = "" if sort is None else f' data-sort="{esc(sort)}"'
    return f'<td data-column="{esc(column)}"{key}>{content}</td>'


def cite(key: str, cited: dict[str, Citation], root: str = "") -> str:
    """A link to the bibliography from a page whose way to the site's root is given.

    Raises:
        PageError: a key that references.bib lacks.
    """
    if key not in cited:
        raise PageError(f"no entry {key!r} in book/references.bib")
    return f'<a href="{root}bibliography.html#ref-{esc(key)}">{esc(cited[key].authors)} ({esc(cited[key].year)})</a>'


def filter_box(name: str, label: str) -> list[str]:
    """A search field over a table's rows; hidden until the script that serves it runs."""
    return [
        '<p class="tf-filter-box" hidden>',
        f'<label for="{name}-filter">{esc(label)}</label>',
        f'<input class="tf-filter" id="{name}-filter" data-filters="{name}" type="search" autocomplete="off">',
        f'<output for="{name}-filter"></output></p>',
    ]


# --- scoreboard ---------------------------------------------------------------------------------------------------


def scoreboard(book: Book) -> str:
    """Every claim of the book's chapters once, beside what was measured.

    Raises:
        PageError: a claim that its chapter does not report, or a report without a claim.
    """
    ledger = load_ledger(book.root / "data" / "claims")
    sidecars = {name: json.loads(book.executed(name).with_suffix(".json").read_text("utf-8")) for name in book.chapters}
    check_both_ways(ledger, sidecars)
    try:
        return raw(scoreboards.scoreboard(book))
    except ValueError as error:
        raise PageError(str(error)) from None


def verified(book: Book) -> str:
    """What the ledger says so far, in a sentence."""
    return scoreboards.counts(book)


def check_both_ways(ledger: dict[str, Claim], sidecars: dict[str, dict[str, Any]]) -> None:
    """Every claim of a chapter that ran has a record, and every record a claim."""
    reported = {
        (name, record["claim"])
        for name, sidecar in sidecars.items()
        for record in sidecar["records"]
        if record["kind"] == "claim"
    }
    expected = {(claim.chapter, claim.id) for claim in ledger.values() if claim.chapter in sidecars}
    for chapter, claim in sorted(expected - reported):
        raise PageError(f"chapter {chapter} reports no result for its claim {claim}")
    for chapter, claim in sorted(reported - expected):
        raise PageError(f"chapter {chapter} reports {claim}, which is not among its claims in data/claims")


def refreshed_card(
    book: Book, record: dict[str, Any], ledger: dict[str, Claim], cited: dict[str, Citation], key: str = ""
) -> str:
    """A claim's card by the ledger and the records as they are now; the run on the page may be older than both."""
    found = verdict(ledger[record["claim"]], book.root / "data" / "results")
    shown = card(found, record["metrics"], record["profile"], earlier(book, found))
    return re.sub(r"<cite>([\w-]+)</cite>", lambda match: cite(match[1], cited, "../../"), shown)


def earlier(book: Book, found: Verdict) -> str:
    """A sentence on how many of a verdict's runs would run with other code today; nothing where none would."""
    chapter, profile = found.claim.chapter, found.profile
    last = {
        line["seed"]: json.dumps(line, sort_keys=True)
        for line in lines(chapter, book.root / "data" / "results")
        if line["profile"] == profile and line["ended"] == "finished"
    }
    old = sum(not _current(Job(book, chapter, profile, seed), last[seed]) for seed in found.runs)
    return f"{old} of these {len(found.runs)} runs were recorded with earlier code." if old else ""


@cache
def _current(job: Job, line: str) -> bool:
    return current(job, json.loads(line))


# --- systems ------------------------------------------------------------------------------------------------------


def systems(book: Book) -> str:
    """Every system of data/systems.yml, a table for each part of the book."""
    entries = yaml.safe_load((book.root / "data" / "systems.yml").read_text("utf-8"))
    cited = citations(book.root / "book" / "references.bib")
    done = sum(entry["status"] == "implemented" for entry in entries)
    blocks = [f"{len(entries)} systems, {done} of them implemented."]
    for part, group in groupby(entries, key=lambda entry: entry["part"]):
        if part not in PARTS:
            raise PageError(f"data/systems.yml: part {part!r} is not one of {', '.join(PARTS)}")
        rows = [_system_row(book, entry, cited) for entry in group]
        blocks += [f"## {PARTS[part]}", raw(table(["System", "What was new", "Ours"], rows, name=f"systems-{part}"))]
    return "\n\n".join(blocks)


def _system_row(book: Book, entry: dict[str, Any], cited: dict[str, Citation]) -> str:
    papers = ", ".join(cite(key, cited) for key in [entry["paper"], *entry.get("also", [])] if key)
    code = entry["code"]
    source = f'<a href="https://github.com/{esc(code)}">{esc(code)}</a>' if code else "no official code"
    name = (
        f'<p><strong>{esc(entry["name"])}</strong></p><p class="tf-small">{papers}</p><p class="tf-small">{source}</p>'
    )
    if entry["status"] not in ("planned", "implemented"):
        raise PageError(f"{entry['id']}: status {entry['status']!r} is neither planned nor implemented")
    mark = "✓ implemented" if entry["status"] == "implemented" else "planned"
    where = ""
    if entry["chapter"] in book.chapters:
        page = book.chapters[entry["chapter"]].relative_to(book.root).with_suffix(".html")
        where = f', <a href="{page}">chapter <code>{esc(entry["chapter"])}</code></a>'
    elif entry["chapter"]:
        where = f", chapter <code>{esc(entry['chapter'])}</code>"
    held = f'<p class="tf-small">held against {esc(entry["peer"])}</p>' if entry["peer"] else ""
    counts = "".join(f"<li>{_count(count)}</li>" for count in entry["parameters"])
    ours = f'<p><span class="tf-status tf-{entry["status"]}">{mark}</span>{where}</p>{held}' + (
        f'<ul class="tf-plain tf-small">{counts}</ul>' if counts else ""
    )
    columns = {"System": name, "What was new": f"<p>{esc(entry['introduces'])}</p>", "Ours": ours}
    return "<tr>" + "".join(cell(column, content) for column, content in columns.items()) + "</tr>"


def _count(count: dict[str, Any]) -> str:
    doubt = "" if count["checked"] else '<abbr title="not checked in the paper">?</abbr>'
    ours = f", ours {count['ours'] / 1e6:,.2f} M" if count["ours"] else ""
    source = f" ({esc(count['source'])})" if count.get("source") else ""
    millions = count["paper"] / 1e6
    paper = f"{millions:,.4g}" if millions < 1e4 else f"{millions:,.0f}"  # .4g would print 175 thousand as 1.75e+05
    return f"<code>{esc(count['variant'])}</code> {paper} M{doubt}{source}{ours}"


# --- notation -----------------------------------------------------------------------------------------------------


def notation(book: Book) -> str:
    """The notation table by group; every symbol of every chapter must be in it.

    Raises:
        NotationError: a symbol with two meanings, or one that a chapter uses and the table lacks.
    """
    rows = load(book.root / "data" / "notation.yml")
    for name, path in book.chapters.items():
        if missing := unknown(convert(path, book.repository), rows):
            raise NotationError(f"chapter {name} uses symbols that data/notation.yml lacks: {'; '.join(missing)}")
    blocks = []
    for group, symbols in groupby(rows, key=lambda row: row.group):
        blocks += [f"## {group}", "| Symbol | Meaning |\n|---|---|\n" + "\n".join(map(_notation_row, symbols))]
    return "\n\n".join(blocks)


def _notation_row(row: Symbol) -> str:
    symbol = f"${row.symbol}$" if row.kind == "math" else f"`{row.symbol}`"
    unlike = f" ({row.unlike})" if row.unlike else ""
    return f"| {symbol} | {row.meaning}{unlike} |".replace(r"\|", r"\Vert")


# --- league -----------------------------------------------------------------------------------------------------------


def league(book: Book) -> str:
    """Backbones of equal size that were trained alike: accuracy over what each costs, as a figure and as a table.

    Raises:
        PageError: a model without its size, or without its throughput.
    """
    record = json.loads((book.root / "benchmarks" / "results" / "league.json").read_text("utf-8"))
    speeds = record["speed"].get("images_per_second", {})
    rows = []
    for score in record["scores"]:
        name = score["model"]
        if name not in record["sizes"] or name not in speeds:
            raise PageError(f"league.json has a score of {name!r}, but not its size and throughput")
        rows.append({**score, **record["sizes"][name], "images_per_second": speeds[name]})
    budget, speed = record["budget"], record["speed"]["provenance"]
    images = budget["steps"] * budget["batch_size"]
    figure = on_a_page(
        pareto_figure(rows),
        alt="Test accuracy of every model over a cost that a slider chooses; the table below has the same numbers.",
        caption=f"CIFAR-10 after {budget['steps']:,} steps of {budget['batch_size']} images ({images:,} in all), from "
        f"scratch. Throughput: forward passes of 64 images, {speed['device']}, threads: {speed['threads']}.",
    )
    columns = ["Model", "Accuracy", "Parameters", "Multiply-adds", "Throughput", "Memory"]
    of = {name: [row for row in rows if row["model"] == name] for name in dict.fromkeys(row["model"] for row in rows)}
    best_first = sorted(of.values(), key=lambda seeds: -sum(row["accuracy"] for row in seeds) / len(seeds))
    body = [_league_row(book, columns, seeds) for seeds in best_first]
    return raw([figure, *table(columns, body, name="league", sortable=True)])


def _league_row(book: Book, columns: list[str], rows: list[dict[str, Any]]) -> str:
    """A model's row; `rows` are its seeds."""
    one, scores = rows[0], [row["accuracy"] for row in rows]
    name, chapter = esc(one["model"]), book.chapters.get(one["chapter"])
    if chapter:
        name = f'<a href="{chapter.relative_to(book.root).with_suffix("").as_posix()}.html">{name}</a>'
    mean = sum(scores) / len(scores)
    seeds = "one seed" if len(scores) == 1 else f"{len(scores)} seeds, {min(scores):.1f} to {max(scores):.1f}"
    content: list[tuple[str, object]] = [
        (name, one["model"]),
        (f"{mean:.1f} % <small>({seeds})</small>", mean),
        (f"{one['parameters'] / 1e3:.0f} k", one["parameters"]),
        (f"{one['macs'] / 1e6:.1f} M", one["macs"]),
        (f"{one['images_per_second']:,.0f} images/s", one["images_per_second"]),
        (f"{one['activations'] / 1e6:.2f} MB", one["activations"]),
    ]
    cells = (cell(name, text, sort) for name, (text, sort) in zip(columns, content, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


GENERATED = {
    "league": league, "notation": notation, "scoreboard": scoreboard, "systems": systems, "verified": verified,
}  # fmt: skip
