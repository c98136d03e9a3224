"""The one shape every image set has: images, labels, classes, and where they came from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labkit.errors import DataError, check_seed

HEADS = ("first", "second")

Labels = np.ndarray | dict[str, np.ndarray]
Classes = tuple[str, ...] | dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with their labels, classes and origin; read-only, as is then the array of images given.

    Given a view of memory that can be written to, it keeps a copy.
    """

    images: np.ndarray
    labels: Labels
    classes: Classes
    source: str
    true_labels: np.ndarray | None = None  # -1 where the truth is unknown; None when labels are the truth
    hints: np.ndarray | None = None  # a label the model may see beside the image

    def __post_init__(self):
        """Check that all parts fit together and lock them."""
        images = _locked(_checked_images(self.images))
        heads = isinstance(self.labels, dict)
        if heads != isinstance(self.classes, dict) or (heads and self.labels.keys() != self.classes.keys()):
            raise DataError(
                "labels and classes do not name the same heads",
                expected="two arrays of labels with two lists of classes, or one of each",
            )
        if heads:
            labels = {head: self._labels(head, self.labels[head], self.classes[head]) for head in self.labels}
            classes = {head: tuple(map(str, names)) for head, names in self.classes.items()}
        else:
            labels = self._labels("labels", self.labels, self.classes)
            classes = tuple(map(str, self.classes))
        fields = {"images": images, "labels": labels, "classes": classes}
        for name, lowest in (("true_labels", -1), ("hints", 0)):
            if (values := getattr(self, name)) is not None:
                if heads:
                    raise DataError(f"{name} given with two heads", expected="one array of labels")
                fields[name] = self._labels(name, values, classes, lowest)
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _labels(self, name: str, values: np.ndarray, classes: Sequence[str], lowest: int = 0) -> np.ndarray:
        return _locked(checked_labels(name, values, n=len(self.images), k=len(classes), lowest=lowest))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Show size, classes, balance and source on one line."""
        height, width, channels = self.images.shape[1:]
        parts = [f"{len(self):,} images of {height}x{width}x{channels}"]
        if self.two_headed:
            parts.append(
                f"heads of {' and '.join(str(len(names)) for names in self.classes.values())} classes"
            )
        else:
            parts += [f"{len(self.classes)} classes", _balance(self.counts())]
        if self.true_labels is not None:
            parts.append(f"true labels known for {np.count_nonzero(self.true_labels >= 0):,}")
        if self.hints is not None:
            parts.append("with hints")
        return f"ImageSet({', '.join(parts)}, source={self.source!r})"

    @property
    def two_headed(self) -> bool:
        """Tell whether each image carries two labels."""
        return isinstance(self.labels, dict)

    def counts(self) -> Labels:
        """Count the images of each class, for each head where there are two."""
        if self.two_headed:
            return {
                head: np.bincount(self.labels[head], minlength=len(self.classes[head]))
                for head in self.labels
            }
        return np.bincount(self.labels, minlength=len(self.classes))

    def take(self, index: np.ndarray | slice | Sequence[int]) -> "ImageSet":
        """Pick images by position, by slice or by mask, in the order given."""
        index = self._positions(index)
        labels = (
            {head: values[index] for head, values in self.labels.items()}
            if self.two_headed
            else self.labels[index]
        )
        return replace(
            self,
            images=self.images[index],
            labels=labels,
            true_labels=None if self.true_labels is None else self.true_labels[index],
            hints=None if self.hints is None else self.hints[index],
        )

    def _positions(self, index: np.ndarray | slice | Sequence[int]) -> np.ndarray | slice:
        if isinstance(index, slice):
            return index
        index = np.asarray(index)
        if index.size == 0:
            return index.astype(np.int64).reshape(0)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise DataError(
                    f"a mask of shape {index.shape} for {len(self)} images", expected="one value an image"
                )
            return np.flatnonzero(index)
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise DataError(
                f"cannot take images by {index.dtype} of shape {index.shape}",
                expected="a list of positions, a slice or a mask",
            )
        if index.min() < -len(self) or index.max() >= len(self):
            worst = index.max() if index.max() >= len(self) else index.min()
            raise DataError(
                f"position {worst} of {len(self)} images", expected=f"positions below {len(self)}"
            )
        return index

    def split(self, *parts: float, seed: int, stratify: bool = False) -> tuple["ImageSet", ...]:
        """Draw disjoint parts, given as sizes (int) or fractions (float); each keeps this set's order."""
        check_seed(seed)
        sizes = _sizes(parts, len(self))
        order = (
            self._stratified_order(seed) if stratify else np.random.default_rng(seed).permutation(len(self))
        )
        ends = np.cumsum(sizes)
        return tuple(
            self.take(np.sort(order[end - size : end])) for size, end in zip(sizes, ends, strict=True)
        )

    def _stratified_order(self, seed: int) -> np.ndarray:
        """Order the images so that every stretch has nearly the class shares of the whole."""
        rng = np.random.default_rng(seed)
        if self.two_headed:
            first, second = self.labels.values()
            groups = first * (int(second.max(initial=0)) + 1) + second
        else:
            groups = self.labels
        shuffled = rng.permutation(len(self))
        by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
        _, starts, counts = np.unique(groups[by_group], return_index=True, return_counts=True)
        rank = np.arange(len(self)) - np.repeat(starts, counts)
        # An offset a class keeps the classes from taking turns in the same order within every stretch.
        offset = np.repeat(rng.random(len(counts)), counts)
        return by_group[np.argsort((rank + offset) / np.repeat(counts, counts), kind="stable")]

    def relabel(self, labels: Labels) -> "ImageSet":
        """Give the images other labels; labels that were the truth stay known as `true_labels`."""
        truth = self.labels if self.true_labels is None and not self.two_headed else self.true_labels
        return replace(self, labels=labels, true_labels=truth)

    def with_hints(self, labels: np.ndarray | None = None) -> "ImageSet":
        """Let the model see a label beside the image: those given, or the set's own labels."""
        return replace(self, hints=self.labels if labels is None else labels)

    def fingerprint(self) -> str:
        """Give the sha-256 of shapes, types, contents and classes; the source is not part of it."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.classes, ensure_ascii=True, sort_keys=True).encode())
        arrays = {"images": self.images, "true_labels": self.true_labels, "hints": self.hints}
        arrays |= self.labels if self.two_headed else {"labels": self.labels}
        for name, values in sorted(arrays.items()):
            if values is not None:
                portable = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
                digest.update(f"{name} {values.dtype.name} {values.shape};".encode())
                digest.update(portable.reshape(-1).view(np.uint8))
        return digest.hexdigest()


def checked_labels(name: str, values: np.ndarray, *, n: int, k: int, lowest: int = 0) -> np.ndarray:
    """Return labels as int64 after checking their number and range."""
    values = np.asarray(values)
    if values.shape != (n,):
        raise DataError(f"{name} of shape {values.shape} for {n} images", expected="one label an image")
    if n and not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{name} of type {values.dtype}", expected="whole numbers")
    values = values.astype(np.int64)
    wrong = np.flatnonzero((values < lowest) | (values >= k))
    if wrong.size:
        raise DataError(
            f"{name}[{wrong[0]}] is {values[wrong[0]]}, and {wrong.size} of {n} are out of range",
            expected=f"whole numbers from {lowest} to {k - 1}",
        )
    return values


def _checked_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"images of type {images.dtype} and shape {images.shape}",
            expected="uint8 of shape (number, height, width, channels)",
        )
    return images


def _locked(values: np.ndarray) -> np.ndarray:
    """Make an array read-only, for its owner too; one whose memory others can write to is copied."""
    if not values.flags.owndata and not _is_fixed(values):
        values = values.copy()
    values.flags.writeable = False
    return values.view()


def _is_fixed(values: np.ndarray) -> bool:
    """Tell whether nothing that an array lies in can be written to, such as a cache's mapped file."""
    while isinstance(values, np.ndarray):
        if values.flags.writeable:
            return False
        if values.flags.owndata:
            return True
        values = values.base
    try:
        return memoryview(values).readonly
    except TypeError:  # it does not say
        return False


