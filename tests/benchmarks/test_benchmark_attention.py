"""The attention benchmark: what it times is right, what it writes can be read again, who is wrong is not timed."""

import json
import math
import time

import pytest
import torch

from benchmarks import attention as bench
from benchmarks import timing
from benchmarks.attention_cases import STAGES, Case, WindowCase, on_cpu, on_gpu, quick, small
from benchmarks.attention_providers import OURS, providers
from tformerlib.attention import attention, dispatch

CPU = torch.device("cpu")
FEW = ["compiled eager", "FlexAttention", "compiled SDPA, windows as heads"]  # compiling takes seconds
TINY = Case("padding", True, 2, 2, 9, 9, 8)


def test_statistics_are_of_ratios_inside_a_round():
    assert timing.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert timing.ratios([2.0, 40.0], [1.0, 10.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}  # not 42 / 11
    with pytest.raises(ValueError, match="nothing was measured"):
        timing.summary([])


def test_providers_take_turns():
    order: list[str] = []

    def clock(run):
        run()
        return float(len(order))

    times = timing.interleaved({name: lambda name=name: order.append(name) for name in "abc"}, clock, rounds=2)
    assert "".join(order) == "abccba" and times == {"a": [1.0, 6.0], "b": [2.0, 5.0], "c": [3.0, 4.0]}


def test_the_clock_measures():
    assert 1.5 < timing.clock(CPU, 5)(lambda: time.sleep(2e-3)) < 50


def test_a_file_name_is_plain():
    assert timing.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_grid_is_what_the_protocol_says():
    grid = list(on_gpu())
    names = [case.name for case in grid]
    assert len(set(names)) == len(names)
    windows = [case for case in grid if isinstance(case, WindowCase) and case.training]
    assert {(case.stage, case.batch) for case in windows} == {(i, b) for i in (1, 2, 3, 4) for b in (8, 128)}
    assert [windows[i].heads * windows[i].width for i in range(4)] == [96, 192, 384, 768]  # Swin-T's widths
    calls = [case for case in grid if isinstance(case, Case)]
    assert {case.n for case in calls} >= {49, 64, 144, 197, 256, 512, 577, 1024, 2048, 4096, 8192, 16384, 100}
    assert {case.width for case in calls} == {32, 64, 80, 96, 128}
    assert {case.m for case in calls if case.n == 100} == {850, 1100}
    for device in ("cuda", "cpu"):
        assert 5 <= len(list(quick(torch.device(device)))) <= 12
    assert {case.kind for case in on_cpu()} == {case.kind for case in small()}


def test_work_is_counted_as_the_papers_count_it():
    dense, causal = (Case(kind, False, 2, 3, 64, 64, 16) for kind in ("dense", "causal"))
    assert dense.flops == 4 * 2 * 3 * 64 * 64 * 16 and causal.flops == dense.flops * (64 * 65 / 2) / 64**2
    assert Case("dense", True, 2, 3, 64, 64, 16).flops == 3.5 * dense.flops
    assert dense.bytes == 4 * 2 * (2 * 3 * 64 * 16)  # q, k, v and the output, two bytes each
    half = Case("padding", False, 64, 1, 100, 100, 16)
    assert abs(half.seen - 0.5) < 0.01 and min(half.lengths()) == 1 and max(half.lengths()) == 100
    assert WindowCase(1, False, 128, *STAGES[0]).bytes == 4 * 2 * 128 * 56 * 56 * 96  # 77 MB a tensor, four of them


@pytest.mark.parametrize("case", [*small()], ids=lambda case: case.name)
def test_every_provider_is_held_against_the_formula(case):
    found = {name: outcome for name, _, outcome in bench.candidates(case, case.inputs(CPU, torch.float32), FEW)}
    assert set(found) == set(providers(case)) - set(FEW)
    assert "error" in found["eager"] and "wrong" not in str(found)
    if not dispatch.unavailable(CPU):
        assert found[OURS]["error"] < 1e-5, found  # interpreted
    efficient = next(name for name in found if "efficient" in name)
    assert "No viable backend" in found[efficient]["refused"]  # a pinned backend refuses, nobody steps in for it


def test_who_is_wrong_is_not_timed(monkeypatch):
    def half(inputs):
        return lambda: attention(*(inputs.leaves[name] for name in "qkv")) / 2

    monkeypatch.setattr(bench, "providers", lambda case: {"half": half, "eager": providers(case)["eager"]})
    case = Case("dense", True, 1, 1, 8, 8, 4)
    entry = bench.time_case(case, CPU, torch.float32, rounds=2, budget=0)
    assert "errs" in entry["providers"]["half"]["wrong"] and "ms" not in entry["providers"]["half"]
    assert entry["best_peer"] == "eager" and "ratio" not in entry


def test_nan_is_an_infinite_error():
    assert bench.distance(torch.tensor([1.0, math.nan]), torch.zeros(2)) == math.inf


def test_a_reason_is_the_first_cause_without_paths():
    try:
        try:
            raise ValueError("no kernel in /some/where for it")
        except ValueError as cause:
            raise RuntimeError("compilation failed") from cause
    except RuntimeError as error:
        assert bench.reason(error, ["Flash needs sm80."]) == "ValueError: Flash needs sm80. no kernel in for it"


def run(output, monkeypatch, **options):
    monkeypatch.setattr(timing, "ceilings", lambda device, dtype: {"tflops": 1.0, "gbs": 1.0})
    options = {"rounds": 5, "minutes": 5.0, "without": [*FEW, OURS], "restart": False, "budget": 0.0} | options
    return bench.measure(CPU, [TINY, WindowCase(4, True, 1, *STAGES[3])], output, **options)


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    output = tmp_path / "result.json"
    run(output, monkeypatch, minutes=0.0)
    assert json.loads(output.read_text())["cases"] == {} and "the same command goes on" in capsys.readouterr().out
    record = run(output, monkeypatch)
    assert json.loads(output.read_text()) == record and set(record["cases"]) == {TINY.name, "window train stage 4 B1"}
    eager = record["cases"][TINY.name]["providers"]["eager"]
    assert 0 < eager["ms"]["min"] <= eager["ms"]["median"] <= eager["ms"]["max"] and eager["tflops"] > 0
    first = output.read_text()
    run(output, monkeypatch)
    assert output.read_text() == first  # nothing waits: nothing is measured again
    del record["cases"][TINY.name]
    output.write_text(json.dumps(record))
    again = run(output, monkeypatch)
    assert again["cases"][TINY.name]["session"] == 2  # the third sitting measured it; its ceilings stand beside it
    assert not list(tmp_path.glob("*.part"))


def test_a_case_that_kills_the_process_is_not_tried_again(tmp_path, monkeypatch):
    output = tmp_path / "result.json"

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench, "time_case", die)
        run(output, monkeypatch)
    assert json.loads(output.read_text())["cases"][TINY.name]["died"]
    assert run(output, monkeypatch)["cases"][TINY.name]["died"]


