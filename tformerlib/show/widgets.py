"""Widgets for a reader with a live kernel. The site shows the plotly version of the same figure instead."""

import sys
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from ..records import in_kernel
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
    import ipywidgets

    choice = ipywidgets.Dropdown(options=list(matrices), description=label)
    ipywidgets.interact(
        lambda chosen: heatmap(matrices[chosen], rows, columns, alt=f"{label} {chosen}: {alt}", caption=caption),
        chosen=choice,
    )
