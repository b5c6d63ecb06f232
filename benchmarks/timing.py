"""How things are timed: ceilings of the machine first, then every provider in turn, round after round.

A provider is a function without arguments. One round times each of them once, so that a machine that slows down does so
for all; what is compared is the median over rounds of the ratio inside a round.
"""

import hashlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "tformerlib" / "attention"
MEASURES = ("timing.py", "attention.py", "attention_cases.py", "attention_providers.py")
FLUSHED = 256 * 2**20  # bytes written between two runs, more than any L2 cache holds
Run = Callable[[], object]


def summary(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    if not values:
        raise ValueError("nothing was measured")
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Their time over ours, round by round: above 1, ours is faster."""
    return summary([a / b for a, b in zip(theirs, ours, strict=True)])


def interleaved(runs: Mapping[str, Run], clock: Callable[[Run], float], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each run in each round: A B C, C B A, and so on, so that no one is always last."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs) if i % 2 == 0 else reversed(list(runs)):
            times[name].append(clock(runs[name]))
    return times


def clock(device: torch.device, budget: float) -> Callable[[Run], float]:
    """Median milliseconds of one call, within about `budget` milliseconds of calls (one at least)."""
    return (lambda run: cuda_clock(run, budget)) if device.type == "cuda" else (lambda run: cpu_clock(run, budget))


def cpu_clock(run: Run, budget: float) -> float:
    times: list[float] = []
    while not times or sum(times) < budget:
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def cuda_clock(run: Run, budget: float) -> float:
    """By events on the GPU, each call after a write that empties the L2 cache."""
    cache = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda.synchronize()
    times: list[float] = []
    while not times or (sum(times) < budget and len(times) < 200):
        cache.zero_()
        events[0].record()
        run()
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]))
    return statistics.median(times)


def graphed(run: Run) -> Run:
    """A replay of what `run` launches: the same kernels without Python and without launching them one by one."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def peak_memory(run: Run, device: torch.device) -> int | None:
    """Bytes that one call allocates at most beyond what is there; None on a CPU, where torch does not count."""
    if device.type != "cuda":
        return None
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What this machine reaches at best: a large matrix product in TFLOP/s, a large copy in GB/s (read and written)."""
    side, size = (8192, 2**30) if device.type == "cuda" else (1024, 2**27)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    measure = clock(device, 100)
    for warm in (lambda: a @ b, lambda: target.copy_(source)):
        measure(warm)
    product, copy = (min(measure(run) for _ in range(5)) for run in (lambda: a @ b, lambda: target.copy_(source)))
    return {"tflops": 2 * side**3 / product / 1e9, "gbs": 2 * size / copy / 1e6}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def slug(name: str) -> str:
    """The file name of a device: "NVIDIA H100 80GB HBM3" to "nvidia-h100-80gb-hbm3"."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def provenance(device: torch.device) -> dict[str, Any]:
    """What a time depends on. Results of different software are not mixed in one file."""
    try:
        import triton

        compiler = triton.__version__
    except ImportError:
        compiler = None
    arch = None
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        arch = 10 * major + minor
    measured = [*sorted(KERNELS.rglob("*.py")), *(Path(__file__).with_name(name) for name in MEASURES)]
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in measured)).hexdigest()[:16]
    return {
        "device": device_name(device), "arch": arch, "torch": torch.__version__, "triton": compiler,
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "threads": torch.get_num_threads() if device.type == "cpu" else None, "code": code,
    }  # fmt: skip


def now() -> dict[str, str | None]:
    """When, and from which commit; a + behind it says that files differ."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit}


def session(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """One process that measures: when, from which commit, and its own ceilings."""
    return {**now(), "ceilings": ceilings(device, dtype)}
