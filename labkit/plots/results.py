"""Bars and dots that compare classes, models and trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from labkit.errors import ParameterError, nearest
from labkit.plots import look
from labkit.plots.curves import summary_of

SHOWN = 30  # bars that can still be read one by one
CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps a name clear of lines below it
TIMES = (1, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 10 * 3600, 30 * 3600, 100 * 3600)  # seconds


def class_counts(image_set: Any, *, ax: Axes | None = None) -> Axes:
    """How many images each class has; several sets by name are compared in shares."""
    if isinstance(image_set, Mapping):
        return _class_shares(image_set, ax)
    counts, classes = image_set.counts(), image_set.classes
    if isinstance(counts, dict):
        classes = [f"{head}: {name}" for head in counts for name in classes[head]]
        counts = np.concatenate(list(counts.values()))
    few = len(classes) <= SHOWN
    ax = look.axes(ax, 0.9 + 0.2 * len(classes) if few else 2.6)
    if few:
        _bars(ax, classes, counts, [f"{count:,}" for count in counts])
        ax.set_xlabel("images")
    else:
        ax.bar(np.arange(len(counts)), counts, width=1, color=look.BAR)
        ax.margins(x=0.01)
        ax.set(xlabel="class, by number", ylabel="images")
        look.grid(ax)
    look.title(ax, f"Images of each of {len(classes)} classes", image_set.source)
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    span = f"from {counts[least]:,} ({classes[least]}) to {counts[most]:,} ({classes[most]})"
    span = span if counts[least] < counts[most] else f"{counts[most]:,} each"
    look.describe(ax, f"Bar chart of the images of {len(classes)} classes, {image_set.source}: {span}.")
    return ax


def per_class(predictions: Any, *, metric: str = "f1", name: str = "", ax: Axes | None = None) -> Axes:
    """Precision, recall or F1 of every class, best on top; of many classes the best and worst."""
    summary = summary_of(predictions)
    columns = summary["per_class"]
    if metric not in columns:
        mend = nearest(metric, columns)
        raise ParameterError(f"There is no {metric!r} by class.", expected=", ".join(columns), mend=mend)
    values = pd.Series(columns[metric], index=summary["classes"], dtype=float).sort_values(ascending=False)
    mean, every, half = values.mean(), len(values), SHOWN // 2
    shown = values
    if every > SHOWN:
        shown = pd.concat([values[:half], pd.Series({"⋯": np.nan}), values[-half:]])
    ax = look.axes(ax, 0.9 + 0.19 * len(shown))
    _bars(ax, list(shown.index), shown, ["" if np.isnan(value) else f"{value:.2f}" for value in shown])
    ax.axvline(mean, color=look.MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    spoken = {"f1": "F1"}.get(metric, metric)
    ax.set(xlim=(0, 1), xlabel=spoken)
    of, some = (
        f" of {name}" if name else "",
        f"; best and worst {half} of {every} classes" if every > SHOWN else "",
    )
    look.title(
        ax,
        f"{spoken[0].upper()}{spoken[1:]} by class{of}",
        f"{summary['source']}, dashed: mean {mean:.3f}{some}",
    )
    look.describe(
        ax,
        f"Bar chart of {spoken} for {every} classes{of}: mean {mean:.3f}, {values.index[0]} highest "
        f"({values.iloc[0]:.2f}), {values.index[-1]} lowest ({values.iloc[-1]:.2f}).",
    )
    return ax


def scores(
    table: pd.DataFrame,
    *,
    xlabel: str = "accuracy",
    title: str = "",
    joined: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Figures of several models side by side as dots, one colour a column; the index names the models.

    The first column is drawn filled, with the interval of the columns `low` and `high` where they exist.
    A line joins the dots of a model, unless they were measured on different images and do not compare.
    """
    values = table.drop(columns=["low", "high"], errors="ignore")
    ax = look.axes(ax, 1.0 + 0.26 * len(table))
    places = np.arange(len(table))[::-1]
    if joined:
        ax.hlines(places, values.min(axis=1), values.max(axis=1), color=look.FAINT, linewidth=2, zorder=1)
    if {"low", "high"} <= set(table):
        ax.hlines(places, table["low"], table["high"], color=look.BLUE, linewidth=1.2, zorder=2)
    for number, column in enumerate(values):
        colour, marker = look.PALETTE[number % len(look.PALETTE)], "oDs^v"[number % 5]
        face = colour if number == 0 else "white"
        ax.scatter(
            values[column], places, 34, marker=marker, color=colour, facecolor=face, label=column, zorder=3
        )
    ax.set_yticks(places, table.index)
    ax.set(xlabel=xlabel, ylim=(-0.6, len(table) - 0.4))
    ax.tick_params(axis="y", length=0)
    look.grid(ax, "x")
    _legend(ax, len(values.columns))
    look.title(ax, title or f"{xlabel[0].upper()}{xlabel[1:]} of {len(table)} models", lift=14)
    said = [
        f"{name} " + ", ".join(f"{column} {value:.3f}" for column, value in row.items() if pd.notna(value))
        for name, row in values.iterrows()
    ]
    look.describe(ax, f"Dot chart of {xlabel}: {'; '.join(said)}.")
    return ax


