"""The ledger: conditions mean what they say, looks are fixed, verdicts come from records alone, misfits are refused."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tformerlib as tf
from tformerlib import claims
from tformerlib.claims import card as cards
from tformerlib.claims import ledger as ledgers
from tformerlib.claims.ledger import Claim, checked, verdict_in
from tformerlib.claims.rule import LEVEL, LOOKS, Condition, Conditions, LedgerError, Summary, judge

ROW: dict[str, Any] = {
    "id": "test.gain",
    "kind": "mechanism",
    "system": "transformer",
    "claim": "More is <better>.",
    "source": {"cite": "vaswani2017", "where": "Table 3", "quote": "more is better", "checked": True},
    "paper": "27.3 BLEU",
    "metrics": {"gain": "ours minus theirs, in points"},
    "gate": None,
    "reproduced": "gain >= 5",
    "partly": "gain > 0",
    "tuned": None,
    "profile": "quick",
    "differs": "a small model",
}


def claim(**changes: Any) -> Claim:
    return Claim(**ROW | {"chapter": "test"} | changes)


def state(gains: list[float], **changes: Any) -> str | None:
    found = judge(claim(**changes).conditions, [{"gain": gain} for gain in gains])
    return found.state if found else None


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ledger with one row and an empty folder of results, in place of the book's; a run of seed 0."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "claims" / "test.yml").write_text(yaml.safe_dump([ROW]))
    monkeypatch.setattr(ledgers, "PLACES", (tmp_path,))
    ledgers._own_ledger.cache_clear()
    tf.parameters(profile="quick", seed=0)
    yield tmp_path
    ledgers._own_ledger.cache_clear()


def rewrite(folder: Path, **changes: Any) -> None:
    (folder / "claims" / "test.yml").write_text(yaml.safe_dump([ROW | changes]))
    ledgers._own_ledger.cache_clear()


def record(folder: Path, *runs: dict[str, Any]) -> None:
    shared = {"chapter": "test", "profile": "quick", "ended": "finished", "key": "k"}
    lines = [shared | {"run": f"r{i}"} | run for i, run in enumerate(runs)]
    (folder / "results" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def gains(values: dict[int, float], **changes: Any) -> list[dict[str, Any]]:
    return [{"seed": seed, "claims": {"test.gain": {"gain": gain}}} | changes for seed, gain in values.items()]


# --- conditions -----------------------------------------------------------------------------------------------------


def test_interval_is_students_at_the_level_of_three_looks() -> None:
    summary = Summary.of([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(0.99167, 4 degrees) = 3.9608 (by tables), the deviation is sqrt(2.5)
    assert summary.high - summary.mean == pytest.approx(3.9607866 * math.sqrt(2.5 / 5), rel=1e-6)
    assert pytest.approx(1 - 0.05 / 3) == LEVEL and LOOKS == (5, 10, 20)
    assert Summary.of([2.0]).low == -math.inf


YES, NO, OPEN_ = True, False, None
CLEAR, BAD, OPEN = [6.0, 6.1, 6.2, 6.1, 6.0], [1.0, 1.1, 1.2, 1.1, 1.0], [3.0, 7.0, 5.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("condition", "values", "truth"),
    [
        ("gain >= 5", CLEAR, YES), ("gain >= 5", BAD, NO), ("gain >= 5", OPEN, OPEN_),
        ("gain < 5", CLEAR, NO), ("gain < 5", BAD, YES), ("not gain >= 5", CLEAR, NO), ("not gain >= 5", OPEN, OPEN_),
        ("gain > 5 and gain < 100", CLEAR, YES),
        ("gain > 5 and gain < 0", OPEN, NO),
        ("gain > 5 and gain > 0", OPEN, OPEN_),
        ("gain > 5 or gain > 0", OPEN, YES),
        ("gain > 5 or gain > 100", OPEN, OPEN_),
        ("gain > 5 or gain > 100", BAD, NO),
        ("4 < gain <= 8", CLEAR, YES), ("0 < gain < 3", CLEAR, NO), ("2 * gain - 1 >= 10 / 1", CLEAR, YES),
        ("gain >= 6", [6.0] * 5, YES), ("gain > 6", [6.0] * 5, NO),  # no spread: the number itself decides
    ],
)  # fmt: skip
def test_inequalities_are_true_false_or_open(condition: str, values: list[float], truth: bool | None) -> None:
    found = Condition("test", condition, {"gain": ""}).truth([{"gain": value} for value in values])
    assert found is truth


def test_margins_are_taken_within_a_seed() -> None:
    """Two arms that vary together: each alone would be open, their difference is not."""
    runs = [{"ours": base + 1.0 + 0.01 * i, "theirs": base} for i, base in enumerate([10.0, 50.0, 30.0, 70.0, 20.0])]
    metrics = {"ours": "", "theirs": ""}
    assert Condition("test", "ours > theirs", metrics).truth(runs) is True
    assert Condition("test", "ours > 36", metrics).truth(runs) is None


leaf = st.sampled_from(["gain", "2", "0.5", "-1"])
number = st.recursive(
    leaf, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner), max_leaves=4
)
comparison = st.builds("{} {} {}".format, number, st.sampled_from(["<", "<=", ">", ">="]), number)
formula = st.recursive(
    comparison,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("(not {})".format, inner)
    ),
    max_leaves=4,
)


@given(formula, st.floats(-10, 10))
def test_in_one_run_a_condition_means_what_python_means(text: str, value: float) -> None:
    assert Condition("test", text, {"gain": ""}).holds({"gain": value}) == eval(text, {"gain": value})


@pytest.mark.parametrize(
    "condition",
    [
        "gain >=", "gain", "5", "True", "gain > True", "gian > 5", "gain.low > 5", "gain == 5", "abs(gain) > 5",
        "__import__('os').system('true') > 0", "gain.__class__ > 5", "gain > 5 if gain else gain < 5", "gain ** 9 > 5",
        "[gain][0] > 5", "(lambda: gain)() > 5", "gain > 'five'", "gain > 5 or gian < 3",
    ],
)  # fmt: skip
def test_a_malformed_condition_is_refused_with_its_row(condition: str) -> None:
    for changes in ({"reproduced": condition}, {"partly": condition}, {"gate": condition}):
        with pytest.raises(LedgerError, match=r"^test\.gain: "):
            claim(**changes)


def test_division_by_zero_names_the_row() -> None:
    with pytest.raises(LedgerError, match=r"test\.gain: 'gain / \(gain - 5\)' divides by zero"):
        state([5.0] * 5, reproduced="gain / (gain - 5) > 1")


# --- looks and verdicts ---------------------------------------------------------------------------------------------


def test_the_first_look_that_decides_is_final() -> None:
    assert state([6.0] * 4) is None  # before the first look nothing is said
    assert state(CLEAR) == "positive"
    assert state([*CLEAR, *[-50.0] * 15]) == "positive"  # later seeds don't change it
    assert state([*OPEN, *[-50.0] * 4]) == "undecided"  # nine seeds: the look of five still stands
    assert state([*OPEN, *[-50.0] * 5]) != "positive"
    assert state(BAD) == "partly" and state([-value for value in CLEAR]) == "negative"


def test_an_undecided_claim_says_what_is_settled_and_what_could_be_seen() -> None:
    found = judge(claim().conditions, [{"gain": gain} for gain in OPEN])
    assert found and (found.state, found.settled, found.look) == ("undecided", "at least partly", 5)
    margin = found.smallest_effect
    assert margin and margin.text == "gain >= 5"
    assert (margin.over.high - margin.over.low) / 2 == pytest.approx(3.9607866 * math.sqrt(2.5 / 5), rel=1e-6)
    worse = judge(claim().conditions, [{"gain": gain - 6} for gain in OPEN])
    assert worse and (worse.state, worse.settled) == ("undecided", "at most partly")


def test_a_gate_that_fails_makes_void_and_an_open_one_undecided() -> None:
    metrics = {"gain": "points", "baseline": "percent"}
    conditions = claim(metrics=metrics, gate="baseline >= 50").conditions
    clear = [{"gain": gain, "baseline": 60.0 + i} for i, gain in enumerate(CLEAR)]
    assert judge(conditions, clear).state == "positive"  # type: ignore[union-attr]
    assert judge(conditions, [run | {"baseline": 30.0 + i} for i, run in enumerate(clear)]).state == "void"  # type: ignore[union-attr]
    open_ = [run | {"baseline": 48.0 + i} for i, run in enumerate(clear)]
    assert judge(conditions, open_).state == "undecided"  # type: ignore[union-attr]


def test_a_claim_of_non_inferiority_can_be_shown_and_refuted() -> None:
    loss = {"reproduced": "gain <= 1", "partly": "gain <= 3"}
    assert state([0.1, 0.2, -0.1, 0.3, 0.0], **loss) == "positive"
    assert state([4.1, 4.2, 3.9, 4.3, 4.0], **loss) == "negative"
    assert state([0.9, 1.2, 0.8, 1.1, 1.0], **loss) == "undecided"


def test_an_identity_is_decided_by_one_run_and_has_to_hold_in_all() -> None:
    exact = {"kind": "identity", "reproduced": "gain <= 1e-12", "partly": None}
    assert state([1e-13], **exact) == "positive"
    assert state([1e-13, 1e-9], **exact) == "negative"
    assert state([], **exact) is None


def many(draws: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Judges rows of twenty draws; an array of states, by the same code, a row at a time."""
    found = (judge(conditions, [{"gain": x} for x in row]) for row in draws.tolist())
    return np.array([judgment.state for judgment in found if judgment])


