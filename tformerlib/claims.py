"""The ledger's face inside a chapter: a claim is judged by the condition that was written down before the run.

A row of data/claims.yml says what a paper claims, which metrics test it, and the conditions under which we call it
reproduced or partly reproduced. `report` brings a run's metrics, adds the seeds recorded by earlier runs, judges,
shows a card, and leaves a record for the runner.
"""

import ast
import difflib
import html
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .run.profiles import PROFILES, current_run
from .run.records import emit

REPRODUCED, PARTLY, NOT_REPRODUCED, OUT_OF_REACH = "reproduced", "partly", "not reproduced", "out of reach here"
MARKS = {REPRODUCED: "✓", PARTLY: "◐", NOT_REPRODUCED: "✗", OUT_OF_REACH: "–"}
Samples = Mapping[str, Sequence[float]]  # metric to values, one a seed
Runs = dict[int, dict[str, float]]  # seed to metrics

_PACKAGE = Path(__file__).resolve().parent
_LEDGERS = (_PACKAGE.parent / "data" / "claims.yml", _PACKAGE / "_ledger" / "claims.yml")
_RESULTS = _PACKAGE.parent / "data" / "results"


class LedgerError(ValueError):
    """A row, a condition or a recorded result that cannot be used; the message names it."""


@dataclass(frozen=True)
class Summary:
    """One metric over seeds; `low` and `high` are its mean's 95 % interval by Student's t. One seed bounds nothing."""

    mean: float
    low: float
    high: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        n = len(values)
        mean = math.fsum(values) / n
        half = math.inf
        if n > 1:
            from scipy.stats import t

            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
            half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return cls(mean, mean - half, mean + half, min(values), max(values), n)


@dataclass(frozen=True)
class Claim:
    """A row of the ledger, checked when it is read."""

    id: str
    chapter: str
    system: str
    claim: str  # the paper's, in our words
    source: Mapping[str, Any]  # cite: a key of references.bib, where: table or section, checked: read in the paper?
    paper: str  # its number, as text
    metrics: Mapping[str, str]  # name to meaning, with unit
    reproduced: str
    partly: str
    seeds: int  # a verdict over fewer is provisional
    profile: str  # the smallest profile in which the claim can be judged
    tolerance: Mapping[str, float]  # per metric, for a second run on another machine
    differs: str  # what we do differently from the paper

    def __post_init__(self) -> None:
        for condition in (self.reproduced, self.partly):
            _Condition(self.id, condition, self.metrics)
        if self.profile not in PROFILES:
            raise LedgerError(f"{self.id}: profile {self.profile!r} is not one of {', '.join(PROFILES)}")
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < 1:
            raise LedgerError(f"{self.id}: seeds {self.seeds!r} is not a positive integer")
        if missing := {"cite", "where", "checked"} - set(self.source):
            raise LedgerError(f"{self.id}: source lacks {', '.join(sorted(missing))}")
        if set(self.tolerance) != set(self.metrics):
            named = f"{sorted(self.tolerance)}, the metrics are {list(self.metrics)}"
            raise LedgerError(f"{self.id}: tolerance is for {named}")


@dataclass(frozen=True)
class Verdict:
    """A judged claim: what was found, over which seeds of which profile."""

    claim: Claim
    verdict: str
    profile: str
    seeds: tuple[int, ...]
    samples: Samples

    @property
    def provisional(self) -> bool:
        """Fewer seeds than the ledger asks for."""
        return self.verdict != OUT_OF_REACH and len(self.seeds) < self.claim.seeds

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        return {name: Summary.of(values) for name, values in self.samples.items() if values}

    def _ipython_display_(self) -> None:
        """Nothing: as the last value of a cell a verdict would show below its own card."""

    def __str__(self) -> str:
        return self.verdict + (" (provisional)" if self.provisional else "")


