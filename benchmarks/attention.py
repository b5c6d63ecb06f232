"""Attention, ours beside everything else that a user of PyTorch could take, on this machine.

    python -m benchmarks.attention --quick        # under five minutes
    python -m benchmarks.attention                # the whole grid; goes on where it stopped, --minutes bounds a run
    python -m benchmarks.attention --check        # small shapes: who is right, who refuses; nothing is timed
    python -m benchmarks.attention --install benchmarks/results/<gpu>.json   # its table becomes the library's

Ceilings come first (a large matrix product, a large copy). Then, case by case: every provider's output and gradients
are held against the formula in float64, those that are right are timed in turn in one process, and the file is written.
A provider that refuses, fails or errs stands in the file with its reason. Without a GPU, PyTorch's paths are timed on
the CPU.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tformerlib.attention import dispatch

from . import attention_cases as cases
from . import timing
from .attention_cases import AnyCase, Inputs
from .attention_providers import BACKENDS, OURS, Forward, providers

RESULTS = Path(__file__).with_name("results")
TABLE = Path(dispatch.__file__).with_name("dispatch.json")
SHORT = 0.05  # milliseconds below which launching is worth a second look, by a replayed graph
ERRS = 3.0  # times as much as the formula in the same precision: more is wrong


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a cut through the grid, under five minutes")
    parser.add_argument("--check", action="store_true", help="no timing: small shapes against the formula")
    parser.add_argument("--install", type=Path, metavar="FILE", help="write a result's dispatch table into the library")
    parser.add_argument("--minutes", type=float, help="begin no case after this time")
    parser.add_argument("--rounds", type=int, default=5, help="times each provider has its turn (default 5)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="providers to leave out")
    parser.add_argument("--restart", action="store_true", help="forget what the file holds")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<device>.json")
    given = parser.parse_args(arguments)
    if given.install:
        print(install(given.install, TABLE))
        return
    if given.rounds < 5 and not given.check:
        parser.error(f"--rounds {given.rounds}: a median of fewer than 5 says little")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.check:
        failed = check(device, cases.small(), given.without)
        raise SystemExit(bool(failed))
    chosen = cases.quick(device) if given.quick else cases.on_gpu() if device.type == "cuda" else cases.on_cpu()
    output = given.output or RESULTS / f"{timing.slug(timing.device_name(device))}{'-quick' * given.quick}.json"
    minutes = given.minutes or (4.0 if given.quick else math.inf)
    measure(device, [c for c in chosen if given.only in c.name], output, rounds=given.rounds, minutes=minutes,
            without=given.without, restart=given.restart, budget=20 if given.quick else 50)  # fmt: skip


def precision(device: torch.device) -> torch.dtype:
    """What is timed: bfloat16, float16 where a GPU has no bfloat16, float32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def measure(
    device: torch.device, chosen: Iterable[AnyCase], output: Path, *, rounds: int, minutes: float, without: list[str],
    restart: bool, budget: float,
) -> dict[str, Any]:  # fmt: skip
    """Times the cases that `output` does not hold yet, and writes it after each.

    Raises:
        SystemExit: the file holds times of other software or of another device.
    """
    start, dtype = time.monotonic(), precision(device)
    record = resume(output, {**timing.provenance(device), "dtype": str(dtype).removeprefix("torch.")}, restart)
    waiting = [case for case in chosen if case.name not in record["cases"]]
    print(f"{record['provenance']['device']}: {len(waiting)} cases wait, {len(record['cases'])} are there", flush=True)
    if waiting:
        record["sessions"].append(timing.session(device, dtype))
        print(
            "ceilings: {tflops:.1f} TFLOP/s, {gbs:.0f} GB/s".format_map(record["sessions"][-1]["ceilings"]), flush=True
        )
    for case in waiting:
        if time.monotonic() - start > 60 * minutes:
            print(f"{minutes} minutes are over; the same command goes on with {case.name}")
            break
        entry = {**case.describe(), "session": len(record["sessions"]) - 1, "providers": {}}
        record["cases"][case.name] = entry | {"died": True}  # what stays if the process does not survive the case
        write(output, record)
        record["cases"][case.name] = entry | time_case(case, device, dtype, rounds, budget, without)
        write(output, record | {"dispatch": dispatch_table(record)})
        print(line(case, record["cases"][case.name]), flush=True)
    record["dispatch"] = dispatch_table(record)
    write(output, record)
    return record


