"""Static figures, drawn by matplotlib and shown as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..extras import needs
from . import palette
from .frame import as_figure, described, present
from .svg import RENDER, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.4  # inches of 72 units: a 10-unit font is 9 px on a phone and 15 px beside the text of a desktop page
LEGEND = 66  # characters of a legend's line
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "black",
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 4.5,
    "font.size": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    **RENDER,
}


@contextmanager
def _axes(height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """An empty figure in the book's style. It is not registered with pyplot, so nothing shows it a second time."""
    with needs("show"):
        import matplotlib
        from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        yield fig, fig.add_subplot()


def _show(fig: "Figure", alt: str, caption: str) -> None:
    present({"text/html": as_figure(to_svg(fig, alt), caption, kind="static")}, alt=alt)


def as_array(values: ArrayLike) -> np.ndarray:
    """Numbers as a float array; takes lists, numpy and torch (also on a GPU or with a gradient)."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu(), dtype=float)


def lines(
    x: ArrayLike | Mapping[str, ArrayLike],
    series: Mapping[str, ArrayLike],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    alt: str,
    caption: str = "",
) -> None:
    """Curves over x; `bands` gives a series a (low, high) range around it, such as the extremes over seeds.

    Args:
        x: (N,) positions common to all series, or a mapping with each series' own.
        series: name to (N,) values, at most six.
    """
    alt = described(alt)
    if len(series) > len(palette.SERIES):
        raise ValueError(f"{len(series)} series; more than {len(palette.SERIES)} cannot be told apart in one figure")
    if unknown := set(bands or {}) - set(series):
        raise ValueError(f"bands for {sorted(unknown)}, which are not among the series {list(series)}")
    with _axes(3.1) as (fig, ax):
        for i, (name, ys) in enumerate(series.items()):
            xs, values = as_array(x[name] if isinstance(x, Mapping) else x), as_array(ys)
            if xs.shape != values.shape or xs.ndim != 1:
                raise ValueError(f"series {name!r} has values of shape {values.shape} at x of shape {xs.shape}")
            marker = palette.MARKERS[i] if len(xs) <= 16 else ""
            ax.plot(xs, values, color=palette.SERIES[i], linestyle=palette.DASHES[i], marker=marker, label=name)
            if bands and name in bands:
                low, high = (as_array(edge) for edge in bands[name])
                ax.fill_between(xs, low, high, color=palette.SERIES[i], alpha=0.18, linewidth=0)
        ax.set(xlabel=x_label, ylabel=y_label)
        if log_x:
            _log_axis(ax, "x", [as_array(v) for v in (x.values() if isinstance(x, Mapping) else [x])])
        if log_y:
            _log_axis(ax, "y", [])
        if len(series) > 1:
            fits = LEGEND // (max(map(len, series)) + 6)  # 6: the line before the name
            fig.legend(loc="outside upper left", ncols=max(1, min(len(series), fits)), handlelength=2.6)
        _show(fig, alt, caption)


def _log_axis(ax: "Axes", which: str, positions: list[np.ndarray]) -> None:
    """A logarithmic axis; few positions in all are labelled as they are (4, 16, 64), not as powers of ten.

    So are the ticks of a y axis that spans less than a power of ten.
    """
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    if which == "y" and (span := ax.get_ylim())[1] < 10 * span[0]:
        with needs("show"):
            from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator

        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.yaxis.set_minor_locator(NullLocator())
    values = np.unique(np.concatenate(positions)) if positions else np.array([])
    if 0 < len(values) <= 8:
        axis = ax.xaxis
        axis.set_ticks(values, [f"{value:g}" for value in values])
        axis.set_ticks([], minor=True)


def bars(values: Mapping[str, float | Sequence[float]], *, y_label: str, alt: str, caption: str = "") -> None:
    """One horizontal bar for each name; for a list over seeds the mean, with every seed as a dot on it."""
    alt = described(alt)
    samples = {name: np.atleast_1d(as_array(value)) for name, value in values.items()}
    with _axes(0.7 + 0.38 * len(samples)) as (fig, ax):
        for i, each in enumerate(samples.values()):
            ax.barh(i, each.mean(), height=0.62, color=palette.SERIES[0], alpha=0.8)
            if len(each) > 1:
                ax.plot(each, np.full(len(each), i), "o", color="black", markersize=4)
            ax.annotate(
                f"{each.mean():.3g}",
                (max(each.max(), each.mean(), 0), i),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        ax.set_yticks(range(len(samples)), list(samples))
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.margins(x=0.12)
        ax.set_xlabel(y_label)
        _show(fig, alt, caption)


def heatmap(matrix: ArrayLike, rows: Sequence[str], columns: Sequence[str], *, alt: str, caption: str = "") -> None:
    """A (rows, columns) matrix in colour, with its values written in up to 80 cells; signed values are centred at 0."""
    alt = described(alt)
    cells = as_array(matrix)
    if cells.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix of shape {cells.shape} for {len(rows)} rows and {len(columns)} columns")
    signed = bool((cells < 0).any())
    bound = np.abs(cells).max()
    with _axes(min(5.4, 0.9 + 0.32 * len(rows))) as (fig, ax):
        mesh = ax.pcolormesh(
            cells,
            cmap=palette.DIVERGING if signed else palette.SEQUENTIAL,
            vmin=-bound if signed else 0,
            vmax=bound,
            edgecolors="none",
            linewidth=0,
            antialiased=False,
        )
        if cells.size <= 80:
            _write_values(ax, mesh.to_rgba(cells), cells)
        crowded = len(columns) > 10 or max(len(label) for label in columns) * len(columns) > 56
        ax.set_xticks(np.arange(len(columns)) + 0.5, list(columns), rotation=60 if crowded else 0)
        if crowded:
            for label in ax.get_xticklabels():
                label.set(ha="left", rotation_mode="anchor")
        ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.invert_yaxis()
        ax.grid(False)
        ax.spines[:].set_visible(False)
        _show(fig, alt, caption)


def _write_values(ax: "Axes", colours: np.ndarray, cells: np.ndarray) -> None:
    """Writes each cell's value in black or white, whichever stands out more."""
    for (i, j), value in np.ndenumerate(cells):
        fill = "#" + "".join(f"{round(255 * channel):02x}" for channel in colours[i, j, :3])
        # not #000000, which to_svg turns into the page's text colour
        ink = max(("#010101", "#ffffff"), key=lambda c: palette.contrast(c, fill))
        ax.text(j + 0.5, i + 0.5, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
