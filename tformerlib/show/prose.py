"""Numbers on their way from a run into the text: glued values, tables, parity lines."""

import html
import math
from collections.abc import Mapping, Sequence

from ..run.records import MIME, emit, in_kernel
from .frame import as_figure, present, rich

GLUE_PREFIX = "application/papermill.record/"  # myst-nb's: such an output is referred to, not shown


def glue(name: str, text: str) -> None:
    """Gives prose a value of this run: markdown refers to it as {glue:text}`name`."""
    if not name or name != name.strip():
        raise ValueError(f"glue name {name!r} is empty or has spaces around it")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"glue {name!r} is {text!r}: format the value as the text should show it")
    if not in_kernel():
        print(f"{name}: {text}")
        return
    from IPython.display import display

    # repr, as IPython would show a str: myst-nb takes the quotes off again
    bundle = {f"{GLUE_PREFIX}text/plain": repr(text), MIME: {"kind": "glue", "name": name, "text": text}}
    display(bundle, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}})


def parity(name: str, max_error: float, tolerance: float) -> None:
    """Prints the largest error between two implementations; an error above the tolerance, or NaN, stops the chapter."""
    if not max_error <= tolerance:  # also true of NaN
        raise AssertionError(f"{name}: largest error {max_error:.2e}, allowed {tolerance:.0e}")
    print(f"{name}: largest error {max_error:.1e} (allowed {tolerance:.0e})")


def expect(holds: bool, statement: str) -> None:
    """A sentence of the text that a run could contradict, such as who is ahead; the page says so where one does.

    For what must be true on every machine and with every seed, use assert: it stops the chapter.

    Args:
        statement: what should hold, as a sentence without a full stop: "the GRU forgets the first of 32 letters".
    """
    if not statement.strip():
        raise ValueError("say in a sentence what should hold")
    if holds:
        return
    text = f"Not so in this run: {statement.strip()}."
    emit("contradicted", {"statement": statement}, html=f'<p class="tf-not-so">{rich(text)}</p>', text=text)


def table(rows: Sequence[Mapping[str, object]], *, caption: str = "") -> None:
    """A table with one line for each mapping; the first mapping's keys are the columns, and all must have them."""
    if not rows:
        raise ValueError("a table needs at least one row")
    columns = list(rows[0])
    for i, row in enumerate(rows):
        if list(row) != columns:
            raise ValueError(f"row {i} has the columns {list(row)}, the first row {columns}")
    head = "".join(f'<th scope="col"{_align(rows[0][c])}>{rich(c)}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{_align(row[c])}>{rich(_cell(row[c]))}</td>" for c in columns) + "</tr>" for row in rows
    )
    content = (
        '<div class="tf-scroll" tabindex="0" role="region" aria-label="table">'
        f'<table class="tf-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    plain = "\n".join(" | ".join(line) for line in [columns, *[[_cell(row[c]) for c in columns] for row in rows]])
    if in_kernel():
        present({"text/html": as_figure(content, caption, kind="tabular")}, alt=html.unescape(plain))
    else:
        print(plain)


def _align(value: object) -> str:
    return ' class="tf-number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _cell(value: object) -> str:
    """Integers with separators, floats with four digits, anything else as it prints."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) else str(value)
