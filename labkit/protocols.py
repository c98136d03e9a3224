"""Which images may do what: the one place where data is split into training, validation and test."""

from dataclasses import dataclass, fields

import numpy as np

from labkit.data import ImageSet, PairStream, mix_pairs, pair_groups
from labkit.errors import DataError, ParameterError, nearest

NOISY_PROTOCOLS = ("honest", "report000", "report001")


@dataclass(frozen=True, eq=False)
class NoisySplit:
    """Parts of a noisy-label set: `noisy` and `unsure` carry given labels, the others true ones.

    What a judge of labels sees, and the test part, carry the given labels as hints beside the true ones.
    """

    protocol: str
    noisy: ImageSet  # Model I trains on these, as labelled
    valid: ImageSet | None  # stops and selects Models I and II
    unsure: ImageSet  # Model II filters or corrects these
    kept: ImageSet  # Model II trains on these with their true labels
    judge_train: ImageSet
    judge_valid: ImageSet | None
    judge_test: ImageSet  # measures how well labels were judged
    test: ImageSet
    leaks: bool  # True where test images reach training
    unseen: ImageSet | None = None  # a test part of the source's own, which no protocol splits

    def parts(self) -> dict[str, ImageSet]:
        """The image sets by name, without the ones a protocol lacks."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, ImageSet)}


def noisy_cifar(images: ImageSet, protocol: str = "honest", *, seed: int = 1, share: float = 1) -> NoisySplit:
    """Split a noisy-label set by protocol; `share` keeps that part of every split, for shorter runs.

    Boundaries scale with the number of known labels K (10,000 in the course's data):

    - `honest`: the first K/2 test; true labels of the next 4K/10 may train, those of the last K/10 validate.
    - `report000`: as that report ran. Its label judge trains on images 0 to 0.81 K, test images among them.
      Model I validates on labels as given, Model II on a tenth of its images, labelled by its judge.
    - `report001`: 8 in 10 of the K images, drawn with `seed`, train; the others test; nothing validates.
    """
    if protocol not in NOISY_PROTOCOLS:
        raise ParameterError(
            f"There is no protocol {protocol!r}.",
            expected=", ".join(NOISY_PROTOCOLS),
            mend=nearest(protocol, NOISY_PROTOCOLS),
        )
    known = _known(images)
    split = {"honest": _honest, "report000": _report000, "report001": _report001}[protocol]
    indices = split(len(images), known, seed)
    empty = [name for name, index in indices.items() if index is not None and not len(index)]
    if empty:
        raise DataError(
            f"{images.source}: {len(images)} images are too few for {protocol!r}; {empty[0]!r} gets none.",
            expected=f"{known // 2 + 10} or more for {known} true labels",
        )
    given = {"noisy", "unsure"} | ({"valid"} if protocol == "report000" else set())
    parts = {name: _part(images, index, share, name, given) for name, index in indices.items()}
    return NoisySplit(protocol=protocol, leaks=protocol == "report000", **parts)


def _known(images: ImageSet) -> int:
    """How many images, from the first on, have a known true label."""
    truth = images.true_labels
    known = 0 if truth is None else int(np.argmin(truth >= 0)) if (truth < 0).any() else len(truth)
    if known < 10 or known == len(images) or (truth[known:] >= 0).any():
        raise DataError(
            f"{images.source}: {known} of {len(images)} images have a true label before one has none.",
            expected="true labels for the first images (10 or more) and for none of the others",
            mend="give clean_labels.csv fewer rows than noisy_labels.csv, starting with the first image",
        )
    return known


def _honest(total: int, known: int, seed: int) -> dict[str, np.ndarray | None]:
    half, nine = known // 2, known * 9 // 10
    clean, valid, unsure = np.arange(half, nine), np.arange(nine, known), np.arange(known, total)
    return {
        "noisy": np.concatenate([clean, unsure]),
        "valid": valid,
        "unsure": unsure,
        "kept": clean,
        "judge_train": clean,
        "judge_valid": valid,
        "judge_test": np.arange(half),
        "test": np.arange(half),
    }


def _report000(total: int, known: int, seed: int) -> dict[str, np.ndarray | None]:
    half, nine = known // 2, known * 9 // 10
    last = total - (total - half) // 10  # Keras' validation_split takes the tail, unshuffled
    return {
        "noisy": np.arange(half, last),
        "valid": np.arange(last, total),
        "unsure": np.arange(known * 7 // 10, total),
        "kept": np.arange(half, known * 7 // 10),
        "judge_train": np.arange(known * 81 // 100),
        "judge_valid": np.arange(known * 81 // 100, nine),
        "judge_test": np.arange(nine, known),
        "test": np.arange(half),
    }


def _report001(total: int, known: int, seed: int) -> dict[str, np.ndarray | None]:
    order = np.random.default_rng(seed).permutation(known)
    clean, test = np.sort(order[: known * 8 // 10]), np.sort(order[known * 8 // 10 :])
    return {
        "noisy": np.concatenate([clean, np.arange(known, total)]),
        "valid": None,
        "unsure": np.arange(known, total),
        "kept": clean,
        "judge_train": clean,
        "judge_valid": None,
        "judge_test": test,
        "test": test,
    }


def _part(images: ImageSet, index: np.ndarray | None, share: float, name: str, given: set) -> ImageSet | None:
    if index is None:
        return None
    part = images.take(_thin(index, share))
    if name in given:
        return part
    seen_by_a_judge = name == "test" or name.startswith("judge")
    return (part.with_hints() if seen_by_a_judge else part).relabel(part.true_labels)


def _thin(index: np.ndarray, share: float) -> np.ndarray:
    """Evenly spaced entries, so that a part made of two ranges keeps both."""
    if not 0 < share <= 1:
        raise ParameterError(f"share is {share!r}.", expected="a number above 0, and 1 at most")
    count = max(1, round(len(index) * share))
    return index[np.arange(count) * len(index) // count]


def animals(images: ImageSet, *, seed: int = 42, share: float = 1) -> tuple[ImageSet, ImageSet]:
    """Training and validation photos: 15 % validate, as in report 002."""
    train, valid = images.split(0.85, 0.15, seed=seed)
    return thin(train, share), thin(valid, share)


def cifar100(images: ImageSet, *, share: float = 1) -> tuple[ImageSet, ImageSet]:
    """The first four fifths train, the last fifth validates: 40,000 and 10,000 as in report 004."""
    cut = len(images) * 4 // 5
    train, valid = images.take(np.arange(cut)), images.take(np.arange(cut, len(images)))
    return thin(train, share), thin(valid, share)


def thin(images: ImageSet, share: float) -> ImageSet:
    """Keep an evenly spaced share of the images, in order."""
    return images if share == 1 else images.take(_thin(np.arange(len(images)), share))


@dataclass(frozen=True, eq=False)
class DualSplit:
    """Two-in-one pairs whose training, validation and test come from disjoint images."""

    train: PairStream  # fresh pairs every epoch
    valid: ImageSet  # fixed pairs
    test: ImageSet  # fixed pairs
    valid_images: tuple[ImageSet, ImageSet]  # what the validation pairs are made of
    test_images: tuple[ImageSet, ImageSet]  # what the test pairs are made of
    test_sides: tuple[np.ndarray, np.ndarray]  # which of them meet in each pair


def dual_cifar(
    images: ImageSet,
    test: ImageSet,
    *,
    groups: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)),
    weight: float = 0.5,
    pairs_per_epoch: int = 44_992,
    fixed_pairs: int = 10_000,
    augment: str | None = None,
    seed: int = 0,
) -> DualSplit:
    """Nine tenths of the images make training pairs, one tenth validation pairs, the test images test pairs.

    The split of the images and both fixed pair lists are the same for every `seed`, so that runs are scored
    on the same pairs; `seed` decides the training pairs alone.
    """
    train, valid = images.split(0.9, 0.1, seed=0, stratify=True)
    valid_halves, halves = pair_groups(valid, groups), pair_groups(test, groups)
    fixed = PairStream(*halves, n=fixed_pairs, weight=weight, seed=2)
    return DualSplit(
        PairStream(*pair_groups(train, groups), pairs_per_epoch, weight, seed, augment),
        mix_pairs(*valid_halves, n=fixed_pairs, weight=weight, seed=1),
        fixed.epoch(0),
        valid_halves,
        halves,
        fixed.plan(0).sides,
    )
