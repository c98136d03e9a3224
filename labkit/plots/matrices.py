"""Which classes are taken for which: noise matrices and confusion matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import PercentFormatter

from labkit.errors import ParameterError
from labkit.plots import look
from labkit.plots.curves import summary_of

NAMED = 25  # classes up to which every row and column is named


def noise_matrix(transition: Any, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """How often each true class (row) is labelled as each class (column), with 95 % intervals below.

    `transition` is what `labels.transition` returns, or a plain matrix; a row of NaN is a class never seen.
    """
    matrix = np.asarray(getattr(transition, "matrix", transition), float)
    low, high = getattr(transition, "low", None), getattr(transition, "high", None)
    ax = look.axes(ax, 5.6)
    top = np.nanmax(matrix)
    _shade(ax, matrix, top)
    for row, column in np.argwhere(~np.isnan(matrix)):
        colour = look.ink_on(matrix[row, column] / top)
        value = f"{100 * matrix[row, column]:.0f}"
        ax.text(
            column,
            row,
            value,
            ha="center",
            va="center" if low is None else "bottom",
            color=colour,
            fontsize=9,
        )
        if low is not None:
            text = f"{100 * low[row, column]:.0f}–{100 * high[row, column]:.0f}"
            ax.text(column, row + 0.12, text, ha="center", va="top", color=colour, fontsize=6.5)
    _names(ax, classes, "label given", "true class")
    kept = np.diag(matrix)
    unseen = f", {np.isnan(kept).sum()} of them never seen" if np.isnan(kept).any() else ""
    look.title(
        ax,
        "Labels given to each true class",
        "per cent of the true class" + (", 95 % interval" if low is not None else ""),
    )
    look.describe(
        ax,
        f"Noise matrix of {len(classes)} classes{unseen}: the true label is kept for "
        f"{100 * np.nanmin(kept):.0f} to {100 * np.nanmax(kept):.0f} per cent of a class; the most frequent "
        f"wrong label is {_largest(matrix, classes)}.",
    )
    return ax


def confusion(
    predictions: Any,
    *,
    groups: Sequence[int] | None = None,
    group_names: Sequence[str] | None = None,
    name: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Confusion matrix of predictions or of a record's scores, in shares of the true class.

    With `groups`, the group of each class, classes are ordered by group and lines part the groups.
    """
    summary = summary_of(predictions)
    counts, classes = np.asarray(summary["confusion"]), list(summary["classes"])
    order = np.arange(len(classes)) if groups is None else np.argsort(groups, kind="stable")
    if len(order) != len(classes):
        raise ParameterError(f"{len(classes)} classes need as many group numbers, got {len(order)}.")
    shares = counts[np.ix_(order, order)] / np.maximum(counts.sum(1)[order], 1)[:, None]
    few = len(classes) <= NAMED
    ax = look.axes(ax, 5.4 if few else 6.2)
    picture = _shade(ax, shares, 1.0, None if few else PowerNorm(0.5, 0, 1))
    if few:
        _numbers(ax, shares)
        _names(ax, [classes[place] for place in order], "predicted class", "true class")
    else:
        _bar(ax, picture)
        _blocks(ax, order, groups, group_names)
    text = f"{summary['source']}, {summary['n']:,} images, accuracy {summary['accuracy']:.3f}"
    text += "; per cent of the true class" if few else ""  # where there are many, a bar beside them says it
    look.title(ax, f"Confusion of {name}" if name else "Confusion", text)
    recall = np.diag(shares)
    best, worst = (classes[order[place]] for place in (recall.argmax(), recall.argmin()))
    look.describe(
        ax,
        f"Confusion matrix{f' of {name}' if name else ''}, {len(classes)} classes, {summary['n']:,} images: "
        f"{best} is recognised best ({recall.max():.2f}), {worst} worst ({recall.min():.2f}); most often "
        f"{_largest(shares, [classes[place] for place in order])}.",
    )
    return ax


def _shade(ax: Axes, shares: np.ndarray, top: float, norm: PowerNorm | None = None) -> Any:
    limits = {} if norm else {"vmin": 0, "vmax": top}
    picture = ax.imshow(shares, cmap=look.SHADES, norm=norm, interpolation="none", **limits)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
    return picture


def _numbers(ax: Axes, shares: np.ndarray) -> None:
    size = 9 if len(shares) <= 12 else 6.5
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        if share >= 0.005 or row == column:
            colour = look.ink_on(share)
            ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=size)


def _names(ax: Axes, classes: Sequence[str], across: str, down: str) -> None:
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(classes)), classes)
    ax.set(xlabel=across, ylabel=down)


def _bar(ax: Axes, picture: Any) -> None:
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.6, aspect=30, pad=0.02, format=PercentFormatter(1, 0))
    bar.set_label("share of the true class")
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1])
    bar.outline.set_visible(False)


def _blocks(ax: Axes, order: np.ndarray, groups: Sequence[int] | None, names: Sequence[str] | None) -> None:
    """Lines between groups and their names at the middle of each block; without groups, every tenth class."""
    ax.set(xlabel="predicted class", ylabel="true class")
    if groups is None:
        ticks = np.arange(0, len(order), 10)
        ax.set_xticks(ticks), ax.set_yticks(ticks)
        return
    ordered = np.asarray(groups)[order]
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) != 0])
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="#B0B0B0", linewidth=0.4)
        ax.axvline(start - 0.5, color="#B0B0B0", linewidth=0.4)
    middles = (starts + np.r_[starts[1:], len(order)] - 1) / 2
    texts = [str(group) if names is None else names[group] for group in ordered[starts]]
    ax.set_yticks(middles, texts, fontsize=7)
    ax.set_xticks(middles, texts, fontsize=7, rotation=90)


def _largest(shares: np.ndarray, classes: Sequence[str]) -> str:
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(np.nanargmax(off), off.shape)
    return f"{classes[column]} for {classes[row]} ({100 * off[row, column]:.0f} per cent)"