def gap_against_parameters(
    results: pd.DataFrame, *, against: str = "val_accuracy", ax: Axes | None = None
) -> Axes:
    """Training minus validation accuracy against the number of parameters, one dot a model.

    `results` is indexed by model and has the columns parameters, accuracy and, for what is subtracted,
    val_accuracy or test_accuracy.
    """
    _has(results, "parameters", "accuracy", against)
    gap = results["accuracy"] - results[against]
    spoken = f"training minus {against.replace('val_', 'validation ').replace('_', ' ')}"
    ax = _named_dots(ax, results["parameters"], gap, "parameters", spoken)
    ax.axhline(0, color=look.MUTED, linewidth=0.8)
    look.title(ax, "How much better a model does on what it was trained on")
    said = ", ".join(f"{name} {value:.3f}" for name, value in gap.items())
    look.describe(ax, f"Scatter chart of {spoken} against parameters: {said}.")
    return ax


def accuracy_against_time(
    results: pd.DataFrame, *, accuracy: str = "val_accuracy", seconds: str = "seconds", ax: Axes | None = None
) -> Axes:
    """Accuracy against training time, one dot a model; no model is better and faster than one on the line."""
    _has(results, accuracy, seconds)
    spoken = accuracy.replace("val_", "validation ").replace("_", " ")
    ax = _named_dots(ax, results[seconds], results[accuracy], "training time", spoken)
    order = results.sort_values(seconds)
    front = order[accuracy].cummax()
    ax.step(order[seconds], front, where="post", color=look.FAINT, linewidth=1.2, zorder=1)
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in TIMES if low <= tick <= high])
    ax.xaxis.set_major_formatter(lambda value, _: _spoken_time(value))
    ax.xaxis.set_minor_locator(NullLocator())
    look.title(ax, "Accuracy against training time")
    said = [
        f"{name} {row[accuracy]:.3f} after {_spoken_time(row[seconds])}" for name, row in results.iterrows()
    ]
    look.describe(ax, f"Scatter chart of accuracy against training time: {'; '.join(said)}.")
    return ax


