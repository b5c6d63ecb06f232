"""A verdict as a reader sees it: a badge, a card on the chapter's page, a table at its end."""

import html
from collections.abc import Mapping, Sequence

from .ledger import Verdict, next_look
from .rule import Summary

MARKS = {"positive": "✓", "partly": "◐", "negative": "✗", "undecided": "?", "void": "∅", "pending": "–"}
esc = html.escape


def number(value: float) -> str:
    """Three digits, or whole numbers with separators from 100 on."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def interval(summary: Summary) -> str:
    """The interval in brackets; empty for one seed, which bounds nothing, and for an exact number."""
    return f"[{number(summary.low)}, {number(summary.high)}]" if summary.n > 1 and summary.low < summary.high else ""


def badge(verdict: Verdict) -> str:
    """The verdict as a badge: a mark and words, and a color only on top of them."""
    state = "unseen" if verdict.word == "sentence not checked" else verdict.state
    mark = "·" if state == "unseen" else MARKS[state]
    return f'<span class="tf-verdict tf-verdict-{state}">{mark} {esc(verdict.word)}</span>'


def anchor(id: str) -> str:
    """The id of a claim's card on its page."""
    return "claim-" + id.replace(".", "-")


def extent(verdict: Verdict) -> str:
    """On how many seeds of which profile a verdict rests."""
    n = len(verdict.runs)
    if verdict.state == "pending":
        wanted = f", {n} of {next_look(n)} seeds" if n and verdict.claim.kind != "identity" else ""
        return f"profile {verdict.profile}{wanted}"
    return f"{n} seed{'s' if n != 1 else ''}, profile {verdict.profile}"


def remarks(verdict: Verdict) -> list[str]:
    """What the word alone does not say."""
    said = []
    judgment = verdict.judgment
    if judgment and judgment.settled:
        said.append(f"Settled: {judgment.settled}.")
    if judgment and (margin := judgment.smallest_effect):
        half = (margin.over.high - margin.over.low) / 2
        said.append(f"Open: {margin.text}; {judgment.look} seeds would have shown a margin of {number(half)}.")
    if judgment and verdict.state == "undecided" and (wanted := next_look(judgment.look)):
        said.append(f"The next look is after {wanted} seeds.")
    if verdict.state == "void":
        said.append(f"The gate failed: {verdict.claim.gate}. Without it the comparison means nothing.")
    if verdict.word == "sentence not checked":
        said.append("The condition is met, but nobody here has seen the sentence in the paper: no verdict is given.")
    if verdict.superseded:
        said.append(f"{verdict.superseded} earlier run{'s' if verdict.superseded != 1 else ''} of these seeds.")
    return said


def outside(verdict: Verdict, own: Mapping[str, float]) -> list[str]:
    """Metrics of this run that lie outside all recorded ones by more than their whole range."""
    runs = list(verdict.runs.values())
    found = []
    for name, value in own.items():
        values = [run[name] for run in runs]
        if (
            len(values) >= 5
            and not min(values) - (spread := max(values) - min(values)) <= value <= max(values) + spread
        ):
            found.append(name)
    return found


def card(verdict: Verdict, own: Mapping[str, float], profile: str, note: str = "") -> str:
    """The card as plain HTML, readable without our style sheet: JupyterLab and Colab do not have it.

    Args:
        own: this run's metrics, which are shown and never judged; empty where its profile is too small.
        note: a sentence about the records, such as that they were made with earlier code.
    """
    claim = verdict.claim
    shown = "; ".join(
        f"{esc(name)} {number(summary.mean)} {interval(summary)}".rstrip()
        for name, summary in verdict.summaries.items()
    )
    rows = "".join(
        f'<tr><th scope="row"><code>{esc(name)}</code> <small>{esc(meaning)}</small></th>'
        f"<td data-column='recorded'>{_recorded(verdict, name)}</td>"
        f"<td data-column='this run'>{number(own[name]) if name in own else '–'}</td></tr>"
        for name, meaning in claim.metrics.items()
    )
    strange = outside(verdict, own)
    said = [*remarks(verdict), *([note] if note else [])]
    if strange:
        said.append(f"This run's {', '.join(strange)} lies outside what was recorded.")
    quote = f" “{esc(claim.source['quote'])}”" if claim.source["quote"] else ""
    checked = {True: "", False: " (not seen in the paper)"}.get(claim.source["checked"], " (seen at second hand)")
    conditions = [("Gate", claim.gate), ("First verdict if", claim.reproduced), ("partly if", claim.partly)]
    formulas = ", ".join(f"<strong>{name}</strong> <code>{esc(text)}</code>" for name, text in conditions if text)
    return (
        f'<section class="tf-claim" id="{anchor(claim.id)}" aria-label="claim {esc(claim.id)}">'
        f'<p class="tf-claim-head">{badge(verdict)} {esc(claim.claim)}</p>'
        f'<p class="tf-claim-line"><strong>The paper:</strong> {esc(claim.paper)}. '
        f"<strong>Ours:</strong> {shown or 'nothing recorded yet'} <small>({extent(verdict)})</small></p>"
        f"{''.join(f'<p class=tf-claim-note>{esc(sentence)}</p>' for sentence in said)}"
        f"<details><summary>How it was judged</summary><p><small><code>{esc(claim.id)}</code>, {esc(claim.kind)}; "
        f"<cite>{esc(claim.source['cite'])}</cite>, {esc(claim.source['where'])}{quote}{checked}</small></p>"
        '<div class="tf-scroll" tabindex="0" role="region" aria-label="metrics"><table class="tf-table"><thead><tr>'
        f'<th scope="col">metric</th><th scope="col">recorded: mean, 98.3 % interval</th>'
        f'<th scope="col">this run ({esc(profile)})</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f"<p><small>{formulas}. {f'<strong>Tuned:</strong> {esc(claim.tuned)}. ' if claim.tuned else ''}"
        f"<strong>What differs:</strong> {esc(claim.differs)}.</small></p></details></section>"
    )


def _recorded(verdict: Verdict, name: str) -> str:
    summary = verdict.summaries.get(name)
    return f"{number(summary.mean)} {interval(summary)}".rstrip() if summary else "–"


def plain(verdict: Verdict) -> str:
    """The card as text."""
    lines = [f"{verdict.claim.id}: {verdict} ({extent(verdict)})"]
    lines += [f"  {name} = {_recorded(verdict, name)}" for name in verdict.summaries]
    return "\n".join([*lines, f"  paper: {verdict.claim.paper}"])


def table(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Verdicts as the rows of a table: word, claim, the first metric with its interval, the seeds."""
    rows = []
    for verdict in verdicts:
        name = next(iter(verdict.claim.metrics))
        ours = f"{name} {_recorded(verdict, name)}" if verdict.runs else "–"
        rows.append({
            "claim": verdict.claim.claim, "kind": verdict.claim.kind, "verdict": str(verdict), "ours": ours,
            "seeds": extent(verdict),
        })  # fmt: skip
    return rows