def test_times_of_other_software_are_not_mixed(tmp_path, monkeypatch):
    output = tmp_path / "result.json"
    record = run(output, monkeypatch)
    record["provenance"]["torch"] = "1.0"
    output.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="torch '1.0'"):
        run(output, monkeypatch)
    assert run(output, monkeypatch, restart=True)["provenance"]["torch"] == torch.__version__


def timed(ms: float) -> dict:
    return {"ms": {"median": ms, "min": ms, "max": ms}}


def test_the_dispatch_table_is_read_by_the_library(tmp_path, monkeypatch):
    def entry(kind, n, ours, **others):
        case = Case(kind, False, 1, 1, n, n, 64)
        return {
            **case.describe(),
            "providers": {OURS: timed(ours), **{k.replace("_", " "): timed(v) for k, v in others.items()}},
        }

    cases = {
        "a": entry("dense", 512, 1.0, SDPA_flash=2.0, SDPA_math=9.0, eager=0.1),  # the best of PyTorch's: flash
        "b": entry("causal", 512, 2.0, SDPA_flash=1.0),
        "c": entry("padding", 512, 1.0, SDPA_efficient=5.0),
        "d": entry("dense", 1024, 1.0),  # no peer has a time
        "e": {**WindowCase(1, True, 8, *STAGES[0]).describe(), "providers": {OURS: timed(1.0)}},
        "f": {**entry("dense", 4096, 1.0), "providers": {OURS: {"wrong": "errs"}, "SDPA flash": timed(1.0)}},
    }
    table = bench.dispatch_table({"provenance": {"arch": 90}, "cases": cases})
    assert table == {"90": {"64": {"forward": {"dense": {"512": 2.0}, "causal": {"512": 0.5}}}}}
    assert bench.dispatch_table({"provenance": {"arch": None}, "cases": cases}) == {}  # a CPU says nothing of a GPU
    result, library = tmp_path / "result.json", tmp_path / "dispatch.json"
    result.write_text(json.dumps({"dispatch": table}))
    library.write_text(json.dumps({"80": {}, "90": {"32": {}}}))
    assert "sm_80, sm_90 there" in bench.install(result, library)
    assert json.loads(library.read_text()) == {"80": {}} | table
    monkeypatch.setattr(dispatch, "MEASURED", table)
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    q = torch.empty(1, 2, 600, 64, dtype=torch.bfloat16)
    assert [dispatch.measured(q, q, q, causal) for causal in (False, True)] == [2.0, 0.5]
    result.write_text(json.dumps({"dispatch": {}}))
    with pytest.raises(SystemExit, match="no dispatch table"):
        bench.install(result, library)


def test_too_few_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "3"])
    assert "--rounds 3" in capsys.readouterr().err


def test_the_results_say_whether_a_gpu_was_measured():
    """The sentence in the folder's README goes when the first GPU's file comes."""
    recorded = [json.loads(path.read_text()) for path in bench.RESULTS.glob("*.json")]
    measured = any(record.get("provenance", {}).get("arch") for record in recorded)
    said = "No GPU has been measured yet" in (bench.RESULTS / "README.md").read_text()
    assert said is not measured
