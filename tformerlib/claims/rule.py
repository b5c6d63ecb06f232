"""The rule by which a claim is judged: three-valued conditions over paired margins, at three fixed looks.

A condition is a formula of inequalities over a chapter's metrics. For each inequality the margin, left minus right, is
taken within a seed, where both arms share their randomness; Student's interval of the margins' mean says whether the
inequality is true, false, or open. There are three looks, after 5, 10 and 20 seeds, each at 98.3 % (0.05 / 3), so that
looking thrice errs no more often than looking once at 95 %. The first look that decides is the last.
"""

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..extras import needs

LOOKS = (5, 10, 20)
LEVEL = 1 - 0.05 / len(LOOKS)
FIRST_SEED, LAST_SEED = 10, 29  # seed 0 is the page's, seeds from 100 on are pilots'
STATES = ("positive", "partly", "negative", "undecided", "void", "pending")
WORDS = {
    "identity": {"positive": "holds", "partly": "partly holds", "negative": "does not hold"},
    "mechanism": {"positive": "shown", "partly": "partly shown", "negative": "not shown"},
    "replication": {"positive": "reproduced", "partly": "partly reproduced", "negative": "not reproduced"},
}
Metrics = Mapping[str, float]
Truth = bool | None  # None: open


class LedgerError(ValueError):
    """A row, a condition or a record that cannot be used; the message names it."""


@functools.cache
def quantile(degrees: int, level: float = LEVEL) -> float:
    """Student's t: the two-sided quantile of a level."""
    with needs("show"):
        from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, degrees))


@dataclass(frozen=True)
class Summary:
    """Numbers over seeds: their mean, and its interval at the level of a look. One seed bounds nothing."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        n = len(values)
        mean = math.fsum(values) / n
        if n < 2:
            return cls(mean, -math.inf, math.inf, n)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
        half = quantile(n - 1) * deviation / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Margin:
    """One inequality over seeds: left minus right, turned so that positive is the right side."""

    text: str
    over: Summary
    strict: bool  # > and not >=

    @property
    def truth(self) -> Truth:
        if self.over.low > 0 or (self.over.low == 0 and not self.strict):
            return True
        if self.over.high < 0 or (self.over.high == 0 and self.strict):
            return False
        return None


def all_of(truths: Sequence[Truth]) -> Truth:
    """Kleene's and: false if one is false, else open if one is open."""
    return False if False in truths else None if None in truths else True


def any_of(truths: Sequence[Truth]) -> Truth:
    """Kleene's or."""
    return True if True in truths else None if None in truths else False


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


