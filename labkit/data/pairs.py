"""Two images in one: averaged pairs with a label for each of the two."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labkit.data.image_set import HEADS, ImageSet
from labkit.errors import DataError, ParameterError, check_seed


def pair_groups(
    images: ImageSet, groups: Sequence[Sequence[int]] = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
) -> tuple[ImageSet, ImageSet]:
    """Part a set into two by class; labels count from 0 within each group."""
    k = len(images.classes)
    chosen = [label for group in groups for label in group]
    if len(groups) != 2 or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(k)):
        raise DataError(
            f"groups {groups} of {k} classes", expected=f"two lists of labels from 0 to {k - 1}, none twice"
        )
    parts = []
    for group in groups:
        place = np.full(k, -1)
        place[list(group)] = np.arange(len(group))
        inside = place[images.labels] >= 0
        names = tuple(images.classes[label] for label in group)
        parts.append(ImageSet(images.images[inside], place[images.labels[inside]], names, images.source))
    return parts[0], parts[1]


@dataclass(frozen=True, eq=False)
class PairStream:
    """Averaged pairs, n fresh ones every epoch, each epoch a function of seed and its number."""

    first: ImageSet
    second: ImageSet
    n: int
    weight: float = 0.5
    seed: int = 0
    augment: str | None = None

    def __post_init__(self):
        """Check the two halves before any epoch is drawn."""
        check_seed(self.seed)
        if not len(self.first) or not len(self.second):
            raise DataError(
                "nothing to pair: one of the two sets is empty", expected="at least one image in each"
            )
        if self.first.images.shape[1:] != self.second.images.shape[1:]:
            raise DataError(
                f"sizes {self.first.images.shape[1:]} and {self.second.images.shape[1:]} cannot be averaged",
                expected="two sets of one size",
            )
        if self.first.two_headed or self.second.two_headed:
            raise DataError("a pair of pairs", expected="two sets with one label an image")
        if not 0 < self.weight < 1 or self.n < 0:
            raise DataError(
                f"weight {self.weight} and {self.n} pairs",
                expected="a weight between 0 and 1 and no negative number",
            )
        if self.augment not in (None, "basic"):
            raise ParameterError(
                f"{self.augment!r} cannot be applied to one image by itself", expected="'basic' or None"
            )

    def __len__(self) -> int:
        """Count the pairs of one epoch."""
        return self.n

    @property
    def two_headed(self) -> bool:
        """Tell that each image carries two labels."""
        return True

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Name the classes of both heads."""
        return {HEADS[0]: self.first.classes, HEADS[1]: self.second.classes}

    @property
    def source(self) -> str:
        """Say where the images come from."""
        origin = dict.fromkeys((self.first.source, self.second.source))
        return f"pairs of {' and '.join(origin)}"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Give height, width and channels."""
        return self.first.images.shape[1:]

    def fingerprint(self) -> str:
        """Give a sha-256 that changes with the images, the number of pairs, weight, seed and augmentation."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = (
            self.first.fingerprint(),
            self.second.fingerprint(),
            self.n,
            float(self.weight),
            self.seed,
            self.augment,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def plan(self, epoch: int) -> "PairPlan":
        """Draw which images meet in an epoch, and how each is augmented, without mixing them yet."""
        rng = np.random.default_rng((self.seed, epoch))
        sides = tuple(rng.integers(len(part), size=self.n) for part in (self.first, self.second))
        return PairPlan(self, sides, tuple(self._moves(rng) for _ in sides))

    def _moves(self, rng: np.random.Generator) -> "tuple | None":
        if self.augment is None:
            return None
        from labkit import augment  # needs Keras, which reading and mixing images does not

        return augment.draw_moves(self.n, rng)

    def epoch(self, k: int) -> ImageSet:
        """Mix all pairs of one epoch."""
        images, labels = self.plan(k).batch(np.arange(self.n))
        return ImageSet(images, labels, self.classes, self.source)


@dataclass(frozen=True, eq=False)
class PairPlan:
    """The pairs of one epoch, ready to be mixed batch by batch."""

    stream: PairStream
    sides: tuple[np.ndarray, np.ndarray]
    moves: tuple

    def batch(self, index: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Mix the pairs at these positions: their images and the labels of both heads."""
        parts = (self.stream.first, self.stream.second)
        halves, labels = [], {}
        for head, part, side, moves in zip(HEADS, parts, self.sides, self.moves, strict=True):
            pixels = part.images[side[index]]
            if moves is not None:
                from labkit import augment

                pixels = augment.moved(pixels, *(move[index] for move in moves))
            halves.append(pixels)
            labels[head] = part.labels[side[index]]
        return average(*halves, weight=self.stream.weight), labels


def mix_pairs(first: ImageSet, second: ImageSet, *, n: int, weight: float = 0.5, seed: int) -> ImageSet:
    """Mix a fixed list of n pairs, for validation and test."""
    return PairStream(first, second, n, weight=weight, seed=seed).epoch(0)


def average(first: np.ndarray, second: np.ndarray, *, weight: float = 0.5) -> np.ndarray:
    """Blend two stacks of uint8 images, rounding halves to even so that the mean keeps its level."""
    if weight == 0.5:
        halves = (first >> 1) + (second >> 1) + (first & second & 1)
        halves += (first ^ second) & halves & 1
        return halves
    blend = first * np.float32(weight)
    blend += second * np.float32(1 - weight)
    return np.rint(blend, out=blend).astype(np.uint8)