def test_ten_thousand_null_claims_give_few_false_verdicts() -> None:
    """The true margin lies on the boundary: the first verdict is false in at most 2.5 % over all three looks."""
    draws = np.random.default_rng(0).standard_normal((10_000, LOOKS[-1]))
    false = (many(draws, claim(reproduced="gain > 0", partly="gain > -0.5").conditions) == "positive").mean()
    assert 0.005 < false <= 0.025


def test_an_effect_of_two_deviations_is_found_by_ten_seeds() -> None:
    draws = 2 + np.random.default_rng(1).standard_normal((2_000, 10))
    assert (many(draws, claim(reproduced="gain > 0").conditions) == "positive").mean() > 0.95


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "proof"}, "kind 'proof' is not one of identity, mechanism, replication"),
        ({"profile": "large"}, "profile 'large' is not one of quick, colab, full"),
        ({"source": {"cite": "vaswani2017"}}, "source has"),
        ({"source": ROW["source"] | {"checked": "perhaps"}}, "checked is 'perhaps'"),
        ({"source": ROW["source"] | {"quote": "word " * 26}}, "the quote has 26 words"),
        ({"kind": "replication"}, "a replication needs a gate"),
        ({"kind": "replication", "gate": "gain > -9"}, "says how its arms were tuned"),
        ({"partly": None}, "mechanism needs a condition for `partly`"),
        ({"reproduced": ""}, "the condition is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        claim(**change)


def test_the_files_are_checked(ledger: Path) -> None:
    (ledger / "claims" / "other.yml").write_text(yaml.safe_dump([ROW]))
    with pytest.raises(LedgerError, match=r"two rows have the id 'test\.gain'"):
        claims.load_ledger(ledger / "claims")
    (ledger / "claims" / "other.yml").write_text(yaml.safe_dump([{k: v for k, v in ROW.items() if k != "paper"}]))
    with pytest.raises(LedgerError, match=r"other\.yml, test\.gain: expected the fields"):
        claims.load_ledger(ledger / "claims")


def test_the_books_own_ledger_loads_and_quotes_most_papers() -> None:
    rows = claims.load_ledger()
    assert "attention.scale-matters" in rows and rows["swin.shifted-windows"].chapter == "swin"
    assert sum(row.source["checked"] is not False for row in rows.values()) >= 0.9 * len(rows)


# --- records --------------------------------------------------------------------------------------------------------


def test_verdicts_come_from_seeds_in_order_and_from_finished_runs(ledger: Path) -> None:
    rows = gains(dict(zip(range(10, 15), CLEAR, strict=True)))
    record(ledger, *rows[:4], {"seed": 14, "claims": {}, "ended": "killed"})
    verdict = claims.verdict("test.gain")
    assert (verdict.state, verdict.word, len(verdict.runs)) == ("pending", "not run yet", 4)
    record(ledger, *rows)
    verdict = claims.verdict("test.gain")
    assert (verdict.word, tuple(verdict.runs)) == ("shown", (10, 11, 12, 13, 14))
    record(ledger, *rows[1:], *gains(dict.fromkeys(range(15, 20), 6.0)))  # seed 10 is missing: nothing counts
    assert claims.verdict("test.gain").state == "pending"


def test_a_later_run_supersedes_and_the_earlier_is_counted(ledger: Path) -> None:
    rows = gains(dict(zip(range(10, 15), BAD, strict=True)))
    record(ledger, *rows, *gains(dict(zip(range(10, 15), CLEAR, strict=True)), key="new"))
    verdict = claims.verdict("test.gain")
    assert (verdict.word, verdict.superseded, set(verdict.keys)) == ("shown", 5, {"new"})
    assert "5 earlier runs of these seeds" in " ".join(cards.remarks(verdict))


def test_runs_for_a_row_since_rewritten_judge_nothing_and_are_counted(ledger: Path) -> None:
    rows = gains(dict(zip(range(10, 15), CLEAR, strict=True)))
    record(ledger, *({**row, "claims": {"test.gain": {"other": 1.0}}} for row in rows[:2]), *rows)
    assert (str(claims.verdict("test.gain")), claims.verdict("test.gain").superseded) == ("shown", 2)
    record(ledger, *rows, {**rows[0], "claims": {"test.gain": {"other": 1.0}}})
    assert (str(claims.verdict("test.gain")), claims.verdict("test.gain").superseded) == ("not run yet", 2)


def test_seeds_that_do_not_judge_and_broken_lines_are_refused(ledger: Path) -> None:
    record(ledger, *gains({0: 1.0}))
    with pytest.raises(LedgerError, match=r"test\.jsonl, line 1: seed 0 does not judge; 10 to 29 do"):
        claims.verdict("test.gain")
    (ledger / "results" / "test.jsonl").write_text('{"run": "r", "see')
    with pytest.raises(LedgerError, match="line 1: not JSON"):
        claims.verdict("test.gain")
    record(ledger, *gains({10: math.nan}))
    with pytest.raises(LedgerError, match="gain=nan is not a finite number"):
        claims.verdict("test.gain")


def test_the_largest_judged_profile_counts_and_the_others_stand_below(ledger: Path) -> None:
    quick, colab = (gains(dict(zip(range(10, 15), values, strict=True)), profile=profile)
                    for values, profile in ((BAD, "quick"), (CLEAR, "colab")))  # fmt: skip
    record(ledger, *quick, *colab[:3])
    assert [(v.profile, v.word) for v in claims.verdicts("test.gain")] == [
        ("quick", "partly shown"), ("colab", "not run yet"),
    ]  # fmt: skip
    record(ledger, *quick, *colab)
    assert [(v.profile, v.word) for v in claims.verdicts("test.gain")] == [
        ("colab", "shown"), ("quick", "partly shown"),
    ]  # fmt: skip


def test_words_fit_the_kind_and_an_unseen_sentence_gets_no_positive_badge(ledger: Path) -> None:
    record(ledger, *gains(dict(zip(range(10, 15), CLEAR, strict=True))))
    for kind, word in (("mechanism", "shown"), ("identity", "holds"), ("replication", "reproduced")):
        rewrite(ledger, kind=kind, gate="gain > -100", tuned="one rate")
        assert str(claims.verdict("test.gain")) == word
    rewrite(ledger, source=ROW["source"] | {"checked": "second-hand"})
    verdict = claims.verdict("test.gain")
    assert (verdict.word, verdict.state) == ("sentence not checked", "positive")
    assert "tf-verdict-unseen" in cards.badge(verdict)
    rewrite(ledger, profile="full")
    assert str(claims.verdict("test.gain")) == "out of reach"


# --- report ---------------------------------------------------------------------------------------------------------


def test_this_run_is_shown_and_never_judged(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(claims.report("test.gain", gain=1e6)) == "not run yet"
    record(ledger, *gains(dict(zip(range(10, 15), BAD, strict=True))))
    verdict = claims.report("test.gain", gain=1e6)
    assert str(verdict) == "partly shown" and verdict.runs[10] == {"gain": 1.0}
    assert "test.gain: partly shown (5 seeds, profile quick)\n  gain = 1.08" in capsys.readouterr().out
    card = cards.card(verdict, {"gain": 1e6}, "quick")
    assert "This run&#x27;s gain lies outside what was recorded." in card and "1,000,000" in card


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, r"lacks the metrics \['gain'\]"),
        ({"gain": 1, "gian": 2}, r"no metrics named \['gian'\]; the ledger has \['gain'\]"),
        ({"gain": math.nan}, "gain=nan"),
        ({"gain": math.inf}, "gain=inf"),
        ({"gain": [1.0, 2.0]}, "not a finite number"),
        ({"gain": "5"}, "not a finite number"), ({"gain": True}, "not a finite number"), ({"gain": None}, "gain=None"),
    ],
)  # fmt: skip
def test_metrics_that_do_not_fit_are_refused(ledger: Path, metrics: Any, message: str) -> None:
    with pytest.raises(LedgerError, match=rf"test\.gain.*{message}"):
        claims.report("test.gain", **metrics)


