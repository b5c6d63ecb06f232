"""The scoreboard: every claim once, by kind, with a summary that a stranger understands; and the ledger as data.

The whole ledger also leaves the site as CSV and as JSON-LD, an RO-Crate's metadata that says what ran where.
"""

import csv
import html
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tformerlib.claims import Claim, Verdict, load_ledger, verdicts
from tformerlib.claims.card import anchor, badge, extent, interval, number, remarks
from tformerlib.claims.rule import WORDS
from tformerlib.run.results import replications

from .layout import Book
from .plain import Citation, citations

KINDS = {
    "identity": ("Identities", "exact statements and counts; one run decides"),
    "mechanism": ("Mechanisms", "toy tasks built to show why a method works; they say nothing of the paper's numbers"),
    "replication": (
        "Replications",
        "the paper's comparison at a smaller scale, tuned alike on both sides, to a plateau",
    ),
}


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def judged(book: Book) -> dict[str, list[Verdict]]:
    """Each claim's verdicts: the one that counts first, then those of other profiles."""
    results = book.root / "data" / "results"
    ledger = load_ledger(book.root / "data" / "claims")
    shown = {id: claim for id, claim in ledger.items() if claim.chapter in book.chapters}
    return {id: verdicts(claim, results) for id, claim in shown.items()}


def summary(found: Sequence[Verdict]) -> str:
    """So many hold, of so many; a sentence for each kind."""
    sentences = []
    for kind, (title, _) in KINDS.items():
        own = [verdict for verdict in found if verdict.claim.kind == kind]
        if not own:
            continue
        counts = Counter(verdict.word for verdict in own)
        order = [*WORDS[kind].values(), "undecided", "void", "sentence not checked", "not run yet", "out of reach"]
        parts = ", ".join(f"<strong>{counts[word]}</strong> {word}" for word in order if counts[word])
        sentences.append(f"<li>Of <strong>{len(own)}</strong> {title.lower()}: {parts}.</li>")
    return f'<ul class="tf-summary">{"".join(sentences)}</ul>'


def counts(book: Book) -> str:
    """The ledger in one sentence, for the landing page."""
    found = [each[0] for each in judged(book).values()]
    decided = sum(v.state in ("positive", "partly", "negative") for v in found)
    holds = sum(v.state == "positive" for v in found)
    against = sum(v.state == "negative" for v in found)
    return (
        f"{len(found)} claims of papers are in the ledger; {decided} are decided so far: {holds} as the paper says, "
        f"{decided - holds - against} in part, {against} not."
    )


def scoreboard(book: Book) -> list[str]:
    """The page's HTML: summary, filters, and a table for each kind."""
    found = judged(book)
    cited = citations(book.root / "book" / "references.bib")
    others = replications(book.root / "data" / "replications")
    first = [each[0] for each in found.values()]
    parts = sorted({book.chapters[v.claim.chapter].parent.name for v in first})
    words = sorted({v.word for v in first})
    lines = [
        summary(first),
        '<div class="tf-filters" hidden>',
        *_choice("kind", "Kind", list(KINDS)),
        *_choice("part", "Part", parts),
        *_choice("verdict", "Verdict", words),
        '<label>Words <input type="search" data-filter="words" autocomplete="off"></label><output></output></div>',
    ]
    for kind, (title, meaning) in KINDS.items():
        shown = [each for each in found.values() if each[0].claim.kind == kind]
        rows = [_row(book, each, cited, others[each[0].claim.id]) for each in shown]
        if rows:
            head = "".join(f'<th scope="col">{name}</th>' for name in ("Verdict", "Claim", "The paper", "Ours"))
            lines += [
                f'<h2 id="scoreboard-{kind}">{title}</h2><p>{meaning[0].upper()}{meaning[1:]}.</p>',
                f'<table class="tf-rows tf-filtered" id="scoreboard-{kind}-table">',
                f"<thead><tr>{head}</tr></thead><tbody>",
                *rows,
                "</tbody></table>",
            ]
    return lines


def _choice(name: str, label: str, values: Sequence[str]) -> list[str]:
    options = "".join(f'<option value="{esc(value)}">{esc(value)}</option>' for value in values)
    return [f'<label>{label} <select data-filter="{name}"><option value="">all</option>{options}</select></label>']