def load_ledger(path: Path | None = None) -> dict[str, Claim]:
    """The ledger's rows by id: data/claims.yml of a clone, or the copy packed with an installed tformerlib."""
    import yaml

    path = path or next((candidate for candidate in _LEDGERS if candidate.exists()), None)
    if path is None:
        raise FileNotFoundError(f"no ledger at {' or '.join(map(str, _LEDGERS))}")
    ledger: dict[str, Claim] = {}
    names = {field.name for field in fields(Claim)}
    for i, row in enumerate(yaml.safe_load(path.read_text("utf-8")) or []):
        label = row.get("id", f"row {i + 1}") if isinstance(row, dict) else f"row {i + 1}"
        if not isinstance(row, dict) or set(row) != names:
            found = sorted(row) if isinstance(row, dict) else row
            raise LedgerError(f"{path.name}, {label}: expected the fields {sorted(names)}, found {found}")
        if label in ledger:
            raise LedgerError(f"{path.name}: two rows have the id {label!r}")
        ledger[label] = Claim(**row)
    return ledger


def judge(claim: Claim, samples: Samples) -> str:
    """The verdict over samples (metric to one value a seed): the first condition that holds, else "not reproduced"."""
    summaries = {name: Summary.of(values) for name, values in samples.items()}
    if _Condition(claim.id, claim.reproduced, claim.metrics)(summaries):
        return REPRODUCED
    return PARTLY if _Condition(claim.id, claim.partly, claim.metrics)(summaries) else NOT_REPRODUCED


def recorded(claim: Claim, profile: str, folder: Path | None = None) -> Runs:
    """Metrics by seed from data/results/<chapter>.json, which earlier runs and sweeps wrote; none without a clone.

    A record with lists holds several seeds: its own and the ones that follow it.
    """
    path = (folder or _RESULTS) / f"{claim.chapter}.json"
    if not path.exists():
        return {}
    found: Runs = {}
    for row in json.loads(path.read_text("utf-8")):
        if row["claim"] == claim.id and row["profile"] == profile:
            found.update(by_seed(row["seed"], _checked(claim, row["metrics"], f" in {path.name}")))
    return found


def weigh(claim: Claim, profile: str, own: Runs, folder: Path | None = None) -> Verdict:
    """Judges a run of some profile together with the recorded ones; where both have a seed, the run's own counts.

    A claim of a larger profile than the run's is judged by recorded runs alone; without any it is out of reach here.
    """
    if PROFILES.index(profile) < PROFILES.index(claim.profile):
        profile, own = claim.profile, {}
    return combine(claim, profile, recorded(claim, profile, folder) | own)


def every_profile(*ids: str) -> list[Verdict]:
    """What earlier runs found of claims: a verdict for each profile that judges them and has recorded seeds.

    For a chapter's page, which is a run in `quick`, to show the larger runs beside it. Empty without a clone.
    """
    rows = [_row(id, load_ledger()) for id in ids]
    large_enough = [(row, profile) for row in rows for profile in PROFILES[PROFILES.index(row.profile) :]]
    return [combine(row, profile, runs) for row, profile in large_enough if (runs := recorded(row, profile))]


