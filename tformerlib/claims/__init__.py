"""The ledger: what papers claim, how it is tested here, and what the recorded runs say.

A chapter brings its run's metrics by `report`; the verdict beside them comes from records alone, so that no reader's
machine changes it.
"""

from collections.abc import Sequence

from ..run.profiles import PROFILES, current_run
from ..run.records import emit
from . import card as cards
from .ledger import Claim, Verdict, checked, load_ledger, row, verdict, verdict_in, verdicts
from .rule import LOOKS, Condition, LedgerError, Summary, judge

__all__ = [
    "LOOKS", "Claim", "Condition", "LedgerError", "Summary", "Verdict", "judge", "load_ledger", "reaches", "report",
    "row", "summary", "verdict", "verdict_in", "verdicts",
]  # fmt: skip


def reaches(id: str) -> bool:
    """Whether this run's profile is large enough to judge a claim."""
    return PROFILES.index(current_run().profile) >= PROFILES.index(row(id).profile)


def report(id: str, **metrics: float) -> Verdict:
    """Leaves this run's metrics of a claim for the collector, and shows what the records say of it.

    Where the run's profile is smaller than the claim's, metrics may be left out.

    Raises:
        KeyError: the ledger has no such claim; the message lists close matches.
        LedgerError: missing, unknown or not finite metrics.
    """
    claim, run = row(id), current_run()
    own = checked(claim, metrics) if metrics or reaches(id) else {}
    found = verdict(claim)
    record = {"claim": id, "profile": run.profile, "seed": run.seed, "metrics": own}
    emit("claim", record, html=cards.card(found, own, run.profile), text=cards.plain(found))
    return found


def summary(verdicts: Sequence[Verdict]) -> None:
    """A chapter's verdicts as a table, to end it with."""
    from ..show.prose import table

    table(cards.table(verdicts), caption="The chapter's claims, as the recorded runs judge them.")
