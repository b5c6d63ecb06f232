"""Accuracy against what it costs, with the models that none beats on both."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..extras import needs
from . import palette
from .interactive import show_plotly, with_slider

if TYPE_CHECKING:
    import plotly.graph_objects as go

COSTS = {
    "parameters": ("parameters", "parameters", min),
    "macs": ("multiply-adds", "multiply-adds for one image", min),
    "images_per_second": ("throughput", "images per second (more is better)", max),
    "activations": ("memory", "bytes kept for the backward pass of one image", min),
}
OPTIONAL = {"activations"}  # shown where all rows have it
FIELDS = ("chapter", "model", "seed", "accuracy", *(cost for cost in COSTS if cost not in OPTIONAL))


def pareto(rows: Sequence[Mapping[str, Any]], *, alt: str, caption: str = "") -> None:
    """Accuracy over parameters, multiply-adds or throughput, by a slider; a line joins those that none dominates.

    Where all rows say how many bytes they keep for the backward pass (`activations`), also over these.

    Args:
        rows: with chapter, model, seed, accuracy in percent, parameters, macs, images_per_second, all of one task.
            Seeds of one model are averaged, and of equal (chapter, model, seed) the last row counts.

    Raises:
        ValueError: no rows, a field that is missing, or rows of different tasks, which no figure should mix.
    """
    show_plotly(pareto_figure(rows), alt=alt, caption=caption)


def pareto_figure(rows: Sequence[Mapping[str, Any]]) -> "go.Figure":
    """The figure that `pareto` shows."""
    with needs("show"):
        import plotly.graph_objects as go

    if not rows:
        raise ValueError("pareto needs at least one row")
    for row in rows:
        if missing := set(FIELDS) - set(row):
            raise ValueError(f"the row of {row.get('model')!r} lacks {', '.join(sorted(missing))}")
    if len(tasks := {(row.get("task"), row.get("profile")) for row in rows}) > 1:
        raise ValueError(f"rows of different tasks or profiles cannot be compared: {sorted(map(str, tasks))}")
    seeds: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        seeds[row["chapter"], row["model"]][row["seed"]] = row
    costs = {cost: kind for cost, kind in COSTS.items() if all(cost in row for row in rows)}
    points = [
        {"chapter": chapter, "model": model, "n": len(by_seed)}
        | {name: sum(row[name] for row in by_seed.values()) / len(by_seed) for name in ("accuracy", *costs)}
        for (chapter, model), by_seed in seeds.items()
    ]
    chapters = list(dict.fromkeys(point["chapter"] for point in points))
    figures, hover = {}, "%{text}: %{y:.1f} %<br>{label} %{x:.3~s}<br>seeds: %{customdata}<extra></extra>"
    for cost, (label, title, better) in costs.items():
        front = frontier(points, cost, most=better is max)
        line = {"color": palette.NEUTRAL, "dash": "dot", "shape": "hv" if better is min else "vh"}
        traces: list[Any] = [
            go.Scatter(
                x=[p[cost] for p in front], y=[p["accuracy"] for p in front], mode="lines", name="not beaten on both",
                line=line, hoverinfo="skip",
            )
        ]  # fmt: skip
        for i, chapter in enumerate(chapters):
            own = [p for p in points if p["chapter"] == chapter]
            traces.append(
                go.Scatter(
                    x=[p[cost] for p in own], y=[p["accuracy"] for p in own], name=chapter, mode="markers+text",
                    text=[p["model"] for p in own], textposition="top center",
                    customdata=[p["n"] for p in own],
                    marker={"size": 11, "color": palette.SERIES[i % 6], "symbol": i % 6},
                    hovertemplate=hover.replace("{label}", label),
                )
            )  # fmt: skip
        axes = {"xaxis": {"type": "log", "title": title}, "yaxis": {"title": "test accuracy, %"}}
        figures[label] = go.Figure(traces, {**axes, "height": 460})
    return with_slider(figures, "cost")


def frontier(points: Sequence[Mapping[str, Any]], cost: str, *, most: bool = False) -> list[Mapping[str, Any]]:
    """The points that no other one beats on accuracy without costing more, by rising cost (or falling throughput)."""
    kept: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda p: (-p[cost] if most else p[cost], -p["accuracy"])):
        if not kept or point["accuracy"] > kept[-1]["accuracy"]:
            kept.append(point)
    return kept
