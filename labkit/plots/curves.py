"""Lines over epochs, and how far a model's confidence can be trusted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labkit.errors import ParameterError, nearest
from labkit.plots import look
from labkit.runs import Run


def history(run: Any, *, metric: str | None = None, name: str = "", ax: Axes | None = None) -> Axes:
    """One metric over the epochs of a run, training and validation, with the epoch kept and rate drops.

    `run` is a run, its record, or a history as a DataFrame or dict of lists.
    """
    name = name or _name(run)
    ax = look.axes(ax, 3.0)
    said = _draw(run, metric, ax)
    of = f" of {name}" if name else ""
    look.title(ax, f"{said['metric'].capitalize()}{of}", said["marked"])
    look.end_labels({ax: said["ends"]})
    look.describe(ax, _alt_history(of, **said))
    return ax


def loss_and_accuracy(run: Any, *, name: str = "") -> Figure:
    """Loss and accuracy of one run side by side."""
    figure, panels = plt.subplots(1, 2, figsize=(look.WIDTH, 2.9), layout="constrained")
    name, ends = name or _name(run), {}
    if name:
        figure.suptitle(name, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        look.describe(figure, f"Training of {name}.")
    for metric, ax in zip((None, "loss"), panels, strict=True):
        said = _draw(run, metric, ax)
        ax.set_title(said["metric"].capitalize(), loc="left", fontsize=9.5, fontweight="bold")
        ax.set_title(said["marked"], loc="right", fontsize=8.5)
        ends[ax] = said["ends"]
        look.describe(ax, _alt_history("", **said))
    look.end_labels(ends)
    return figure


def histories(
    runs: Mapping[str, Any],
    *,
    metric: str = "val_accuracy",
    x: str = "epoch",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One metric of several runs over each other, named at the ends of their lines."""
    ax = look.axes(ax, 3.4)
    ends, said = [], []
    for place, (name, run) in enumerate(runs.items()):
        table = table_of(run)
        _has(table, metric), _has(table, x)
        line = table[[x, metric]].dropna()
        colour = look.PALETTE[place % len(look.PALETTE)]
        ax.plot(
            line[x], line[metric], color=colour, linestyle=look.DASHES[place % len(look.DASHES)], label=name,
            marker="o" if len(line) == 1 else "",
        )  # fmt: skip
        ends.append((*line.iloc[-1], name, colour))
        best = line[metric].min() if "loss" in metric else line[metric].max()
        said.append(f"{name} {best:.3f} at best")
    _decorate(ax, metric, x)
    look.title(ax, title or f"{_spoken(metric).capitalize()} of {len(runs)} runs")
    look.end_labels({ax: ends})
    look.describe(ax, f"Line chart of {_spoken(metric)} against {_spoken(x)}: {', '.join(said)}.")
    return ax