def resume(output: Path, provenance: dict[str, Any], restart: bool) -> dict[str, Any]:
    """The record so far, or an empty one."""
    empty = {"provenance": provenance, "sessions": [], "cases": {}, "dispatch": {}}
    if restart or not output.exists():
        return empty
    record: dict[str, Any] = json.loads(output.read_text())
    for name, value in provenance.items():
        if record["provenance"].get(name) != value:
            there = record["provenance"].get(name)
            raise SystemExit(
                f"{output} was measured with {name} {there!r}, not {value!r}: --restart or another --output"
            )
    return record


def write(output: Path, record: dict[str, Any]) -> None:
    """All or nothing: a run that is stopped while it writes leaves the file as it was."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(output)


def time_case(
    case: AnyCase, device: torch.device, dtype: torch.dtype, rounds: int, budget: float, without: Iterable[str] = ()
) -> dict[str, Any]:
    """What becomes of every provider, and who is best."""
    inputs = case.inputs(device, dtype)
    found: dict[str, Any] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, run, outcome in candidates(case, inputs, without):
        found[name] = outcome
        if run is not None:
            runs[name] = run
    for name in list(runs):
        try:
            found[name]["peak_bytes"] = timing.peak_memory(runs[name], device)
        except RuntimeError as error:  # the memory that was enough for the check may not be for two runs
            found[name] = {"refused": reason(error)}
            del runs[name]
    times = timing.interleaved(runs, timing.clock(device, budget), rounds)
    for name, each in times.items():
        found[name] |= {"ms": timing.summary(each), "tflops": case.flops / timing.summary(each)["median"] / 1e9}
        if device.type == "cuda" and min(each) < SHORT:
            try:
                replays = [timing.cuda_clock(timing.graphed(runs[name]), budget) for _ in range(rounds)]
                found[name]["graph_ms"] = timing.summary(replays)
            except RuntimeError as error:
                found[name]["graph_refused"] = reason(error)
    result = {"providers": found, "flops": case.flops, "bytes": case.bytes}
    peers = {name: timing.summary(each)["median"] for name, each in times.items() if name != OURS}
    if peers:
        best = result["best_peer"] = min(peers, key=peers.__getitem__)
        if OURS in times:
            result["ratio"] = timing.ratios(times[best], times[OURS])
    return result


def candidates(
    case: AnyCase, inputs: Inputs, without: Iterable[str] = ()
) -> Iterable[tuple[str, Callable[[], list[Tensor]] | None, dict[str, Any]]]:
    """Every provider by name, with a run if it is right, and what is known of it: its error, or why it has no run."""
    exact = results(case, case.formula, case.sample(inputs, torch.float64))
    dtype = inputs.direction.dtype
    usual = results(case, case.formula, case.sample(inputs, dtype))
    allowed = [
        ERRS * distance(a, b) + 2 * torch.finfo(dtype).eps * b.abs().max().item() + 1e-6
        for a, b in zip(usual, exact, strict=True)
    ]
    for name, prepare in providers(case).items():
        if name in without:
            continue
        with warnings.catch_warnings(record=True) as caught:  # SDPA's backends say there why they do not take a call
            warnings.simplefilter("always")
            try:
                run = bound(case, prepare, inputs)
                errors = [distance(a, b) for a, b in zip(case.sampled(run()), exact, strict=True)]
            except Exception as error:  # whatever a library or its compiler raises is its answer
                said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
                yield name, None, {"refused": reason(error, said)}
                continue
        worst = max(e / a for e, a in zip(errors, allowed, strict=True))
        if worst <= 1:
            yield name, run, {"error": max(errors)}
        else:
            yield name, None, {"wrong": f"errs {worst:.1f} times as much as is allowed", "error": max(errors)}


def bound(case: AnyCase, prepare: Callable[[Inputs], Forward], inputs: Inputs) -> Callable[[], list[Tensor]]:
    """One call: the output, and in training the gradients of all leaves."""
    forward, leaves = prepare(inputs), list(inputs.leaves.values())

    def infer() -> list[Tensor]:
        with torch.no_grad():
            return [forward()]

    def train() -> list[Tensor]:
        out = forward()
        return [out, *torch.autograd.grad(out, leaves, inputs.direction)]

    return train if case.training else infer


def results(case: AnyCase, function: Callable[[Inputs], Tensor], inputs: Inputs) -> list[Tensor]:
    return [x.detach() for x in bound(case, lambda given: lambda: function(given), inputs)()]


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite if anything is not a number."""
    error = (a.double() - b.double()).abs().max().item()
    return math.inf if math.isnan(error) else error


