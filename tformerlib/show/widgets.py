"""Widgets for a reader with a live kernel. The site shows the plotly version of the same figure instead."""

import sys
from collections.abc import Callable, Mapping, Sequence

from numpy.typing import ArrayLike

from ..extras import needs
from ..run.records import in_kernel
from .charts import heatmap


def in_live_kernel() -> bool:
    """Whether somebody can move a slider: a kernel whose front end answers input(), which headless runners do not."""
    return in_kernel() and bool(sys.modules["IPython"].get_ipython().kernel._allow_stdin)


def attention_widget(
    matrices: Mapping[str, ArrayLike],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    alt: str,
    caption: str = "",
) -> None:
    """A drop-down over labelled attention maps, redrawn by the kernel; shows nothing when there is nobody to use it."""
    if not in_live_kernel():
        return
    with needs("show"):
        import ipywidgets

    choice = ipywidgets.Dropdown(options=list(matrices), description=label)
    ipywidgets.interact(
        lambda chosen: heatmap(matrices[chosen], rows, columns, alt=f"{label} {chosen}: {alt}", caption=caption),
        chosen=choice,
    )


def writing_widget(write: Callable[[str, float], str], *, text: str) -> None:
    """A box for the beginning of a text and a temperature; the kernel goes on from there whenever one is changed.

    Args:
        write: (text, temperature) -> the text with what a model adds to it. A ValueError of it is shown as its message.
        text: what stands in the box at first.
    """
    if not in_live_kernel():
        return
    with needs("show"):
        import ipywidgets

    def shown(text: str, temperature: float) -> None:
        try:
            print(write(text, temperature))
        except ValueError as error:
            print(error)

    box = ipywidgets.Textarea(value=text, description="text", continuous_update=False)
    warmth = ipywidgets.FloatSlider(value=0.8, min=0.0, max=2.0, step=0.1, description="temperature")
    ipywidgets.interact(shown, text=box, temperature=warmth)
