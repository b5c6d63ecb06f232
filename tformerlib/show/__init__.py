"""Figures, tables and values for prose. Every figure needs alt text, and every figure of equal data has equal bytes.

Matplotlib and plotly are imported when first drawn with, so that a chapter starts fast.
"""

from typing import TYPE_CHECKING, Union

from ..extras import needs
from .charts import bars, heatmap, lines
from .frame import as_figure, described, picture, present
from .interactive import explore, show_plotly, slider
from .live_models import live, live_digits, live_widget
from .pareto import pareto
from .prose import expect, glue, parity, table
from .questions import quiz
from .svg import to_svg
from .widgets import attention_widget, writing_widget

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

__all__ = [
    "attention_widget",
    "bars",
    "expect",
    "explore",
    "figure",
    "glue",
    "heatmap",
    "lines",
    "live",
    "live_digits",
    "live_widget",
    "pareto",
    "parity",
    "picture",
    "quiz",
    "slider",
    "table",
    "writing_widget",
]


def figure(fig: Union["Figure", "go.Figure"], *, alt: str, caption: str = "") -> None:
    """Shows a matplotlib or plotly figure of one's own, with alt text and a caption."""
    alt = described(alt)
    library = type(fig).__module__.partition(".")[0]
    if library == "plotly":
        show_plotly(fig, alt=alt, caption=caption)
    elif library == "matplotlib":
        present({"text/html": as_figure(to_svg(fig, alt), caption, kind="static")}, alt=alt)
        _forget(fig)
    else:
        raise TypeError(f"a {type(fig).__qualname__} is neither a matplotlib nor a plotly figure")


def _forget(fig: "Figure") -> None:
    """Closes a pyplot figure, or the notebook would show it again, without alt text."""
    with needs("show"):
        from matplotlib import pyplot

    pyplot.close(fig)
