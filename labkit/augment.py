"""Flips, crops, mixup and CutMix in NumPy, smooth labels, and the feeder that draws anew in every epoch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from labkit.data import ImageSet, PairStream
from labkit.errors import ParameterError, nearest

Targets = np.ndarray | dict[str, np.ndarray]


def draw_moves(
    n: int, rng: np.random.Generator, *, pad: int = 2, share: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a flip, a shift down and a shift right for each of n images."""
    flips = rng.random(n) < 0.5
    shifts = rng.integers(-pad, pad + 1, size=(2, n))
    if share < 1:
        touched = rng.random(n) < share
        flips &= touched
        shifts *= touched
    return flips, shifts[0], shifts[1]


def moved(x: np.ndarray, flips: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Flip some images, then shift each over a black frame."""
    n, height, width, channels = x.shape
    pad = int(max(np.abs(down).max(initial=0), np.abs(right).max(initial=0)))
    padded = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), x.dtype)
    padded[:, pad : pad + height, pad : pad + width] = x
    padded[flips] = padded[flips, :, ::-1]
    rows = padded.reshape(n, height + 2 * pad, -1)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (height, width * channels), axis=(1, 2))
    return windows[np.arange(n), pad - down, (pad - right) * channels].reshape(x.shape)


def basic(
    x: np.ndarray, y: Targets, rng: np.random.Generator, *, pad: int = 2, share: float = 1.0
) -> tuple[np.ndarray, Targets]:
    """Flip half of the images and crop each out of a black frame; `share` is the part that is touched."""
    return moved(x, *draw_moves(len(x), rng, pad=pad, share=share)), y


def mixup(
    x: np.ndarray,
    y: Targets,
    rng: np.random.Generator,
    *,
    alpha: float = 0.2,
    partners: tuple[np.ndarray, Targets] | None = None,
) -> tuple[np.ndarray, Targets]:
    """Blend images and labels with a partner's, by default of the batch (Zhang 2018, arXiv:1710.09412)."""
    other_x, other_y = _partners(x, y, rng, partners)
    share = _shares(alpha, len(x), rng).astype(np.float32)
    return _blend(x, other_x, share), _blend_targets(y, other_y, share)


def cutmix(
    x: np.ndarray,
    y: Targets,
    rng: np.random.Generator,
    *,
    alpha: float = 0.25,
    partners: tuple[np.ndarray, Targets] | None = None,
) -> tuple[np.ndarray, Targets]:
    """Paste a partner's box into each image; labels follow the area (Yun 2019, arXiv:1905.04899)."""
    n, height, width = x.shape[:3]
    other_x, other_y = _partners(x, y, rng, partners)
    side = np.sqrt(1 - _shares(alpha, n, rng))
    rows = _interval(side, height, rng)
    columns = _interval(side, width, rng)
    box = rows[:, :, None] & columns[:, None, :]
    kept = 1 - box.mean(axis=(1, 2), dtype=np.float32)
    return np.where(box[..., None], other_x, x), _blend_targets(y, other_y, kept)


def basic_cutmix(
    x: np.ndarray, y: Targets, rng: np.random.Generator, **options: Any
) -> tuple[np.ndarray, Targets]:
    """Flip and shift each image, then paste a partner's box into it."""
    return cutmix(*basic(x, y, rng), rng, **options)


def cutmix_unit(
    x: np.ndarray, y: Targets, rng: np.random.Generator, **options: Any
) -> tuple[np.ndarray, Targets]:
    """CutMix with pixels from 0 to 1, a slip of report 004: its models, as all here, expect 0 to 255."""
    x, y = cutmix(x, y, rng, **options)
    return x.astype(np.float32) / 255, y


def smooth(one_hot: np.ndarray, amount: float) -> np.ndarray:
    """Spread a part of each label evenly over all classes (Szegedy 2016, arXiv:1512.00567)."""
    if not 0 <= amount <= 1:
        raise ParameterError(f"smoothing of {amount}", expected="a number from 0 to 1")
    one_hot = np.asarray(one_hot)
    return one_hot * (1 - amount) + amount / one_hot.shape[-1]


def _shares(alpha: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """How much of each of n images stays; the smaller alpha, the nearer to all or nothing."""
    if not 0 < alpha < np.inf:
        raise ParameterError(f"alpha={alpha}", expected="a number above 0, such as 0.2")
    return rng.beta(alpha, alpha, size=n)


def _interval(side: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Mark a stretch of the given relative length around a centre drawn anywhere, cut at the borders."""
    half = side * length / 2
    centre = rng.random(len(side)) * length
    start, end = np.rint(centre - half), np.rint(centre + half)
    place = np.arange(length)
    return (place >= start[:, None]) & (place < end[:, None])


def _partners(
    x: np.ndarray, y: Targets, rng: np.random.Generator, partners: tuple[np.ndarray, Targets] | None
) -> tuple[np.ndarray, Targets]:
    if partners is not None:
        return partners
    order = rng.permutation(len(x))
    return x[order], _each(lambda targets: targets[order], y)


def _each(change: Callable[..., np.ndarray], y: Targets, *others: Targets) -> Targets:
    if isinstance(y, dict):
        return {head: change(y[head], *(other[head] for other in others)) for head in y}
    return change(y, *others)


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share.reshape(-1, *[1] * (a.ndim - 1))
    mixed = a * share
    mixed += b * (1 - share)
    return mixed


def _blend_targets(y: Targets, other: Targets, share: np.ndarray) -> Targets:
    return _each(lambda a, b: _blend(a, b, share), y, other)


# The first word of every seed, so that no two uses of one seed share random numbers.
_ORDER, _SECOND_ORDER, _AUGMENT = 1, 2, 3

_AUGMENTATIONS = {
    "basic": basic,
    "mixup": mixup,
    "cutmix": cutmix,
    "basic_cutmix": basic_cutmix,
    "cutmix_unit": cutmix_unit,
}
NAMES = tuple(_AUGMENTATIONS)


def get(name: str) -> Callable[..., tuple[np.ndarray, Targets]]:
    """Look an augmentation up by name."""
    if name not in _AUGMENTATIONS:
        raise ParameterError(
            f"no augmentation is called {name!r}",
            expected=f"one of {', '.join(NAMES)}",
            mend=nearest(name, NAMES),
        )
    return _AUGMENTATIONS[name]


class Batches(keras.utils.PyDataset):
    """Feed batches of images and one-hot labels, each a function of seed, epoch and batch number.

    Keras ends an epoch once before it begins the first, so a training loop sets `epoch` itself.
    """

    def __init__(
        self,
        images: ImageSet | PairStream,
        batch_size: int,
        *,
        seed: int,
        augment: str | None = None,
        shuffle: bool = True,
        label_smoothing: float = 0.0,
        targets: np.ndarray | None = None,
        first_epoch: int = 0,
        partners: str = "batch",
    ):
        super().__init__(workers=1)
        if batch_size < 1 or not len(images) or seed < 0:
            raise ParameterError(
                f"batches of {batch_size} from {len(images)} images with seed {seed}",
                expected="at least one image in a batch, and a seed from 0",
            )
        if targets is not None and np.shape(targets) != (len(images), len(images.classes)):
            raise ParameterError(
                f"targets of shape {np.shape(targets)} for {len(images)} images",
                expected="a row an image with a column a class, for a set with one head",
            )
        if partners not in ("batch", "shuffle"):
            raise ParameterError(f"partners={partners!r}", expected="'batch' or 'shuffle'")
        self.images, self.batch_size, self.seed, self.shuffle = images, batch_size, seed, shuffle
        self.augment = None if augment is None else get(augment)
        self.epoch = first_epoch
        self._second_shuffle = partners == "shuffle" and augment in ("mixup", "cutmix")
        self._rows = _target_rows(images, label_smoothing)
        self._targets = None if targets is None else smooth(np.asarray(targets, np.float32), label_smoothing)
        self._planned: tuple[int | None, Any] = (None, None)

    def __len__(self) -> int:
        """Count the batches of one epoch, a shorter last one included."""
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        """Make one batch of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        span = slice(index * self.batch_size, (index + 1) * self.batch_size)
        orders, draw = self._plan()
        x, y = draw(orders[0][span])
        if self.augment is not None:
            rng = np.random.default_rng((_AUGMENT, self.seed, self.epoch, index))
            options = {"partners": draw(orders[1][span])} if self._second_shuffle else {}
            x, y = self.augment(x, y, rng, **options)
        if self._hinted:
            y = dict(y)
            x = {"image": x, "label": y.pop("hint")}
            y = y["label"]
        return x, y

    def on_epoch_end(self) -> None:
        """Move on to the next epoch's order and draws."""
        self.epoch += 1

    @property
    def _hinted(self) -> bool:
        return isinstance(self.images, ImageSet) and self.images.hints is not None

    def _plan(self) -> tuple[tuple[np.ndarray, ...], Callable]:
        """Draw an epoch's order once; every batch of it comes from the same plan."""
        if self._planned[0] != self.epoch:
            self._planned = self.epoch, self._new_plan(self.epoch)
        return self._planned[1]

    def _new_plan(self, epoch: int) -> tuple[tuple[np.ndarray, ...], Callable]:
        in_turn = np.arange(len(self.images))
        orders = (np.random.default_rng((use, self.seed, epoch)) for use in (_ORDER, _SECOND_ORDER))
        first, second = (rng.permutation(len(self.images)) for rng in orders)
        if isinstance(self.images, PairStream):
            plan = self.images.plan(epoch)
            return (in_turn, second), lambda index: self._pairs(plan, index)
        return (first if self.shuffle else in_turn, second), self._fixed

    def _pairs(self, plan: Any, index: np.ndarray) -> tuple[np.ndarray, Targets]:
        x, labels = plan.batch(index)
        return x, {head: self._rows[head][labels[head]] for head in labels}

    def _fixed(self, index: np.ndarray) -> tuple[np.ndarray, Targets]:
        x, labels = self.images.images[index], self.images.labels
        if self.images.two_headed:
            return x, {head: self._rows[head][labels[head][index]] for head in labels}
        y = self._rows[labels[index]] if self._targets is None else self._targets[index]
        if not self._hinted:
            return x, y
        hints = np.eye(len(self.images.classes), dtype=np.float32)[self.images.hints[index]]
        return x, {"label": y, "hint": hints}


def _target_rows(images: ImageSet | PairStream, smoothing: float) -> Targets:
    """Make the one-hot row of each class, smoothed as asked."""
    if images.two_headed:
        return {head: _rows_of(len(names), smoothing) for head, names in images.classes.items()}
    return _rows_of(len(images.classes), smoothing)


def _rows_of(k: int, smoothing: float) -> np.ndarray:
    return smooth(np.eye(k, dtype=np.float32), smoothing)
