"""The ledger's rows, and the runs that judge them.

data/claims/<chapter>.yml holds the rows, data/results/<chapter>.jsonl a line for each run. Both are read from a clone,
or from the copies packed with an installed tformerlib.
"""

import difflib
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ..extras import needs
from ..run.profiles import PROFILES
from .rule import FIRST_SEED, LAST_SEED, LOOKS, WORDS, Condition, Conditions, Judgment, LedgerError, Summary, judge

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (PACKAGE.parent / "data", PACKAGE / "_ledger")
Runs = dict[int, dict[str, float]]  # seed to metrics


@dataclass(frozen=True)
class Claim:
    """A row of the ledger, checked when it is read."""

    id: str
    kind: str  # identity, mechanism or replication
    chapter: str
    system: str
    claim: str  # the paper's, in our words
    source: Mapping[str, Any]  # cite: a key of references.bib; where; quote: the paper's words; checked: seen there?
    paper: str  # its number, as text
    metrics: Mapping[str, str]  # name to meaning, with unit
    gate: str | None  # for the test to mean anything
    reproduced: str
    partly: str | None
    tuned: str | None  # settings tried for each arm, and how they were chosen
    profile: str  # the smallest that can judge it
    differs: str  # what we do differently from the paper

    def __post_init__(self) -> None:
        if self.kind not in WORDS:
            raise LedgerError(f"{self.id}: kind {self.kind!r} is not one of {', '.join(WORDS)}")
        if self.profile not in PROFILES:
            raise LedgerError(f"{self.id}: profile {self.profile!r} is not one of {', '.join(PROFILES)}")
        if set(self.source) != {"cite", "where", "quote", "checked"}:
            raise LedgerError(f"{self.id}: source has {sorted(self.source)}, not cite, where, quote and checked")
        if not (isinstance(self.source["checked"], bool) or self.source["checked"] == "second-hand"):
            raise LedgerError(f"{self.id}: checked is {self.source['checked']!r}, not true, false or second-hand")
        if (quote := self.source["quote"]) is not None and not 0 < len(str(quote).split()) <= 25:
            raise LedgerError(f"{self.id}: the quote has {len(str(quote).split())} words; 25 at most")
        if self.kind == "replication" and not (self.gate and self.tuned):
            raise LedgerError(f"{self.id}: a replication needs a gate, and says how its arms were tuned")
        if self.kind != "identity" and not self.partly:
            raise LedgerError(f"{self.id}: {self.kind} needs a condition for `partly`")
        _ = self.conditions  # refuses what does not parse

    @cached_property
    def conditions(self) -> Conditions:
        first, second, gate = (
            Condition(self.id, text, self.metrics) if text else None
            for text in (self.reproduced, self.partly, self.gate)
        )
        if first is None:
            raise LedgerError(f"{self.id}: the condition is empty")
        return Conditions(first, second, gate, exact=self.kind == "identity")

    @property
    def seen(self) -> bool:
        """Whether its sentence was seen in the paper itself."""
        return self.source["checked"] is True


@dataclass(frozen=True)
class Verdict:
    """A claim as the records judge it, in one profile."""

    claim: Claim
    profile: str
    judgment: Judgment | None
    runs: Runs  # of the seeds that count: 10, 11, ... up to the look that decided, or all there are
    superseded: int = 0  # earlier runs of the same seeds, and runs for a row since rewritten
    keys: frozenset[str] = frozenset()  # content keys of the runs

    @property
    def state(self) -> str:
        """positive, partly, negative, undecided, void or pending."""
        return self.judgment.state if self.judgment else "pending"

    @property
    def word(self) -> str:
        """The verdict as its kind of claim says it."""
        if self.state == "pending":
            return "out of reach" if self.claim.profile == "full" and not self.runs else "not run yet"
        if self.state == "positive" and not self.claim.seen:
            return "sentence not checked"
        return WORDS[self.claim.kind].get(self.state, self.state)

    @property
    def look(self) -> int:
        return self.judgment.look if self.judgment else 0

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        runs = list(self.runs.values())
        return {name: Summary.of([run[name] for run in runs]) for name in self.claim.metrics} if runs else {}

    def _ipython_display_(self) -> None:
        """Nothing: as the last value of a cell a verdict would show below its own card."""

    def __str__(self) -> str:
        return self.word


def load_ledger(folder: Path | None = None) -> dict[str, Claim]:
    """The rows of all chapters by id.

    Raises:
        LedgerError: a row with other fields, or two rows of one id.
    """
    with needs("show"):
        import yaml

    folder = folder or _folder("claims")
    ledger: dict[str, Claim] = {}
    names = {field.name for field in fields(Claim)} - {"chapter"}
    for path in sorted(folder.glob("*.yml")):
        for i, row in enumerate(yaml.safe_load(path.read_text("utf-8")) or []):
            label = row.get("id", f"row {i + 1}") if isinstance(row, dict) else f"row {i + 1}"
            if not isinstance(row, dict) or set(row) != names:
                found = sorted(row) if isinstance(row, dict) else row
                raise LedgerError(f"{path.name}, {label}: expected the fields {sorted(names)}, found {found}")
            if label in ledger:
                raise LedgerError(f"{path.name}: two rows have the id {label!r}")
            ledger[label] = Claim(**row, chapter=path.stem)
    return ledger