def _row(book: Book, each: Sequence[Verdict], cited: dict[str, Citation], others: int) -> str:
    verdict, claim = each[0], each[0].claim
    source = book.chapters[claim.chapter].relative_to(book.root)
    page = source.with_suffix(".html")
    entry = cited.get(claim.source["cite"])
    if entry is None:
        raise ValueError(f"{claim.id}: no entry {claim.source['cite']!r} in book/references.bib")
    doubt = "" if claim.seen else '<abbr title="the sentence was not seen in the paper itself">?</abbr>'
    reference = f"bibliography.html#ref-{esc(claim.source['cite'])}"
    paper = (
        f'<p>{esc(claim.paper)}{doubt}</p><p class="tf-small"><a href="{reference}">'
        f"{esc(entry.authors)} ({esc(entry.year)})</a>, {esc(claim.source['where'])}</p>"
    )
    about = (
        f"<p>{esc(claim.claim)}</p>"
        f'<p class="tf-small"><a href="{page}#{anchor(claim.id)}"><code>{esc(claim.id)}</code></a>'
        f' · <a href="{book.repository}/blob/main/{source}">code</a>'
        f' · <a href="{book.repository}/blob/main/data/results/{claim.chapter}.jsonl">runs</a>'
        f" · <code>tf-reproduce {esc(claim.id)} --seed 10</code>"
        f"{f' · run again by others: {others}' if others else ''}</p>"
    )
    larger = "".join(f"<details><summary>{badge(v)} {extent(v)}</summary>{_numbers(v)}</details>" for v in each[1:])
    said = "".join(f'<p class="tf-small">{esc(sentence)}</p>' for sentence in remarks(verdict))
    ours = f"{_numbers(verdict)}<p class='tf-small'>{extent(verdict)}</p>{said}{larger}"
    part = source.parent.name
    return (
        f'<tr data-kind="{claim.kind}" data-part="{part}" data-verdict="{esc(verdict.word)}">'
        f'<td data-column="Verdict">{badge(verdict)}</td><td data-column="Claim">{about}</td>'
        f'<td data-column="The paper">{paper}</td><td data-column="Ours">{ours}</td></tr>'
    )


def _numbers(verdict: Verdict) -> str:
    lines = "".join(
        f"<li><strong>{number(summary.mean)}</strong> {interval(summary)} {esc(verdict.claim.metrics[name])}</li>"
        for name, summary in verdict.summaries.items()
    )
    return f'<ul class="tf-plain">{lines}</ul>' if lines else ""


# --- the ledger as data -----------------------------------------------------------------------------------------------


def as_csv(book: Book) -> str:
    """A line for each claim and profile: verdict, metrics, seeds."""
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow(["id", "kind", "chapter", "system", "claim", "cite", "where", "checked", "paper", "profile", "verdict",
                  "seeds", "metric", "mean", "low", "high", "condition", "partly", "gate"])  # fmt: skip
    for each in judged(book).values():
        for verdict in each:
            claim = verdict.claim
            head = [claim.id, claim.kind, claim.chapter, claim.system, claim.claim, claim.source["cite"],
                    claim.source["where"], claim.source["checked"], claim.paper, verdict.profile, verdict.word,
                    len(verdict.runs)]  # fmt: skip
            tail = [claim.reproduced, claim.partly or "", claim.gate or ""]
            for name in claim.metrics:
                summary = verdict.summaries.get(name)
                values = [summary.mean, summary.low, summary.high] if summary else []
                shown = [value if math.isfinite(value) else "" for value in values] or [""] * 3
                out.writerow([*head, name, *shown, *tail])
    return file.getvalue()


def as_crate(book: Book) -> str:
    """The ledger as an RO-Crate 1.1: claims as assertions, their papers, the files that hold the runs."""
    found = judged(book)
    files = [{"@id": "ledger.csv", "@type": "File", "encodingFormat": "text/csv", "name": "The ledger as a table"}]
    claims = [_assertion(book, each[0]) for each in found.values()]
    root: dict[str, Any] = {
        "@id": "./", "@type": "Dataset", "name": "The ledger of The Reproducible Transformer",
        "description": "Claims of papers on Transformers, re-tested by a rule that was fixed before the runs.",
        "license": {"@id": "https://creativecommons.org/licenses/by/4.0/"}, "url": book.repository,
        "hasPart": [{"@id": file["@id"]} for file in files], "mentions": [{"@id": claim["@id"]} for claim in claims],
    }  # fmt: skip
    about = {
        "@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }  # fmt: skip
    graph = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [about, root, *files, *claims]}
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"


def _assertion(book: Book, verdict: Verdict) -> dict[str, Any]:
    claim: Claim = verdict.claim
    page = book.chapters[claim.chapter].relative_to(book.root).with_suffix(".html")
    return {
        "@id": f"{page}#{anchor(claim.id)}", "@type": "Claim", "identifier": claim.id, "text": claim.claim,
        "citation": f"{claim.source['cite']}, {claim.source['where']}", "additionalType": claim.kind,
        "reviewAspect": claim.reproduced, "reviewRating": verdict.word,
        "result": {name: summary.mean for name, summary in verdict.summaries.items()},
        "instrument": [f"seed {seed}" for seed in verdict.runs], "measurementTechnique": f"profile {verdict.profile}",
    }  # fmt: skip
