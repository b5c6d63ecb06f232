"""Machine-readable records that a chapter leaves in its own outputs, for the runner to collect.

A record is a display with a MIME type of ours. Jupyter, Colab and the website show its HTML or text part.
"""

import sys
from typing import Any

MIME = "application/vnd.tformerlib.v1+json"


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel (a notebook, papermill), and not a plain interpreter."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def emit(kind: str, payload: dict[str, Any], *, html: str | None = None, text: str = "") -> None:
    """Shows a record of a kind ("run", "data", "claim", ...) with its payload; without a kernel, prints its text."""
    if not in_kernel():
        if text:
            print(text)
        return
    from IPython.display import display

    bundle: dict[str, Any] = {MIME: {"kind": kind, **payload}, "text/plain": text}
    if html is not None:
        bundle["text/html"] = html
    display(bundle, raw=True)