def test_an_unknown_claim_lists_close_ones(ledger: Path) -> None:
    with pytest.raises(KeyError, match=r"no claim 'test\.gian' in the ledger; close to it: test\.gain"):
        claims.report("test.gian", gain=1)


def test_a_claim_of_a_larger_profile_needs_no_metrics(ledger: Path) -> None:
    rewrite(ledger, profile="colab")
    assert not claims.reaches("test.gain")
    assert str(claims.report("test.gain")) == "not run yet"
    assert checked(claim(), {"gain": 1}) == {"gain": 1.0}


def test_the_card_shows_both_sides_quietly_and_escapes(ledger: Path) -> None:
    record(ledger, *gains(dict(zip(range(10, 15), OPEN, strict=True))))
    card = cards.card(claims.verdict("test.gain"), {"gain": 5.0}, "quick", note="Recorded with earlier code.")
    for part in (
        "? undecided", "More is &lt;better&gt;.", "27.3 BLEU", "[2.2, 7.8]", "5 seeds, profile quick",
        "“more is better”",
        "Settled: at least partly.", "Open: gain &gt;= 5; 5 seeds would have shown a margin of 2.8.",
        "The next look is after 10 seeds.", "Recorded with earlier code.", "<details>",
    ):  # fmt: skip
        assert part in card, part


def test_a_chapter_ends_with_a_table(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(ledger, *gains(dict(zip(range(10, 15), CLEAR, strict=True))))
    claims.summary([claims.verdict("test.gain")])
    assert "More is <better>. | mechanism | shown | gain 6.08" in capsys.readouterr().out


def test_numbers_read_well() -> None:
    assert [cards.number(x) for x in (0.12345, -3.0, 12345.6, 999.9)] == ["0.123", "-3", "12,346", "1,000"]


def test_in_another_profile_nothing_is_mixed(ledger: Path) -> None:
    record(ledger, *gains(dict(zip(range(10, 15), CLEAR, strict=True)), profile="colab"))
    assert verdict_in(claim(), "quick").state == "pending"