_COMPARE: dict[type, tuple[int, bool]] = {  # the sign by which a positive margin is on the right side; strict or not
    ast.Gt: (1, True), ast.GtE: (1, False), ast.Lt: (-1, True), ast.LtE: (-1, False),
}  # fmt: skip
_ARITHMETIC: dict[type, Callable[[Any, Any], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


class Condition:
    """A formula such as `gain >= 2 and loss <= 1`; never evaluated as Python, only walked.

    Allowed are metrics and numbers; + - * /; < <= > >=; and, or, not.

    Raises:
        LedgerError: anything else; the message names the row and the part.
    """

    def __init__(self, id: str, text: str, metrics: Mapping[str, Any]) -> None:
        self.id, self.text, self.metrics = id, text, metrics
        try:
            self.body = ast.parse(str(text), mode="eval").body
        except SyntaxError as error:
            raise LedgerError(f"{id}: the condition {text!r} does not parse: {error.msg}") from None
        self._truth(self.body, [dict.fromkeys(metrics, 1.0)] * 2, checking=True)

    def truth(self, runs: Sequence[Metrics]) -> Truth:
        """Over the runs of a look: true, false or open."""
        return self._truth(self.body, runs)

    def holds(self, run: Metrics) -> bool:
        """In one run, without any interval: what an identity asks for."""
        return self._truth(self.body, [run, run]) is True

    def margins(self, runs: Sequence[Metrics]) -> list[Margin]:
        """Every inequality of the formula, in its order."""
        found: list[Margin] = []
        self._truth(self.body, runs, found)
        return found

    def _truth(
        self, node: ast.AST, runs: Sequence[Metrics], found: list[Margin] | None = None, checking: bool = False
    ) -> Truth:
        match node:
            case ast.BoolOp(op=op, values=values):
                truths = [self._truth(value, runs, found, checking) for value in values]
                return all_of(truths) if isinstance(op, ast.And) else any_of(truths)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return negated(self._truth(operand, runs, found, checking))
            case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in _COMPARE for op in ops):
                margins = []
                for sign, a, b in zip(ops, (left, *right[:-1]), right, strict=True):
                    turn, strict = _COMPARE[type(sign)]
                    over = [turn * (self._number(a, run, checking) - self._number(b, run, checking)) for run in runs]
                    margins.append(Margin(ast.unparse(ast.Compare(a, [sign], [b])), Summary.of(over), strict))
                if found is not None:
                    found += margins
                return all_of([margin.truth for margin in margins])
        raise self._refusal(node)

    def _number(self, node: ast.AST, run: Metrics, checking: bool) -> float:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand, run, checking)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                a, b = self._number(left, run, checking), self._number(right, run, checking)
                if isinstance(op, ast.Div) and b == 0:
                    if checking:
                        return 0.0
                    raise LedgerError(f"{self.id}: {ast.unparse(node)!r} divides by zero in a run")
                return _ARITHMETIC[type(op)](a, b)
            case ast.Name(id=name) if name in self.metrics:
                return run[name]
        raise self._refusal(node)

    def _refusal(self, node: ast.AST) -> LedgerError:
        return LedgerError(
            f"{self.id}: {ast.unparse(node)!r} in the condition {self.text!r} is not allowed; use comparisons of "
            f"{', '.join(self.metrics)} and numbers, joined by and, or, not"
        )


@dataclass(frozen=True)
class Judgment:
    """What a look says: a state, at how many seeds, and for an open one what is settled and what could be seen."""

    state: str
    look: int
    settled: str = ""  # "at least partly" or "at most partly"
    smallest_effect: Margin | None = None  # of the open inequality with the widest interval: its half-width


def judge(conditions: "Conditions", runs: Sequence[Metrics]) -> Judgment | None:
    """The verdict over the runs of seeds 10, 11, ... in their order; None before the first look.

    An identity is decided by any run: it must hold in all of them.
    """
    if conditions.exact:
        if not runs:
            return None
        first, second = (all(map(c.holds, runs)) if c else False for c in (conditions.first, conditions.second))
        return Judgment("positive" if first else "partly" if second else "negative", len(runs))
    found = None
    for look in LOOKS:
        if len(runs) < look:
            break
        found = _at_look(conditions, runs[:look])
        if found.state != "undecided":
            break
    return found


def _at_look(conditions: "Conditions", runs: Sequence[Metrics]) -> Judgment:
    n = len(runs)
    gate = conditions.gate.truth(runs) if conditions.gate else True
    if gate is False:
        return Judgment("void", n)
    first = conditions.first.truth(runs)
    second = conditions.second.truth(runs) if conditions.second else False
    if gate and first:
        return Judgment("positive", n)
    if gate and first is False and second:
        return Judgment("partly", n)
    if gate and second is False and first is False:
        return Judgment("negative", n)
    settled = "at least partly" if second else "at most partly" if first is False else ""
    asked = [c for c in (conditions.gate, conditions.first, conditions.second) if c]
    still_open = [margin for c in asked for margin in c.margins(runs) if margin.truth is None]
    widest = max(still_open, key=lambda margin: margin.over.high - margin.over.low, default=None)
    return Judgment("undecided", n, settled if gate else "", widest)


@dataclass(frozen=True)
class Conditions:
    """A row's formulas: the gate, what makes the first verdict, what makes "partly"."""

    first: Condition
    second: Condition | None = None
    gate: Condition | None = None
    exact: bool = False  # an identity
