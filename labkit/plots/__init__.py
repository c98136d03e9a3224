"""Figures in one calm style, readable in print and for colour-blind readers, each with its alt text.

Single plots take one thing and an optional Axes and return the Axes; grids of images return a Figure. They
read arrays and records, and know neither data, models nor Keras.
"""

from labkit.plots.curves import histories, history, loss_and_accuracy, rate_scan, reliability, side_by_side
from labkit.plots.look import alt, describe, style, svg
from labkit.plots.matrices import confusion, noise_matrix
from labkit.plots.networks import model_graph, model_layers
from labkit.plots.pictures import (
    augmentations,
    class_means,
    heat,
    image_rows,
    images,
    mistakes,
    one_per_class,
    soft_caption,
)
from labkit.plots.results import (
    accuracy_against_time,
    class_counts,
    gap_against_parameters,
    parallel_coordinates,
    per_class,
    scores,
)

__all__ = [
    "accuracy_against_time",
    "alt",
    "augmentations",
    "class_counts",
    "class_means",
    "confusion",
    "describe",
    "gap_against_parameters",
    "heat",
    "histories",
    "history",
    "image_rows",
    "images",
    "loss_and_accuracy",
    "mistakes",
    "model_graph",
    "model_layers",
    "noise_matrix",
    "one_per_class",
    "parallel_coordinates",
    "per_class",
    "rate_scan",
    "reliability",
    "scores",
    "side_by_side",
    "soft_caption",
    "style",
    "svg",
]
