"""Interactive figures that need no kernel: every state is computed beforehand and travels with the page."""

import hashlib
import html
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..extras import needs
from . import palette
from .charts import as_array
from .frame import as_figure, described, present, rich

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY_MIME = "application/vnd.plotly.v1+json"
CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False}
Labels = Sequence[str] | Mapping[str, Sequence[str]]


def explore(
    matrices: Mapping[str, ArrayLike],
    rows: Labels,
    columns: Labels,
    *,
    slider_label: str,
    alt: str,
    caption: str = "",
) -> None:
    """A heat map with a slider over labelled matrices (heads, layers, training steps); hovering shows a cell's value.

    Args:
        matrices: label to (rows, columns) values. Colours mean the same at every position of the slider.
        rows: names of the rows, shared by all matrices or given for each label. Equal names may repeat.
        columns: likewise.
    """
    with needs("show"):
        import plotly.graph_objects as go

    alt = described(alt)
    arrays = {label: as_array(matrix) for label, matrix in matrices.items()}
    if not arrays:
        raise ValueError("explore needs at least one matrix")
    high = max(float(np.abs(array).max()) for array in arrays.values()) or 1.0
    digits = 4 - math.ceil(math.log10(high))  # four of the largest value's: more would only make the page heavier
    signed = any((array < 0).any() for array in arrays.values())
    figures = {}
    for label, array in arrays.items():
        names = [list(axis[label] if isinstance(axis, Mapping) else axis) for axis in (rows, columns)]
        if array.shape != (len(names[0]), len(names[1])):
            raise ValueError(
                f"matrix {label!r} has shape {array.shape}, named are {len(names[0])} rows and {len(names[1])} columns"
            )
        cells = go.Heatmap(
            z=[[round(value, digits) for value in row] for row in array.tolist()],
            y=_unlike(names[0]),
            x=_unlike(names[1]),
            zmin=-high if signed else 0,
            zmax=high,
            colorscale="RdBu" if signed else "Viridis",
            reversescale=signed,
            hovertemplate="%{y} → %{x}<br>%{z:.3~g}<extra></extra>",
            xgap=1,
            ygap=1,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9},
        )
        axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "dtick": 1}
        figures[label] = go.Figure(
            cells,
            {
                "xaxis": {**axis, "side": "top"},
                "yaxis": {**axis, "autorange": "reversed"},
                "height": 130 + min(34, max(16, 420 // len(names[0]))) * len(names[0]),
            },
        )
    slider(figures, slider_label=slider_label, alt=alt, caption=caption)


def _unlike(names: Sequence[str]) -> list[str]:
    """The names, equal ones told apart by what nobody sees: to plotly equal names would be one row or column."""
    seen: Counter[str] = Counter()
    told = []
    for name in map(str, names):
        told.append(name + "\u200b" * seen[name])
        seen[name] += 1
    return told


def slider(figures: Mapping[str, "go.Figure"], *, slider_label: str, alt: str, caption: str = "") -> None:
    """One plotly figure with a slider that goes through the given ones; all must have the same number of traces."""
    show_plotly(with_slider(figures, slider_label), alt=alt, caption=caption)


def with_slider(figures: Mapping[str, "go.Figure"], slider_label: str) -> "go.Figure":
    """The figure that `slider` shows."""
    with needs("show"):
        import plotly.graph_objects as go

    labels = list(figures)
    if not labels:
        raise ValueError("slider needs at least one figure")
    first = figures[labels[0]]
    for label in labels:
        if len(figures[label].data) != len(first.data):
            raise ValueError(f"figure {label!r} has {len(figures[label].data)} traces, {labels[0]!r} {len(first.data)}")
    fig = go.Figure(first.data, first.layout)
    if len(labels) > 1:
        plots = [json.loads(figure.to_json()) for figure in figures.values()]
        layouts = _differences([plot["layout"] for plot in plots])
        traces = [_differences([plot["data"][i] for plot in plots]) for i in range(len(first.data))]
        fig.frames = [
            go.Frame(
                name=label,
                data=[{"type": trace.type, **traces[i][f]} for i, trace in enumerate(first.data)],
                layout=layouts[f],
            )
            for f, label in enumerate(labels)
        ]
        now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
        steps = [{"label": label, "method": "animate", "args": [[label], now]} for label in labels]
        fig.update_layout(sliders=[{"currentvalue": {"prefix": f"{slider_label}: "}, "pad": {"t": 30}, "steps": steps}])
    return fig


def _differences(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is not the same in all; plotly keeps what a frame leaves out as the frame before had it."""
    changing = [key for key in dict.fromkeys(key for part in parts for key in part) if key != "template"]
    changing = [key for key in changing if any(part.get(key) != parts[0].get(key) for part in parts)]
    return [{key: part[key] for key in changing if key in part} for part in parts]


def show_plotly(fig: "go.Figure", *, alt: str, caption: str = "") -> None:
    """A plotly figure in a form that the site, JupyterLab and Colab can each draw without fetching from elsewhere.

    The site's script reads the JSON beside the `<div>`; JupyterLab takes the plotly MIME type; Colab needs plotly's
    own HTML, because each of its outputs is a page of its own.
    """
    alt, styled = described(alt), _styled(fig)
    if "google.colab" in sys.modules:
        drawn = styled.to_html(include_plotlyjs="cdn", full_html=False, config=CONFIG)
        content = f'<div role="img" aria-label="{html.escape(alt)}">{drawn}</div>'
        present({"text/html": as_figure(content, caption, kind="interactive")}, alt=alt)
        return
    page = {"text/html": on_a_page(fig, alt=alt, caption=caption)}
    present({**page, PLOTLY_MIME: {**json.loads(styled.to_json()), "config": CONFIG}}, alt=alt)


def on_a_page(fig: "go.Figure", *, alt: str, caption: str = "") -> str:
    """HTML of a figure for the site, whose script draws it from the JSON beside the `<div>`."""
    alt, data = described(alt), json.loads(_styled(fig).to_json())
    source = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    name = f"tf-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    height = data["layout"].get("height", 400)
    content = (
        f'<div class="tf-plotly" id="{name}" role="img" aria-label="{html.escape(alt)}" style="min-height:{height}px">'
        f'<p class="tf-fallback">{rich(alt)}</p></div>'
        f'<script type="application/json" data-for="{name}">{source}</script>'
    )
    return as_figure(content, caption, kind="interactive")


def _styled(fig: "go.Figure") -> "go.Figure":
    """The figure in the book's template: transparent, no title of its own, colours that hold in light and dark."""
    with needs("show"):
        import plotly.graph_objects as go

    axis = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.4)", "automargin": True}
    template = go.layout.Template(
        layout={
            "colorway": list(palette.SERIES),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": palette.NEUTRAL, "family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )
    styled = go.Figure(fig)
    styled.update_layout(template=template, autosize=True)
    return styled
