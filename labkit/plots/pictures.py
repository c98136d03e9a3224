"""Grids of images with what their labels and a model say about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from labkit.errors import ParameterError
from labkit.plots import look

Caption = tuple[str, str]  # a text and its colour
STEP = 1.08  # from picture to picture, in widths of one


def images(
    image_set: Any, n: int = 12, *, columns: int = 6, index: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Images with their labels, spread evenly over the set or those at `index`.

    Where the true label is known and differs from the one given, both are shown.
    """
    if index is None:
        index = np.arange(min(n, len(image_set))) * len(image_set) // max(1, min(n, len(image_set)))
    captions = [_caption(image_set, place) for place in index]
    title = title or f"{len(captions)} of {len(image_set):,} images"
    figure = _grid(image_set.images[index], captions, columns, title, image_set.source)
    named = "; ".join(text.replace("\n", ", ") for text, _ in captions[:12])
    look.describe(figure, f"{len(captions)} images in a grid, {image_set.source}: {named}.")
    return figure


def one_per_class(image_set: Any, *, columns: int = 10) -> Figure:
    """The first image of every class, in the order of the classes."""
    found, first = np.unique(image_set.labels, return_index=True)
    names = [image_set.classes[label] for label in found]
    captions = [(name, look.INK) for name in names]
    title = f"One image of each of {len(names)} classes"
    figure = _grid(image_set.images[first], captions, columns, title, image_set.source)
    look.describe(figure, f"{title}, {image_set.source}: {', '.join(names)}.")
    return figure


def class_means(image_set: Any, *, columns: int = 10) -> Figure:
    """The average image of every class, and last the average of all."""
    pictures, names = [], []
    for label, name in enumerate(image_set.classes):
        members = image_set.images[image_set.labels == label]
        if len(members):
            pictures.append(members.mean(0))
            names.append(name)
    pictures.append(image_set.images.mean(0))
    captions = [(name, look.INK) for name in names] + [("all images", look.BLUE)]
    title = f"Average image of {len(names)} classes and of all {len(image_set):,} images"
    figure = _grid(np.rint(pictures).astype(np.uint8), captions, columns, title, image_set.source)
    look.describe(figure, f"{title}, {image_set.source}.")
    return figure


def mistakes(predictions: Any, image_set: Any, n: int = 12, *, columns: int = 6) -> Figure:
    """The mistakes made with the highest confidence: what was predicted, how surely, and the label."""
    worst = predictions.worst(n)
    captions = [
        (f"{row.predicted} {100 * row.confidence:.0f} %\nlabel {row.true}", look.VERMILION)
        for row in worst.itertuples()
    ]
    title = f"The {len(worst)} surest of {int((~predictions.right).sum()):,} mistakes"
    figure = _grid(image_set.images[worst["index"]], captions, columns, title, predictions.source)
    said = "; ".join(
        f"{row.true} taken for {row.predicted} at {row.confidence:.2f}" for row in worst.itertuples()
    )
    look.describe(figure, f"{title}, {predictions.source}: {said}.")
    return figure


def augmentations(
    before: np.ndarray,
    after: Mapping[str, np.ndarray],
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    source: str = "",
) -> Figure:
    """The same images before augmentation and after each kind of it, one row each."""
    rows = {"before": before, **after}
    return image_rows(rows, captions=captions, title="Before and after augmentation", source=source)


def image_rows(
    rows: Mapping[str, np.ndarray],
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    title: str = "Images in rows",
    source: str = "",
) -> Figure:
    """Stacks of images as named rows below each other, such as the two parts of a pair and their average.

    `source` says where the images come from.
    """
    lengths = {name: len(stack) for name, stack in rows.items()}
    if len(set(lengths.values())) != 1:
        raise ParameterError(
            f"The rows have different lengths: {lengths}.", expected="as many images in each"
        )
    columns, below = next(iter(lengths.values())), captions or {}
    stack = np.concatenate([_bytes(row) for row in rows.values()])
    texts = [(text, look.INK) for name in rows for text in below.get(name, [""] * columns)]
    figure = _grid(stack, texts, columns, title, source)
    for name, top in zip(rows, _tops(stack, texts, columns), strict=False):
        middle = top + _ratio(stack) / 2
        figure.axes[0].text(-0.06, middle, name, ha="right", va="center", fontsize=8.5, color=look.MUTED)
    said = [f"{name}: {', '.join(below[name])}" for name in rows if name in below]
    text = "; ".join([", ".join(filter(None, (title, source))) + f": {', '.join(rows)}", *said])
    look.describe(figure, text.replace("\n", " and ") + ".")
    return figure


