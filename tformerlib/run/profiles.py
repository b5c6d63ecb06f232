"""A chapter's parameters: which profile it runs in, and its seed."""

import ast
import os
import platform
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from .records import emit

PROFILES = ("quick", "colab", "full")
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What a chapter runs on. `quick`: one thread of a CPU. `colab`: one T4. `full`: one large GPU."""

    profile: str
    seed: int
    device: torch.device
    threads: int
    checkpoints: list[str] = field(default_factory=list, repr=False, compare=False)  # names given so far

    def pick(self, *, quick: T, colab: T, full: T) -> T:
        """The value for this run's profile: the same code runs in every profile, only sizes and steps differ."""
        return {"quick": quick, "colab": colab, "full": full}[self.profile]

    def seeds(self, n: int) -> list[int]:
        """Seeds for repetitions inside a run: its own first, the others shared with no other run of seeds below 1000.

        >>> Run("quick", 12, torch.device("cpu"), 1).seeds(3)
        [12, 1012, 2012]
        """
        if n < 1:
            raise ValueError(f"n={n}: a run has at least its own seed")
        return [self.seed + 1000 * i for i in range(n)]

    def reaches(self, claim: str) -> bool:
        """Whether this profile is large enough to judge a claim of the ledger."""
        from ..claims import row

        return PROFILES.index(self.profile) >= PROFILES.index(row(claim).profile)

    def checkpoint(self, name: str) -> Path | None:
        """Where a long training of this run keeps its state, for `fit(checkpoint=...)`.

        A file in the folder TFORMER_CHECKPOINTS, which the book's runner sets for the larger profiles, so that a run
        that was killed goes on where it stopped; None where it is not set. A name that comes again gets a number: the
        same in the next run, which calls in the same order.
        """
        folder = os.environ.get("TFORMER_CHECKPOINTS")
        if not folder:
            return None
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.checkpoints.append(stem)
        return Path(folder) / f"{stem}-{self.checkpoints.count(stem)}.pt"

    def __str__(self) -> str:
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"profile {self.profile}, seed {self.seed}, on {self.device} with {threads}"


_current: Run | None = None  # a notebook is one run, as it has one set of random generators


def current_run() -> Run:
    """The run that parameters() began; a claim needs to know its profile and seed."""
    if _current is None:
        raise RuntimeError("no run has begun: call tf.parameters(profile=..., seed=...) first")
    return _current


def parameters(*, profile: str, seed: int) -> Run:
    """Checks a chapter's parameters, seeds every generator, and chooses the device and the number of threads.

    `quick` has one thread. The larger profiles have two at most, and one if OMP_NUM_THREADS says so.

    Papermill sets parameters without checking them: it turns `1.5` into a float and a misspelled name into a
    variable that nobody reads. So they are checked here, inside the notebook.

    Raises:
        ValueError: an unknown profile, a seed outside 0 .. 2^32 - 1, or a name that the chapter does not have.
        TypeError: a seed that is not an integer.
    """
    _refuse_unread({"profile", "seed"})
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is not one of {', '.join(PROFILES)}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed={seed!r} is a {type(seed).__name__}, not an integer")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is not in 0 .. 2^32 - 1")
    # Results are bitwise equal only for an equal number of threads, and small models gain little from a second one.
    threads = 1 if profile == "quick" else min(2, os.cpu_count() or 1, _allowed())
    torch.set_num_threads(threads)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)
    device = torch.device("cuda" if profile != "quick" and torch.cuda.is_available() else "cpu")
    global _current
    _current = run = Run(profile, seed, device, threads)
    emit("run", {"profile": profile, "seed": seed, **environment(device, threads)}, text=str(run))
    return run


def _allowed() -> int:
    """How many threads the environment's OMP_NUM_THREADS leaves us; any number where it is not set."""
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(outermost)) if outermost.isdecimal() else sys.maxsize


def checkpoint(name: str) -> Path | None:
    """`Run.checkpoint` of the run that parameters() began; None where none has begun, as in a script."""
    return _current.checkpoint(name) if _current else None


def environment(device: torch.device, threads: int) -> dict[str, str | int]:
    """What a result may depend on beyond code and seed: versions, device, thread count, instruction set."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "threads": threads,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.system(),
    }


def _refuse_unread(known: set[str]) -> None:
    """Papermill puts what it was given into a cell of its own; a name there that the chapter never reads is a typo."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for source in getattr(shell, "user_ns", {}).get("In", []):
        if not source.startswith("# Parameters\n"):
            continue
        for statement in ast.parse(source).body:
            for name in (t.id for t in getattr(statement, "targets", []) if isinstance(t, ast.Name)):
                if name not in known:
                    raise ValueError(f"unknown parameter {name!r}; this chapter has {', '.join(sorted(known))}")
