"""The ledger: verdicts follow the written conditions, also at their edges, and what does not fit is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tformerlib as tf
from tformerlib import claims
from tformerlib.claims import Claim, LedgerError, Summary

ROW: dict[str, Any] = {
    "id": "test.gain",
    "chapter": "test",
    "system": "transformer",
    "claim": "More is <better>.",
    "source": {"cite": "vaswani2017", "where": "Table 3", "checked": False},
    "paper": "27.3 BLEU",
    "metrics": {"gain": "ours minus theirs, in points"},
    "reproduced": "gain >= 5 and gain.low > 0",
    "partly": "gain > 0",
    "seeds": 3,
    "profile": "quick",
    "tolerance": {"gain": 1},
    "differs": "a small model",
}


def claim(**changes: Any) -> Claim:
    return Claim(**ROW | changes)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with one row and an empty folder of results, in place of the book's; a run of seed 10."""
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([ROW]))
    monkeypatch.setattr(claims, "_LEDGERS", (path,))
    monkeypatch.setattr(claims, "_RESULTS", tmp_path)
    tf.parameters(profile="quick", seed=10)
    return path


def record(folder: Path, *rows: dict[str, Any]) -> None:
    shared = {"claim": "test.gain", "profile": "quick", "provenance": {}}
    (folder / "test.json").write_text(json.dumps([shared | row for row in rows]))


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "samples", "verdict"),
    [
        ("gain >= 5", [5.0], "reproduced"),
        ("gain > 5", [5.0], "partly"),
        ("gain >= 5", [math.nextafter(5, 0)], "partly"),
        ("gain >= 5", [0.0], "not reproduced"),
        ("gain >= 5", [4.0, 6.0], "reproduced"),  # a bare name is the mean
        ("gain.min >= 5", [4.0, 6.0], "partly"),
        ("gain.max >= 6", [4.0, 6.0], "reproduced"),
        ("gain.low > 0", [5.0], "partly"),  # one seed bounds nothing
        ("not gain.low <= 0", [5.0], "partly"),
        ("gain.high < 100", [5.0], "partly"),
        ("gain.low > 0", [4.9, 5.0, 5.1], "reproduced"),
        ("4 < gain <= 5", [5.0], "reproduced"),
        ("gain > 100 or gain - 2 * 2 >= 1 / 1", [5.0], "reproduced"),
        ("gain >= -1 and not gain > 5", [5.0], "reproduced"),
    ],
)
def test_verdict_is_the_first_condition_that_holds(condition: str, samples: list[float], verdict: str) -> None:
    assert claims.judge(claim(reproduced=condition), {"gain": samples}) == verdict


def test_interval_is_students() -> None:
    summary = Summary.of([1.0, 2.0, 3.0])
    assert summary.high - summary.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t(0.975, 2), deviation 1
    assert (summary.mean, summary.min, summary.max, summary.n) == (2, 1, 3, 3)
    assert Summary.of([2.0]).low == -math.inf


leaf = st.sampled_from(["gain", "gain.low", "gain.high", "gain.min", "gain.max", "2", "0.5", "-1"])
number = st.recursive(
    leaf, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner), max_leaves=4
)
comparison = st.builds("{} {} {}".format, number, st.sampled_from(["<", "<=", ">", ">="]), number)
condition = st.recursive(
    comparison,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("(not {})".format, inner)
    ),
    max_leaves=4,
)


@given(condition, st.lists(st.floats(-10, 10), min_size=2, max_size=4))
def test_conditions_mean_what_python_means(text: str, values: list[float]) -> None:
    class Mean(float):
        """A float that also has .low, .high, .min and .max."""

    gain = Mean(Summary.of(values).mean)
    vars(gain).update(vars(Summary.of(values)))
    expected = eval(text, {"gain": gain})
    judged = claims.judge(claim(reproduced=text, partly="gain > 1e9"), {"gain": values})
    assert judged == ("reproduced" if expected else "not reproduced")


