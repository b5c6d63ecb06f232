"""Telling the person who waits, and only a person; and the clock of a training run."""

import os
import sys
import time

from ..run.records import in_kernel


def watched() -> bool:
    """Whether somebody sees a progress bar: a terminal, or a notebook with a reader in front of it.

    Papermill runs a notebook with nobody there to answer `input()`; that is how a kernel can tell. What it writes
    must be equal from run to run, and a progress bar never is.
    """
    if "CI" in os.environ:
        return False
    if in_kernel():
        return bool(getattr(sys.modules["IPython"].get_ipython().kernel, "_allow_stdin", False))
    return sys.stderr.isatty()


class Clock:
    """Adds up the wall and CPU seconds (of all threads) spent inside `with clock:`."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self.seconds, self.cpu_seconds = seconds, cpu_seconds

    def __enter__(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began
        self.cpu_seconds += time.process_time() - self._cpu_began