def reason(error: BaseException, said: Sequence[str] = ()) -> str:
    """The first words of the exception that others were raised from, without the paths of this machine."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = [word for text in [*said, str(error)] for word in text.split() if "/" not in word]
    return f"{type(error).__name__}: {' '.join(words)}"[:300]


def line(case: AnyCase, entry: dict[str, Any]) -> str:
    """A case's outcome for the terminal."""
    timed = {name: each["ms"]["median"] for name, each in entry["providers"].items() if "ms" in each}
    told = ", ".join(f"{name} {ms:.3g}" for name, ms in sorted(timed.items(), key=lambda item: item[1]))
    ratio = (
        "; best peer / ours {median:.2f} ({min:.2f}-{max:.2f})".format_map(entry["ratio"]) if "ratio" in entry else ""
    )
    return f"{case.name}: {told or 'nobody'} ms{ratio}"


def check(device: torch.device, chosen: Iterable[AnyCase], without: Iterable[str] = ()) -> list[str]:
    """Prints what becomes of every provider at every case; returns those that are wrong."""
    dtype = torch.float32 if device.type == "cpu" else precision(device)
    wrong = []
    for case in chosen:
        for name, _, outcome in candidates(case, case.inputs(device, dtype), without):
            print(f"{case.name}: {name}: " + ", ".join(f"{key} {value}" for key, value in outcome.items()), flush=True)
            wrong += [f"{case.name}: {name}"] if "wrong" in outcome else []
    return wrong


def dispatch_table(record: dict[str, Any]) -> dict[str, Any]:
    """The library's table from a record: {"90": {"64": {"forward": {"dense": {"1024": 0.93}}}}}, ours over the best of
    PyTorch's own attention. A case in which either has no time says nothing."""
    table: dict[str, Any] = {}
    for entry in record["cases"].values():
        timed = {name: each["ms"]["median"] for name, each in entry["providers"].items() if "ms" in each}
        best = min((ms for name, ms in timed.items() if name in BACKENDS), default=None)
        if entry["what"] != "attention" or entry["kind"] not in ("dense", "causal") or entry["n"] != entry["m"]:
            continue
        if best is None or OURS not in timed or record["provenance"]["arch"] is None:
            continue
        row = table.setdefault(str(record["provenance"]["arch"]), {}).setdefault(str(entry["width"]), {})
        kind = row.setdefault("training" if entry["training"] else "forward", {})
        kind.setdefault(entry["kind"], {})[str(entry["n"])] = round(best / timed[OURS], 3)
    return table


def install(result: Path, table: Path) -> str:
    """Puts a result's rows into the library's table, in place of those of the same architecture."""
    rows = json.loads(result.read_text())["dispatch"]
    if not rows:
        raise SystemExit(f"{result} has no dispatch table: ours was not timed beside PyTorch's there")
    merged = json.loads(table.read_text()) | rows
    table.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")
    return f"{table.name}: rows of sm_{', sm_'.join(sorted(rows))} written, sm_{', sm_'.join(sorted(merged))} there"


if __name__ == "__main__":
    main()