@pytest.mark.parametrize(
    "condition",
    [
        "gain >=",
        "gain",
        "5",
        "True",
        "gain > True",
        "gian > 5",
        "gain.mean > 5",
        "gain == 5",
        "abs(gain) > 5",
        "__import__('os').system('true') > 0",
        "gain.__class__ > 5",
        "gain > 5 if gain else gain < 5",
        "gain ** 9 > 5",
        "[gain][0] > 5",
        "(lambda: gain)() > 5",
        "gain > 'five'",
        "gain > 5 or gian < 3",  # not hidden by the half that holds
        "",
    ],
)
def test_a_malformed_condition_is_refused_with_its_row(condition: str) -> None:
    for changes in ({"reproduced": condition}, {"partly": condition}):
        with pytest.raises(LedgerError, match=r"^test\.gain: "):
            claim(**changes)


def test_division_by_zero_names_the_row() -> None:
    with pytest.raises(LedgerError, match=r"test\.gain: 'gain / \(gain - 5\)' divides by zero"):
        claims.judge(claim(reproduced="gain / (gain - 5) > 1"), {"gain": [5.0]})


# --- the ledger's file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "large"}, "profile 'large' is not one of quick, colab, full"),
        ({"seeds": 0}, "seeds 0 is not a positive integer"),
        ({"seeds": 1.5}, "seeds 1.5"),
        ({"source": {"cite": "vaswani2017"}}, "source lacks checked, where"),
        ({"tolerance": {"gian": 1}}, "tolerance is for"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        claim(**change)


def test_the_file_is_checked(ledger: Path) -> None:
    ledger.write_text(yaml.safe_dump([ROW, ROW]))
    with pytest.raises(LedgerError, match=r"two rows have the id 'test\.gain'"):
        claims.load_ledger(ledger)
    ledger.write_text(yaml.safe_dump([{k: v for k, v in ROW.items() if k != "paper"}]))
    with pytest.raises(LedgerError, match=r"test\.gain: expected the fields"):
        claims.load_ledger(ledger)


def test_the_books_own_ledger_loads() -> None:
    assert "attention.scale-matters" in claims.load_ledger()


# --- report -----------------------------------------------------------------------------------------------------------


def test_report_judges_and_says_so(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = claims.report("test.gain", gain=[5.0, 6.0, 7.0])
    assert (str(verdict), verdict.seeds) == ("reproduced", (10, 11, 12))
    assert capsys.readouterr().out == (
        "test.gain: reproduced, 3 seeds, profile quick\n  gain = 6 [3.52, 8.48]\n  paper: 27.3 BLEU\n"
    )


def test_too_few_seeds_are_provisional(ledger: Path) -> None:
    assert str(claims.report("test.gain", gain=[2.0, 9.0])) == "partly (provisional)"  # an interval over two is wide
    assert str(claims.report("test.gain", gain=3)) == "partly (provisional)"


def test_recorded_seeds_count_and_this_run_replaces_its_own(ledger: Path) -> None:
    record(
        ledger.parent,
        {"seed": 9, "metrics": {"gain": 1.0}},
        {"seed": 10, "metrics": {"gain": 100.0}},  # this run's seed: this run counts
        {"seed": 20, "metrics": {"gain": [3.0, 4.0]}},  # two seeds of one run: 20 and 21
        {"seed": 30, "metrics": {"gain": 50.0}, "profile": "full"},
        {"seed": 31, "metrics": {"other": 50.0}, "claim": "test.other"},
    )
    verdict = claims.report("test.gain", gain=2.0)
    assert verdict.seeds == (9, 10, 20, 21) and verdict.samples["gain"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, r"lacks the metrics \['gain'\]"),
        ({"gain": 1, "gian": 2}, r"no metrics named \['gian'\]; the ledger has \['gain'\]"),
        ({"gain": math.nan}, "gain=nan"),
        ({"gain": [1, math.inf]}, "inf"),
        ({"gain": []}, "empty"),
        ({"gain": "5"}, "neither a number"),
        ({"gain": "five"}, "neither a number"),
        ({"gain": [[1, 2]]}, "neither a number"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(ledger: Path, metrics: Any, message: str) -> None:
    with pytest.raises(LedgerError, match=rf"test\.gain.*{message}"):
        claims.report("test.gain", **metrics)


def test_metrics_over_different_numbers_of_seeds_are_refused(ledger: Path) -> None:
    two = {"metrics": {"gain": "a", "cost": "b"}, "tolerance": {"gain": 1, "cost": 1}}
    ledger.write_text(yaml.safe_dump([ROW | two]))
    with pytest.raises(LedgerError, match="different numbers of seeds: {'gain': 2, 'cost': 1}"):
        claims.report("test.gain", gain=[1, 2], cost=1)


def test_a_broken_record_names_its_file(ledger: Path) -> None:
    record(ledger.parent, {"seed": 1, "metrics": {"gain": None}})
    with pytest.raises(LedgerError, match=r"test\.gain in test\.json"):
        claims.report("test.gain", gain=1)


def test_an_unknown_claim_lists_close_ones(ledger: Path) -> None:
    with pytest.raises(KeyError, match=r"no claim 'test\.gian' in the ledger; close to it: test\.gain"):
        claims.report("test.gian", gain=1)


def test_a_claim_of_a_larger_profile(ledger: Path) -> None:
    ledger.write_text(yaml.safe_dump([ROW | {"profile": "full", "seeds": 2}]))
    assert str(claims.report("test.gain")) == "out of reach here"
    assert str(claims.report("test.gain", gain=9)) == "out of reach here"  # a small run does not judge it
    record(ledger.parent, *({"seed": s, "metrics": {"gain": 5 + s / 10}, "profile": "full"} for s in range(2)))
    verdict = claims.report("test.gain", gain=-9)
    assert (str(verdict), verdict.profile, verdict.seeds) == ("reproduced", "full", (0, 1))


def test_every_profile_has_its_own_verdict(ledger: Path) -> None:
    assert claims.every_profile("test.gain") == []
    gains = {"quick": (1.0, -9.0), "colab": (6.0, 7.0, 8.0)}
    record(ledger.parent, *(
        {"seed": seed, "metrics": {"gain": values[seed]}, "profile": profile}
        for profile, values in gains.items() for seed in range(len(values))
    ))  # fmt: skip
    claims.report("test.gain", gain=100.0)  # this run's own seed says nothing of recorded ones
    found = claims.every_profile("test.gain")
    assert [(str(v), v.profile, v.seeds) for v in found] == [
        ("not reproduced (provisional)", "quick", (0, 1)),
        ("reproduced", "colab", (0, 1, 2)),
    ]
    assert claims.side_by_side(found)[1] == {
        "claim": "test.gain", "profile": "colab", "seeds": "3", "mean and interval": "gain 7 [4.52, 9.48]",
        "verdict": "reproduced",
    }  # fmt: skip
    ledger.write_text(yaml.safe_dump([ROW | {"profile": "colab"}]))
    assert [v.profile for v in claims.every_profile("test.gain")] == ["colab"]  # quick does not judge it
    with pytest.raises(KeyError, match="close to it"):
        claims.every_profile("test.gian")


def test_the_card_shows_both_sides_and_escapes(ledger: Path) -> None:
    verdict = claims.report("test.gain", gain=[5.0, 6.0, 7.0])
    card = claims.card(verdict, {10: {"gain": 5.0}}, "quick")
    for part in ("✓ reproduced", "More is &lt;better&gt;.", "27.3 BLEU", "[3.52, 8.48]", "3 seeds, profile quick"):
        assert part in card
    assert "not yet checked against the paper" in card and "a small model" in card
    checked = replace(verdict, claim=claim(source=ROW["source"] | {"checked": True}))
    assert "not yet checked" not in claims.card(checked, {}, "quick")


def test_numbers_read_well() -> None:
    assert [claims.number(x) for x in (0.12345, -3.0, 12345.6, 999.9)] == ["0.123", "-3", "12,346", "1,000"]