def _sizes(parts: tuple[float, ...], n: int) -> list[int]:
    if not parts or any(isinstance(part, bool) or not part >= 0 for part in parts):
        raise DataError(
            f"cannot split into {parts}", expected="sizes such as 45000, 5000 or fractions such as 0.9, 0.1"
        )
    fractions = [isinstance(part, float | np.floating) for part in parts]
    if any(fractions) and not all(fractions):
        raise DataError(f"sizes and fractions mixed in {parts}", expected="either all sizes or all fractions")
    if all(fractions):
        if sum(parts) > 1 + 1e-9:
            raise DataError(f"fractions {parts} sum to {sum(parts):g}", expected="at most 1")
        ends = np.rint(np.cumsum(parts) * n).astype(int)
        return np.diff(ends, prepend=0).tolist()
    if sum(parts) > n:
        raise DataError(
            f"parts of {parts} need {sum(parts):,} images, and there are {n:,}",
            expected=f"at most {n:,} together",
        )
    return [int(part) for part in parts]


def _balance(counts: np.ndarray) -> str:
    if counts.size == 0:
        return "none a class"
    low, high = counts.min(), counts.max()
    return f"{low:,} a class" if low == high else f"{low:,} to {high:,} a class"


def join(*sets: ImageSet) -> ImageSet:
    """Put sets in a row; where one knows true labels, the labels of the others count as true."""
    kinds = {(part.images.shape[1:], json.dumps(part.classes), part.hints is None) for part in sets}
    if len(kinds) != 1 or sets[0].two_headed:
        raise DataError(
            "these image sets cannot be joined: " + "; ".join(map(repr, sets)),
            expected="sets with one head, images of one size, the same classes, and hints in all or none",
        )
    truths = [part.labels if part.true_labels is None else part.true_labels for part in sets]
    return ImageSet(
        np.concatenate([part.images for part in sets]),
        np.concatenate([part.labels for part in sets]),
        sets[0].classes,
        " + ".join(dict.fromkeys(part.source for part in sets)),
        true_labels=None if all(part.true_labels is None for part in sets) else np.concatenate(truths),
        hints=None if sets[0].hints is None else np.concatenate([part.hints for part in sets]),
    )