@functools.cache
def _own_ledger() -> dict[str, Claim]:
    return load_ledger()


def row(id: str, ledger: Mapping[str, Claim] | None = None) -> Claim:
    """A claim of the ledger; refuses an unknown one with those that are close to it."""
    ledger = _own_ledger() if ledger is None else ledger
    if id not in ledger:
        close = difflib.get_close_matches(id, ledger, n=3, cutoff=0.4) or sorted(ledger)
        raise KeyError(f"no claim {id!r} in the ledger; close to it: {', '.join(close)}")
    return ledger[id]


def _folder(name: str) -> Path:
    found = next((place / name for place in PLACES if (place / name).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no ledger at {' or '.join(str(place / name) for place in PLACES)}")
    return found


def lines(chapter: str, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """The recorded runs of a chapter, oldest first; none without a file.

    Raises:
        LedgerError: a line that is no record; the message has its number.
    """
    path = (folder or _folder("results")) / f"{chapter}.jsonl"
    if not path.exists():
        return
    for i, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            raise LedgerError(f"{path.name}, line {i}: not JSON; was a run cut while it wrote?") from None
        if missing := {"run", "profile", "seed", "ended", "claims"} - set(found):
            raise LedgerError(f"{path.name}, line {i}: lacks {', '.join(sorted(missing))}")
        if not FIRST_SEED <= found["seed"] <= LAST_SEED:
            raise LedgerError(
                f"{path.name}, line {i}: seed {found['seed']} does not judge; {FIRST_SEED} to {LAST_SEED} do"
            )
        yield found


def verdict_in(claim: Claim, profile: str, folder: Path | None = None) -> Verdict:
    """What the records of one profile say.

    The last run of a seed counts. One that measured other things, for a row since rewritten, judges nothing.
    """
    last: dict[int, dict[str, Any]] = {}
    superseded = 0
    for line in lines(claim.chapter, folder):
        if line["profile"] == profile and line["ended"] == "finished" and claim.id in line["claims"]:
            superseded += line["seed"] in last
            last[line["seed"]] = line
    fitting = {seed: line for seed, line in last.items() if set(line["claims"][claim.id]) == set(claim.metrics)}
    superseded += len(last) - len(fitting)
    runs = {seed: checked(claim, line["claims"][claim.id], f" in {line['run']}") for seed, line in fitting.items()}
    keys = {seed: line.get("key", "") for seed, line in fitting.items()}
    in_order = [seed for seed in range(FIRST_SEED, LAST_SEED + 1) if set(range(FIRST_SEED, seed + 1)) <= set(runs)]
    if claim.kind == "identity":
        in_order = sorted(runs)
    judgment = judge(claim.conditions, [runs[seed] for seed in in_order])
    counted = in_order[: judgment.look] if judgment else in_order
    return Verdict(
        claim, profile, judgment, {seed: runs[seed] for seed in counted}, superseded,
        frozenset(keys[seed] for seed in counted),
    )  # fmt: skip


def verdicts(id: str | Claim, folder: Path | None = None) -> list[Verdict]:
    """A claim in every profile that can judge it: the largest judged one first, then the others that have runs."""
    claim = id if isinstance(id, Claim) else row(id)
    found = [verdict_in(claim, profile, folder) for profile in PROFILES[PROFILES.index(claim.profile) :]]
    judged = [verdict for verdict in found if verdict.judgment]
    first = judged[-1] if judged else found[0]
    return [first, *(other for other in found if other is not first and other.runs)]


def verdict(id: str | Claim, folder: Path | None = None) -> Verdict:
    """The verdict of a claim, from the records alone.

    >>> verdict("pvt.reduction-saves").claim.kind
    'identity'
    """
    return verdicts(id, folder)[0]


def next_look(n: int) -> int | None:
    """The look that n seeds are on their way to; None after the last."""
    return next((look for look in LOOKS if look > n), None)


def checked(claim: Claim, metrics: Mapping[str, Any], where: str = "") -> dict[str, float]:
    """Metrics as floats, in the row's order; refuses what the row does not name and what is not a finite number."""
    for problem, names in (
        ("lacks the metrics", set(claim.metrics) - set(metrics)),
        ("has no metrics named", set(metrics) - set(claim.metrics)),
    ):
        if names:
            raise LedgerError(f"{claim.id}{where} {problem} {sorted(names)}; the ledger has {list(claim.metrics)}")
    found = {}
    for name in claim.metrics:
        value = metrics[name]
        try:
            number = float(value) if not isinstance(value, str | bool | Sequence) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise LedgerError(f"{claim.id}{where}: {name}={value!r} is not a finite number")
        found[name] = number
    return found