def parallel_coordinates(
    trials: pd.DataFrame,
    parameters: Sequence[str],
    *,
    score: str = "score",
    log: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Each trial of a search as a line through its parameters to its score, the best in red.

    Parameters named in `log` are spaced by their logarithm.
    """
    _has(trials, *parameters, score)
    done = trials.dropna(subset=[score]).sort_values(score)
    ax = look.axes(ax, 3.4)
    columns = [*parameters, score]
    heights = np.stack([_height(done[column], column in log) for column in columns], axis=1)
    for height in heights[:-1]:
        ax.plot(height, color=look.SHADES(0.25 + 0.5 * height[-1]), linewidth=1.2)
    for height in heights[-1:]:
        ax.plot(height, color=look.VERMILION, linewidth=2.2, label="best")
    for place, column in enumerate(columns):
        ax.axvline(place, color=look.MUTED, linewidth=0.7)
        if len(done):
            _ends(ax, place, _brief(done[column].min()), _brief(done[column].max()))
    ax.set_xticks(range(len(columns)), [column.replace("_", " ") for column in columns])
    ax.tick_params(axis="x", length=0, pad=14)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    look.title(ax, f"{len(done)} trials of the search", "red: the best trial", lift=14)
    said = "no trial finished"
    if len(done):
        said = "best: " + ", ".join(f"{column} {_brief(done[column].iloc[-1])}" for column in columns)
    look.describe(ax, f"Parallel coordinates of {len(done)} trials over {', '.join(parameters)}; {said}.")
    return ax


def _class_shares(sets: Mapping[str, Any], ax: Axes | None) -> Axes:
    classes = next(iter(sets.values())).classes
    ax = look.axes(ax, 1.0 + (0.1 + 0.1 * len(sets)) * len(classes))
    said, height = [], 0.76 / len(sets)
    places = np.arange(len(classes))[::-1]
    for number, (name, image_set) in enumerate(sets.items()):
        counts = image_set.counts()
        shares = counts / counts.sum()
        rows = places - (number - (len(sets) - 1) / 2) * height
        colour = (look.BAR, look.ORANGE, look.GREEN)[number % 3]
        ax.barh(rows, shares, height=height * 0.9, color=colour, label=f"{name} ({counts.sum():,})")
        said.append(f"{name} {100 * shares.min():.1f} to {100 * shares.max():.1f} per cent a class")
    ax.set_yticks(places, classes)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, len(classes) - 0.4)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_xlabel("share of the images")
    look.grid(ax, "x")
    _legend(ax, len(sets))
    look.title(ax, "Share of each class", lift=14)
    look.describe(ax, f"Bar chart of class shares: {'; '.join(said)}.")
    return ax


def _bars(ax: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> None:
    """Horizontal bars, first on top, each with its value at its end."""
    places = np.arange(len(names))[::-1]
    bars = ax.barh(places, values, height=0.66, color=look.BAR)
    for text in ax.bar_label(bars, texts, padding=3, fontsize=8, color=look.MUTED):
        text.set_bbox(CLEAR)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.margins(x=0.08)


def _legend(ax: Axes, entries: int) -> None:
    """One line of names between the title and the axes."""
    if entries > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3, "borderpad": 0}
        ax.legend(ncols=entries, frameon=False, fontsize=8.5, handletextpad=0.4, **place)


def _named_dots(ax: Axes | None, x: pd.Series, y: pd.Series, xlabel: str, ylabel: str) -> Axes:
    """Dots on a logarithmic scale, each with its name where there is room."""
    ax = look.axes(ax, 3.8)
    ax.scatter(x, y, s=30, color=look.BLUE, zorder=3)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.14, y=0.12)
    look.grid(ax)
    ax.get_figure(root=True).draw_without_rendering()  # settles the layout, so that extents are final
    taken: list[Any] = []
    for name in y.sort_values(ascending=False).index:
        taken.append(_write_near(ax, str(name), (x[name], y[name]), taken))
    return ax


def _write_near(ax: Axes, name: str, point: tuple[float, float], taken: Sequence[Any]) -> Any:
    """Write a name beside its dot where it covers no name written before; returns its extent."""
    sides = (
        (6, -2, "left", "top"),
        (-6, 2, "right", "bottom"),
        (6, 2, "left", "bottom"),
        (-6, -2, "right", "top"),
    )
    for last, (right, up, across, over) in enumerate(sides, start=1):
        look_of = {"ha": across, "va": over, "fontsize": 8, "zorder": 2.5}  # over lines and below dots
        text = ax.annotate(name, point, xytext=(right, up), textcoords="offset points", **look_of)
        text.set_bbox(CLEAR)
        extent = text.get_window_extent()
        if last == len(sides) or not any(extent.overlaps(other) for other in taken):
            break
        text.remove()
    return extent


def _ends(ax: Axes, place: int, low: str, high: str) -> None:
    """The lowest and the highest value, below and above one of the parallel axes."""
    for edge, text, shift, over in ((0, low, -5, "top"), (1, high, 5, "bottom")):
        look_of = {"ha": "center", "va": over, "fontsize": 8}
        ax.annotate(text, (place, edge), xytext=(0, shift), textcoords="offset points", **look_of)


def _height(values: pd.Series, log: bool) -> np.ndarray:
    """Values scaled to 0 to 1; words in alphabetical order."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        numbers = values.astype("category").cat.codes
    numbers = np.log(numbers) if log else numbers.astype(float)
    span = numbers.max() - numbers.min()
    return ((numbers - numbers.min()) / span if span > 0 else numbers * 0 + 0.5).to_numpy()


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _spoken_time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _has(table: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise ParameterError(
            f"The table has no column {missing[0]!r}.",
            expected=", ".join(map(str, table.columns)),
            mend=nearest(missing[0], map(str, table.columns)),
        )