def side_by_side(runs: Mapping[str, Any], *, metric: str | None = None, columns: int = 3) -> Figure:
    """Histories of several runs in panels that share their scales."""
    rows, columns = -(-len(runs) // columns), min(columns, len(runs))
    figure, panels = plt.subplots(
        rows, columns, figsize=(look.WIDTH, 0.3 + 1.8 * rows), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for place, (ax, (name, run)) in enumerate(zip(panels.flat, runs.items(), strict=False)):
        said = _draw(run, metric, ax)
        ax.set_title(name, loc="left", fontsize=9, fontweight="bold")
        ax.set_ylabel(ax.get_ylabel() if place % columns == 0 else "")
        ax.set_xlabel(ax.get_xlabel() if place + columns >= len(runs) else "")
        ax.tick_params(labelbottom=place + columns >= len(runs))
        look.describe(ax, _alt_history(f" of {name}", **said))
    handles, texts = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=2, frameon=False, fontsize=8.5)
    for ax in panels.flat[len(runs) :]:
        ax.remove()
    return figure


def reliability(predictions: Any, *, name: str = "", ax: Axes | None = None) -> Axes:
    """Accuracy against confidence in equal steps; the area of a dot says how many images it stands for."""
    summary = summary_of(predictions)
    table = pd.DataFrame(summary["reliability"]).astype(float)
    full = table[table["count"] > 0]
    ax = look.axes(ax, 3.6, 3.9)
    ax.plot([0, 1], [0, 1], color=look.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.vlines(full["confidence"], full["confidence"], full["accuracy"], color=look.VERMILION, linewidth=1.2)
    ax.scatter(
        full["confidence"],
        full["accuracy"],
        s=12 + 160 * full["count"] / full["count"].max(),
        color=look.BLUE,
        alpha=0.85,
        edgecolor="white",
        linewidth=0.6,
        zorder=3,
        clip_on=False,
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    for x, y, text, side in ((0.96, 0.05, "too sure", "right"), (0.04, 0.92, "not sure enough", "left")):
        ax.text(x, y, text, ha=side, fontsize=8, color=look.MUTED)
    look.grid(ax)
    gap = np.average(full["confidence"] - full["accuracy"], weights=full["count"])
    text = f"expected calibration error {summary['ece']:.3f}, {summary['n']:,} images"
    look.title(ax, f"Reliability of {name}" if name else "Reliability", text)
    lean = "over" if gap > 0 else "under"
    look.describe(
        ax,
        f"Reliability diagram{f' of {name}' if name else ''}: accuracy against confidence for "
        f"{summary['n']:,} images, expected calibration error {summary['ece']:.3f}; "
        f"the model is on the whole {lean}confident by {abs(gap):.3f}.",
    )
    return ax


def rate_scan(rates: Any, *, ax: Axes | None = None) -> Axes:
    """The loss while the learning rate grows, and the rate to try, as `training.find_lr` returns them."""
    table = rates.table
    ax = look.axes(ax, 2.8)
    ax.plot(table["lr"], table["loss"], color=look.SKY, linewidth=0.8, label="each batch")
    ax.plot(table["lr"], table["smooth"], color=look.BLUE, label="smoothed")
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
    look.grid(ax)
    nearest_row = table.loc[(np.log(table["lr"]) - np.log(rates.suggestion)).abs().idxmin()]
    marked = _ring(ax, rates.suggestion, nearest_row["smooth"], f"try {rates.suggestion:.1e}")
    look.title(ax, "Loss while the learning rate grows", marked)
    lowest = table.loc[table["smooth"].idxmin()]
    look.describe(
        ax,
        f"Loss against a growing learning rate: lowest, {lowest['smooth']:.3g}, at {lowest['lr']:.1e}; "
        f"the rate to try is {rates.suggestion:.1e}.",
    )
    return ax


def table_of(run: Any) -> pd.DataFrame:
    """The history of a run, a record or Keras' own, with epochs counted from 1."""
    found = run
    if not isinstance(run, pd.DataFrame):
        found = getattr(run, "history", run.get("history", run) if isinstance(run, Mapping) else None)
    if found is None:
        raise ParameterError(
            f"A {type(run).__name__} has no history to draw.",
            expected="a run, its record, a DataFrame, or a dict of lists",
        )
    table = pd.DataFrame(found)
    if table.empty:
        raise ParameterError("There is no epoch to draw.", mend="a model that was not trained has no history")
    if "epoch" not in table:
        table = table.assign(epoch=np.arange(1, len(table) + 1))
    return table


def summary_of(predictions: Any) -> Mapping:
    """The numbers of predictions, or of what a record kept of them."""
    summary = predictions.summary() if hasattr(predictions, "summary") else predictions
    if not isinstance(summary, Mapping) or "confusion" not in summary:
        raise ParameterError(
            f"A {type(predictions).__name__} holds no scores of one head.",
            expected="predictions, or the part of a record that a score wrote",
            mend='for two heads draw each: predictions["first"], record["metrics"]["test"]["heads"]["first"]',
        )
    return summary


def rate_drops(table: pd.DataFrame) -> list[int]:
    """The epochs that start at a clearly lower learning rate; none for a smooth schedule."""
    if "lr" not in table:
        return []
    rates = table["lr"].to_numpy(float)
    lower = rates[1:] < 0.75 * rates[:-1]
    smooth = (np.diff(rates) != 0).sum() > max(3, len(rates) / 3)
    return [] if smooth else table["epoch"].to_numpy()[1:][lower].tolist()


def _metric(table: pd.DataFrame, metric: str | None) -> str:
    if metric is None:
        metric = "accuracy" if "accuracy" in table else "mean_accuracy"
    if metric not in table and f"val_{metric}" not in table:
        _has(table, metric)
    return metric


def _has(table: pd.DataFrame, column: str) -> None:
    if column not in table:
        raise ParameterError(
            f"The history has no column {column!r}.",
            expected=", ".join(map(str, table.columns)),
            mend=nearest(column, map(str, table.columns)),
        )


def _best(run: Any, table: pd.DataFrame, metric: str) -> tuple[float, float, str] | None:
    """Epoch, value and text of the epoch whose weights a run kept, or else of the best by validation."""
    column = f"val_{metric}"
    if column not in table or table[column].isna().all():
        return None
    if isinstance(run, Mapping) and "best_epoch" in run:
        run = Run("", "", None, {"recipe": {}, **run})
    epoch, word = getattr(run, "kept_epoch", None), "kept"
    values = table.set_index("epoch")[column].astype(float)
    if epoch not in values.index:
        epoch, word = values.idxmin() if "loss" in metric else values.idxmax(), "best"
    return float(epoch), float(values[epoch]), f"{word} {values[epoch]:.3f}, epoch {epoch:.0f}"


def _draw(run: Any, metric: str | None, ax: Axes) -> dict:
    """Draw the lines of one run; returns what titles, marks and alt text are made of."""
    table = table_of(run)
    metric = _metric(table, metric)
    ends, spans = [], {}
    for column, text, colour, dash in (
        (metric, "training", look.ORANGE, look.DASHES[1]),
        (f"val_{metric}", "validation", look.BLUE, look.DASHES[0]),
    ):
        line = table[["epoch", column]].dropna() if column in table else table.head(0)
        if len(line):
            ax.plot(line["epoch"], line[column], color=colour, linestyle=dash, label=text)
            ends.append((*line.iloc[-1], text, colour))
            spans[text] = (line[column].iloc[0], line[column].iloc[-1])
    drops = rate_drops(table)
    for epoch in drops:
        ax.axvline(epoch - 0.5, color=look.MUTED, linewidth=0.7, linestyle=(0, (2, 2)), label="_rate drop")
    _decorate(ax, metric)
    if drops:
        ax.set_xlabel("epoch; dotted: the rate drops")
    if len(table) < 3:
        ax.set_xticks(table["epoch"])
    best = _best(run, table, metric)
    return {
        "marked": _ring(ax, *best) if best else "",
        "metric": _spoken(metric),
        "epochs": len(table),
        "ends": ends,
        "spans": spans,
        "best": best,
        "drops": drops,
    }


def _ring(ax: Axes, x: float, y: float, text: str) -> str:
    """Draw a ring around a point, and give what a title says of it: words beside it would hide lines."""
    ax.plot([x], [y], "o", markersize=7, markerfacecolor="none", color=look.INK, clip_on=False, label="_best")
    return f"○ {text}"


def _decorate(ax: Axes, metric: str, x: str = "epoch") -> None:
    ax.set(xlabel=_spoken(x), ylabel=_spoken(metric))
    ax.margins(x=0.02, y=0.2)
    ax.xaxis.set_major_locator(
        MaxNLocator("auto", integer=x == "epoch", steps=[1, 2, 5, 10], min_n_ticks=1)
    )  # panels may share ticks set by hand
    look.grid(ax)


def _spoken(metric: str) -> str:
    words = ["validation" if word == "val" else word for word in metric.split("_")]
    return " ".join(words)


def _name(run: Any) -> str:
    return str(run.get("name", "") if isinstance(run, Mapping) else getattr(run, "name", ""))


def _alt_history(
    of: str, metric: str, epochs: int, spans: dict, best: tuple | None, drops: list, **_: Any
) -> str:
    said = [f"{text} from {first:.3f} to {last:.3f}" for text, (first, last) in spans.items()]
    if best:
        said.append(best[2])
    if drops:
        said.append(f"the learning rate drops at epoch {', '.join(map(str, drops))}")
    return f"Line chart of {metric}{of} over {epochs} epochs: {'; '.join(said)}."