def heat(pictures: np.ndarray, maps: np.ndarray, *, captions: Sequence[str] = (), title: str = "") -> Figure:
    """Images in grey under maps of where a network looks, none at 0, full colour at each map's maximum."""
    tops = maps.max((1, 2), keepdims=True)
    shares = np.divide(maps, tops, out=np.zeros(maps.shape, float), where=tops > 0).clip(0, 1)[..., None]
    grey = _bytes(pictures).mean(-1, keepdims=True)
    colour = np.array([0xD5, 0x5E, 0x00])
    blended = np.rint(grey * (1 - 0.75 * shares) + colour * 0.75 * shares).astype(np.uint8)
    texts = [(text, look.INK) for text in captions] or [("", look.INK)] * len(pictures)
    figure = _grid(blended, texts, 6, title, "orange: what counts towards the class")
    look.describe(figure, f"{title or 'Where the network looks'}: {', '.join(captions) or len(pictures)}.")
    return figure


def soft_caption(target: np.ndarray, classes: Sequence[str]) -> str:
    """A label in shares as words: "cat 70 %, dog 30 %", the two largest."""
    largest = np.argsort(-target, kind="stable")[:2]
    if target[largest[0]] > 0.995:
        return classes[largest[0]]
    return "\n".join(
        f"{classes[label]} {100 * target[label]:.0f} %" for label in largest if target[label] > 0.005
    )


def _caption(image_set: Any, place: int) -> Caption:
    if isinstance(image_set.labels, dict):
        names = [image_set.classes[head][labels[place]] for head, labels in image_set.labels.items()]
        return "\n".join(names), look.INK
    given = image_set.classes[image_set.labels[place]]
    truth = -1 if image_set.true_labels is None else image_set.true_labels[place]
    if truth < 0:
        return given, look.INK
    if image_set.classes[truth] == given:
        return f"{given}\n(right)", look.BLUE
    return f"{given}\nis {image_set.classes[truth]}", look.VERMILION


def _grid(pictures: np.ndarray, captions: Sequence[Caption], columns: int, title: str, note: str) -> Figure:
    """Pictures at their own resolution in one Axes, every one a unit wide, captions below."""
    pictures = _bytes(pictures)
    captions = [(text.replace("_", " "), colour) for text, colour in captions]
    columns = max(1, min(columns, len(pictures)))
    tops, ratio = _tops(pictures, captions, columns), _ratio(pictures)
    width = look.WIDTH - 0.2 if columns > 3 else 2.2 * columns
    unit = width / (columns * STEP)  # inches for the width of one picture
    figure, ax = plt.subplots(
        figsize=(width, tops[-1] * unit + (0.55 if title else 0.1)), layout="constrained"
    )
    longest = max((len(line) for text, _ in captions for line in text.split("\n")), default=0)
    fits = 72 * unit * STEP / (0.66 * max(longest, 1))  # points at which no caption runs into the next
    size = max(5.5, min(8.5, 9.5 * unit, fits))
    for place, (picture, (text, colour)) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % columns * STEP, tops[place // columns]
        ax.imshow(
            picture, extent=(x, x + 1, y + ratio, y), interpolation="none", cmap="gray", vmin=0, vmax=255
        )
        if text:
            ax.text(
                x + 0.5,
                y + ratio + 0.04,
                text,
                ha="center",
                va="top",
                fontsize=size,
                color=look.ink_of(colour),
            )
    ax.set(xlim=(0, columns * STEP - (STEP - 1)), ylim=(tops[-1], 0), aspect="equal")
    ax.set_axis_off()
    if title:
        look.title(ax, title, note)
    return figure


def _tops(pictures: np.ndarray, captions: Sequence[Caption], columns: int) -> np.ndarray:
    """Where each row of pictures with its captions starts, and the last one ends, in widths of a picture."""
    texts = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    lines = [max(text.count("\n") + 1 if text else 0 for text, _ in row) for row in texts]
    return np.cumsum([0, *(_ratio(pictures) + 0.08 + 0.17 * count for count in lines)])


def _ratio(pictures: np.ndarray) -> float:
    return pictures.shape[1] / pictures.shape[2]


def _bytes(pictures: np.ndarray) -> np.ndarray:
    """Pixels as bytes; float images hold 0 to 255, as everywhere in labkit."""
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8:
        pictures = np.rint(pictures.clip(0, 255)).astype(np.uint8)
    return pictures[..., 0] if pictures.shape[-1] == 1 else pictures