def side_by_side(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Verdicts as the rows of a table: the means with their intervals, and how many seeds of which profile."""
    return [
        {
            "claim": verdict.claim.id,
            "profile": verdict.profile,
            "seeds": str(len(verdict.seeds)),
            "mean and interval": "; ".join(
                f"{name} {number(summary.mean)} {interval(summary)}".rstrip()
                for name, summary in verdict.summaries.items()
            ),
            "verdict": str(verdict),
        }
        for verdict in verdicts
    ]


def combine(claim: Claim, profile: str, runs: Runs) -> Verdict:
    """Judges metrics by seed; with none the claim is out of reach here."""
    seeds = tuple(sorted(runs))
    samples = {name: [runs[seed][name] for seed in seeds] for name in claim.metrics}
    return Verdict(claim, judge(claim, samples) if seeds else OUT_OF_REACH, profile, seeds, samples)


def report(id: str, **metrics: float | Sequence[float]) -> Verdict:
    """Judges a claim by this run and the recorded seeds, shows the card and leaves the record.

    A metric is a number, or one number for each seed that the chapter ran itself: the run's seed and those that
    follow it. For a claim of a larger profile than this run's (see `weigh`), `metrics` may be left out.

    Raises:
        KeyError: the ledger has no such claim; the message lists close matches.
        ValueError: missing, unknown, empty, unequally long or not finite metrics.
    """
    claim, run = _row(id, load_ledger()), current_run()
    reachable = PROFILES.index(run.profile) >= PROFILES.index(claim.profile)
    own = by_seed(run.seed, _checked(claim, metrics)) if metrics or reachable else {}
    verdict = weigh(claim, run.profile, own)
    record = {
        "claim": id,
        "profile": run.profile,
        "seed": run.seed,
        "metrics": {name: [own[seed][name] for seed in sorted(own)] for name in claim.metrics},
        "verdict": verdict.verdict,
        "provisional": verdict.provisional,
        "seeds": list(verdict.seeds),
    }
    emit("claim", record, html=card(verdict, own, run.profile), text=_plain(verdict))
    return verdict


def _row(id: str, ledger: Mapping[str, Claim]) -> Claim:
    """A claim of the ledger; refuses an unknown one with those that are close to it."""
    if id not in ledger:
        close = difflib.get_close_matches(id, ledger, n=3, cutoff=0.4) or sorted(ledger)
        raise KeyError(f"no claim {id!r} in the ledger; close to it: {', '.join(close)}")
    return ledger[id]


def _checked(claim: Claim, metrics: Mapping[str, Any], where: str = "") -> dict[str, list[float]]:
    """Metrics as lists of floats; refuses what the ledger does not name and what is not a finite number."""
    for problem, names in (
        ("lacks the metrics", set(claim.metrics) - set(metrics)),
        ("has no metrics named", set(metrics) - set(claim.metrics)),
    ):
        if names:
            raise LedgerError(f"{claim.id}{where} {problem} {sorted(names)}; the ledger has {list(claim.metrics)}")
    samples: dict[str, list[float]] = {}
    for name, value in metrics.items():
        try:
            if isinstance(value, str):
                raise TypeError
            samples[name] = [float(v) for v in (value if isinstance(value, list | tuple) else [value])]
        except (TypeError, ValueError):
            raise LedgerError(f"{claim.id}{where}: {name}={value!r} is neither a number nor a list of them") from None
        if not samples[name] or not all(map(math.isfinite, samples[name])):
            raise LedgerError(f"{claim.id}{where}: {name}={value!r} is empty or has values that are not finite")
    lengths = {name: len(values) for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        raise LedgerError(f"{claim.id}{where}: metrics over different numbers of seeds: {lengths}")
    return samples


def by_seed(first: int, samples: Samples) -> Runs:
    """Lists of metrics, one value for each of the seeds from the first on, as metrics by seed."""
    n = len(next(iter(samples.values())))
    return {first + i: {name: values[i] for name, values in samples.items()} for i in range(n)}


_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type, Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_PARTS = ("low", "high", "min", "max")


class _Condition:
    """A condition such as `gain >= 20 and gain.low > 0`; never evaluated as Python, only walked.

    Allowed are metrics and their .low, .high, .min, .max; numbers; + - * /; < <= > >=; and, or, not.
    """

    def __init__(self, id: str, text: str, metrics: Mapping[str, str]) -> None:
        self.id, self.text, self.metrics = id, text, metrics
        try:
            self.body = ast.parse(str(text), mode="eval").body
        except SyntaxError as error:
            raise LedgerError(f"{id}: the condition {text!r} does not parse: {error.msg}") from None
        self._truth(self.body, None)

    def __call__(self, summaries: Mapping[str, Summary]) -> bool:
        return self._truth(self.body, summaries)

    def _refuse(self, node: ast.AST) -> LedgerError:
        return LedgerError(
            f"{self.id}: {ast.unparse(node)!r} in the condition {self.text!r} is not allowed; use comparisons of "
            f"{', '.join(self.metrics)} (or their .{', .'.join(_PARTS)}) and numbers, joined by and, or, not"
        )

    # Without summaries both walks only check, and visit every part: nothing is left for a later run to trip over.
    def _truth(self, node: ast.AST, summaries: Mapping[str, Summary] | None) -> bool:
        match node:
            case ast.BoolOp(op=op, values=values):
                truths = [self._truth(value, summaries) for value in values]
                return all(truths) if isinstance(op, ast.And) else any(truths)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._truth(operand, summaries)
            case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in _COMPARE for op in ops):
                sides = [self._number(side, summaries) for side in (left, *right)]
                return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, sides[:-1], sides[1:], strict=True))
        raise self._refuse(node)

    def _number(self, node: ast.AST, summaries: Mapping[str, Summary] | None) -> float:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand, summaries)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                a, b = self._number(left, summaries), self._number(right, summaries)
                if isinstance(op, ast.Div) and b == 0:
                    raise LedgerError(f"{self.id}: {ast.unparse(node)!r} divides by zero in this run")
                return _ARITHMETIC[type(op)](a, b)
            case ast.Name(id=name) if name in self.metrics:
                return math.nan if summaries is None else summaries[name].mean
            case ast.Attribute(value=ast.Name(id=name), attr=part) if name in self.metrics and part in _PARTS:
                return math.nan if summaries is None else getattr(summaries[name], part)
        raise self._refuse(node)


def number(value: float) -> str:
    """Three digits, or whole numbers with separators from 100 on."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def interval(summary: Summary) -> str:
    """The 95 % interval in brackets; empty for one seed, which bounds nothing."""
    return f"[{number(summary.low)}, {number(summary.high)}]" if summary.n > 1 else ""


def badge(verdict: Verdict) -> str:
    """The verdict as a badge: a mark and words, and a colour only on top of them."""
    name = verdict.verdict.replace(" ", "-")
    return f'<span class="tf-verdict tf-verdict-{name}">{MARKS[verdict.verdict]} {verdict}</span>'


def card(verdict: Verdict, own: Runs, profile: str) -> str:
    """The card as plain HTML, readable without our style sheet: JupyterLab and Colab do not have it."""
    claim, esc = verdict.claim, html.escape
    rows = "".join(
        f'<tr><th scope="row"><code>{esc(name)}</code> <small>{esc(meaning)}</small></th>'
        f"<td data-column='mean'>{number(summary.mean) if (summary := verdict.summaries.get(name)) else '–'}</td>"
        f"<td data-column='95 % interval'>{(interval(summary) if summary else '') or '–'}</td>"
        f"<td data-column='this run'>{', '.join(number(own[seed][name]) for seed in sorted(own)) or '–'}</td></tr>"
        for name, meaning in claim.metrics.items()
    )
    checked = "" if claim.source["checked"] else " (not yet checked against the paper)"
    return (
        f'<section class="tf-claim" id="{anchor(claim.id)}" aria-label="claim {esc(claim.id)}">'
        f'<p class="tf-claim-head">{badge(verdict)} <code>{esc(claim.id)}</code></p>'
        f'<p class="tf-claim-text">{esc(claim.claim)}</p>'
        '<div class="tf-claim-sides">'
        f"<div><p><strong>The paper</strong></p><p>{esc(claim.paper)}</p>"
        f"<p><small><cite>{esc(claim.source['cite'])}</cite>, {esc(claim.source['where'])}{checked}</small></p></div>"
        f"<div><p><strong>Ours</strong>, {extent(verdict)}</p>"
        '<div class="tf-scroll" tabindex="0" role="region" aria-label="metrics"><table class="tf-table"><thead><tr>'
        '<th scope="col">metric</th><th scope="col">mean</th><th scope="col">95 % interval</th>'
        f'<th scope="col">this run ({esc(profile)})</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></div></div>"
        f'<p class="tf-claim-foot"><small><strong>Reproduced if</strong> <code>{esc(claim.reproduced)}</code>, '
        f"<strong>partly if</strong> <code>{esc(claim.partly)}</code>. <strong>What differs:</strong> "
        f"{esc(claim.differs)}.</small></p></section>"
    )


def anchor(id: str) -> str:
    """The id of a claim's card on its page."""
    return "claim-" + id.replace(".", "-")


def extent(verdict: Verdict) -> str:
    """How many seeds of which profile a verdict rests on."""
    n, wanted = len(verdict.seeds), verdict.claim.seeds
    counted = f"{n} seed{'s' if n != 1 else ''}" + (f" of {wanted}" if verdict.provisional else "")
    return f"{counted}, profile {verdict.profile}"


def _plain(verdict: Verdict) -> str:
    lines = [f"{verdict.claim.id}: {verdict}, {extent(verdict)}"]
    lines += [
        f"  {name} = {number(summary.mean)} {interval(summary)}".rstrip() for name, summary in verdict.summaries.items()
    ]
    return "\n".join([*lines, f"  paper: {verdict.claim.paper}"])
