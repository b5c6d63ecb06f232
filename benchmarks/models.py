"""Our models beside others of the same size and weights, on a CPU: training steps, decoding, encoding.

    python -m benchmarks.models [transformer gpt bert vit swin hybrids detr] [--rounds 9] [--threads 2] [--only "step"]

Both sides of a pair compute the same, which is checked before anything is timed. They run in turn, in one process, and
what counts is the median of the ratios of neighboring runs: a machine that is busy or slow for a while is so for both.
A ratio below 1 means that ours is faster. Results go to benchmarks/results/models-<device>.json, system by system.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import timing

SYSTEMS = ("transformer", "gpt", "bert", "vit", "swin", "hybrids", "detr")
RESULTS = Path(__file__).with_name("results")
Run = Callable[[], object]
Pair = tuple[str, str, Run, Run]  # what is done, by whom else, ours, theirs


def step(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Run:
    """One training step: forward, loss, backward, Adam."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()

    return run


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds of each, and ours / theirs: the median ratio of processor times and of wall times, and of the minima."""
    for run in (ours, theirs):
        run()
        run()  # the second time, caches and allocators are warm
    times: list[list[tuple[float, float]]] = []
    for _ in range(rounds):
        pair = []
        for run in (ours, theirs):
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            pair.append((time.process_time() - cpu, time.perf_counter() - wall))
        times.append(pair)
    return {
        "ratio": statistics.median(a[0] / b[0] for a, b in times),
        "wall_ratio": statistics.median(a[1] / b[1] for a, b in times),
        "min_ratio": min(a[0] for a, _ in times) / min(b[0] for _, b in times),
        "ours_cpu_s": min(a[0] for a, _ in times),
        "theirs_cpu_s": min(b[0] for _, b in times),
    }


def measure(system: str, *, rounds: int, only: str) -> list[dict[str, Any]]:
    """Times what benchmarks/<system>.py pairs, one pair at a time, to keep memory small."""
    results = []
    for what, peer, ours, theirs in importlib.import_module(f"benchmarks.{system}").pairs():
        if only in what:
            figures = {name: round(value, 4) for name, value in compare(ours, theirs, rounds).items()}
            results.append({"what": what, "peer": peer, **figures})
            print("{what}: ratio {ratio:.2f} (wall {wall_ratio:.2f}, minima {min_ratio:.2f}), {ours_cpu_s:.3f} s "
                  "against {theirs_cpu_s:.3f} s of {peer}".format_map(results[-1]), flush=True)  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help=f"default: {' '.join(SYSTEMS)}")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each side (default 9, at least 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument("--only", default="", help="what contains this")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/models-<device>.json")
    given = parser.parse_args()
    if unknown := set(given.systems) - set(SYSTEMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    if given.rounds < 5:
        parser.error(f"--rounds {given.rounds}: a median of fewer than 5 says little")
    torch.set_num_threads(given.threads)
    cpu = torch.device("cpu")
    output = given.output or RESULTS / f"models-{timing.slug(timing.device_name(cpu))}.json"
    record: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    for system in given.systems or SYSTEMS:
        results = measure(system, rounds=given.rounds, only=given.only)
        about = {"torch": torch.__version__, "device": timing.device_name(cpu), "threads": given.threads,
                 "rounds": given.rounds, **timing.now()}  # fmt: skip
        record[system] = {"provenance": about, "results": results}
        if not given.only:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
