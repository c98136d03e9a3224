"""Numbers from class probabilities: accuracy, reports, confusion, calibration and honest intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from labkit.errors import DataError

Sides = tuple[np.ndarray, np.ndarray]  # the first and the second image of each pair, by number
BINS = 15  # of the reliability diagram, as in Guo 2017


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities for labelled images, and every figure that follows from them."""

    probabilities: np.ndarray  # (n, classes), each row sums to one
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str = "unknown source"
    fingerprint: str = ""  # of the images

    def __post_init__(self):
        probabilities, labels = np.asarray(self.probabilities, np.float64), np.asarray(self.labels)
        _check(probabilities, labels, len(self.classes))
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"Predictions({len(self)} images, {len(self.classes)} classes, "
            f"accuracy {self.accuracy:.4f}, {self.source})"
        )

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image."""
        return self.probabilities.argmax(1)

    @cached_property
    def right(self) -> np.ndarray:
        """True where the most probable class is the label."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the label."""
        return float(self.right.mean())

    def top(self, k: int) -> float:
        """Share of images whose label is among the k most probable classes."""
        own = self.probabilities[np.arange(len(self)), self.labels][:, None]
        earlier = (
            np.arange(len(self.classes)) < self.labels[:, None]
        )  # ties go to the lower class, as in argmax
        rank = ((self.probabilities > own) | ((self.probabilities == own) & earlier)).sum(1)
        return float((rank < k).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats, without any penalty on weights."""
        own = self.probabilities[np.arange(len(self)), self.labels]
        return float(-np.log(np.maximum(own, 1e-12)).mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The Wilson interval of the accuracy, for images drawn independently."""
        return wilson(self.accuracy, len(self), level)

    def against(self, labels: np.ndarray) -> "Predictions":
        """The same predictions, scored by other labels."""
        return replace(self, labels=labels)

    def confusion(self) -> np.ndarray:
        """Counts of images by label (row) and most probable class (column)."""
        k = len(self.classes)
        return np.bincount(self.labels * k + self.predicted, minlength=k * k).reshape(k, k)

    def report(self) -> pd.DataFrame:
        """Precision, recall, F1 and number of images of every class."""
        columns = precision_recall_fscore_support(
            self.labels, self.predicted, labels=range(len(self.classes)), zero_division=0
        )
        names = ("precision", "recall", "f1", "support")
        table = pd.DataFrame(
            dict(zip(names, columns, strict=True)), index=pd.Index(self.classes, name="class")
        )
        return table.astype({"support": int})

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur among labels or predictions."""
        occurs = np.union1d(self.labels, self.predicted)
        return float(self.report()["f1"].to_numpy()[occurs].mean())

    def reliability(self, bins: int = BINS) -> pd.DataFrame:
        """Mean confidence and accuracy of the images in equal steps of confidence."""
        confidence = self.probabilities.max(1)
        place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        count = np.bincount(place, minlength=bins)
        with np.errstate(invalid="ignore"):
            means = [np.bincount(place, values, bins) / count for values in (confidence, self.right)]
        edges = np.linspace(0, 1, bins + 1)
        return pd.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "count": count,
                "confidence": means[0],
                "accuracy": means[1],
            }
        )

    def ece(self, bins: int = BINS) -> float:
        """Expected calibration error, how far confidence is from accuracy (Guo 2017, arXiv:1706.04599)."""
        table = self.reliability(bins)
        gap = (table["confidence"] - table["accuracy"]).abs().fillna(0)
        return float((gap * table["count"]).sum() / len(self))

    def worst(self, n: int = 9) -> pd.DataFrame:
        """The n mistakes made with the highest confidence, the most confident first."""
        wrong = np.flatnonzero(~self.right)
        confidence = self.probabilities.max(1)
        index = wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
        names = np.array(self.classes, object)
        return pd.DataFrame(
            {
                "index": index,
                "true": names[self.labels[index]],
                "predicted": names[self.predicted[index]],
                "confidence": confidence[index],
                "true_probability": self.probabilities[index, self.labels[index]],
            }
        )

    def confused_pairs(self, n: int = 10) -> pd.DataFrame:
        """The n most frequent mistakes as pairs of true and predicted class."""
        return confused_pairs(self.confusion(), self.classes, n)

    def summary(self) -> dict:
        """Everything a results figure needs, as plain numbers for a record."""
        reliability = self.reliability().astype(object)
        return {
            "n": len(self),
            "accuracy": self.accuracy,
            "interval": list(self.interval()),
            "top5": self.top(5) if len(self.classes) > 5 else None,
            "loss": self.loss,
            "macro_f1": self.macro_f1,
            "ece": self.ece(),
            "classes": list(self.classes),
            "confusion": self.confusion().tolist(),
            "per_class": {name: column.tolist() for name, column in self.report().round(6).items()},
            "reliability": {
                name: column.where(column.notna(), None).tolist() for name, column in reliability.items()
            },
            "source": self.source,
            "fingerprint": self.fingerprint,
        }


class Heads(dict[str, Predictions]):
    """Predictions of a two-headed model by head, and what only both together can say.

    `sides` says which images met in each pair. Without it every pair is taken for independent of the others,
    and the interval is too narrow.
    """

    def __init__(self, heads: Mapping[str, Predictions], sides: Sides | None = None):
        """Keep the predictions of each head, of the same pairs in the same order."""
        super().__init__(heads)
        self.sides = sides

    @property
    def right(self) -> np.ndarray:
        """True where a head names its class, one column a head."""
        return np.stack([head.right for head in self.values()], axis=1)

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over the heads."""
        return float(self.right.mean())

    @property
    def both_right(self) -> float:
        """Share of pairs of which every head names its class."""
        return float(self.right.all(1).mean())

    @property
    def macro_f1(self) -> float:
        """Macro F1 averaged over the heads."""
        return float(np.mean([head.macro_f1 for head in self.values()]))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean accuracy, which knows that images recur where `sides` says so."""
        sides = self.sides or (np.arange(len(self.right)),) * 2
        return pair_interval(self.right.mean(1), sides, level)

    def summary(self) -> dict:
        """Everything a results figure needs: the figures of both heads together, and of each."""
        first = next(iter(self.values()))
        return {
            "n": len(first),
            "accuracy": self.mean_accuracy,
            "interval": list(self.interval()),
            "interval_clustered": self.sides is not None,
            "both_right": self.both_right,
            "macro_f1": self.macro_f1,
            "source": first.source,
            "fingerprint": first.fingerprint,
            "heads": {name: head.summary() for name, head in self.items()},
        }


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one figure over runs that differ in their seed alone."""

    mean: float
    deviation: float  # not a number for a single run
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if self.seeds == 1:
            return f"{self.mean:.4f} (1 seed)"
        return f"{self.mean:.4f} ± {self.deviation:.4f} ({self.seeds} seeds)"


def spread(values: Sequence[float]) -> Spread:
    """The spread of one figure over seeds."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise DataError(
            f"A spread needs one value a seed, got shape {values.shape}.", expected="a list of numbers"
        )
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(values.mean()), deviation, float(values.min()), float(values.max()), len(values))


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of n independent trials (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def pair_interval(right: np.ndarray, sides: Sides, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean over pairs that share images; `sides` are the first and second image of each pair.

    Pairs with an image in common are not independent, so the variance is the one clustered by first image,
    plus that by second image, minus that by pair (Cameron 2011, J. Bus. Econ. Stat. 29:238). It gives the
    number of independent trials worth as much, and Wilson's interval for that number.
    """
    right = np.asarray(right, float)
    if [np.shape(side) for side in sides] != [right.shape, right.shape]:
        raise DataError(
            f"The images of {len(right)} pairs came in arrays of shape {[np.shape(side) for side in sides]}.",
            expected=f"two arrays of {len(right)} image numbers",
        )
    pairs = np.stack(sides, axis=1)
    share = float(right.mean())
    both = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    variances = [_clustered(right - share, clusters) for clusters in (pairs[:, 0], pairs[:, 1], both)]
    variance = max(variances[0] + variances[1] - variances[2], variances[2])
    return wilson(share, share * (1 - share) / variance if variance > 0 else len(right), level)


def _clustered(residuals: np.ndarray, clusters: np.ndarray) -> float:
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1], residuals)
    return float((sums**2).sum() / len(residuals) ** 2)


def confused_pairs(confusion: np.ndarray, classes: Sequence[str], n: int = 10) -> pd.DataFrame:
    """The n largest counts off the diagonal of a confusion matrix, and their share of the true class."""
    confusion = np.asarray(confusion)
    off = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-off, axis=None, kind="stable")[:n]
    true, predicted = np.unravel_index(order[off.ravel()[order] > 0], off.shape)
    names = np.array(classes, object)
    count = off[true, predicted]
    return pd.DataFrame(
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": count,
            "rate": count / confusion.sum(1)[true],
        }
    )


def merge(confusion: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """The confusion matrix between groups of classes; `groups` holds the group of each class."""
    confusion, groups = np.asarray(confusion), np.asarray(groups)
    if groups.shape != confusion.shape[:1]:
        raise DataError(
            f"{len(confusion)} classes need as many group numbers, got {groups.size}.",
            expected="the group of each class, counted from 0",
        )
    member = np.eye(groups.max() + 1, dtype=confusion.dtype)[groups]
    return member.T @ confusion @ member


def superclass_accuracy(confusion: np.ndarray, groups: Sequence[int]) -> float:
    """Share of images whose predicted class lies in the group of the true one."""
    merged = merge(confusion, groups)
    return float(np.trace(merged) / merged.sum())


def per_class_table(summary: Mapping) -> pd.DataFrame:
    """The per-class report kept in a summary, as `Predictions.report` gives it."""
    return pd.DataFrame(summary["per_class"], index=pd.Index(summary["classes"], name="class"))


def _check(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != classes or not len(probabilities):
        raise DataError(
            f"Probabilities of shape {probabilities.shape} do not fit {classes} classes.",
            expected=f"one row an image, {classes} columns",
        )
    if labels.shape != probabilities.shape[:1]:
        raise DataError(
            f"{len(probabilities)} rows of probabilities came with labels of shape {labels.shape}."
        )
    bad = ~np.isfinite(probabilities).all(1) | (abs(probabilities.sum(1) - 1) > 1e-3)
    if bad.any():
        raise DataError(
            f"{bad.sum()} of {len(bad)} rows are not probabilities, the first is row {bad.argmax()}.",
            expected="finite numbers that sum to 1",
            mend="a model that gives NaN diverged: train it at a lower rate",
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"Labels run from {labels.min()} to {labels.max()}.",
            expected=f"0 to {classes - 1}",
            mend="leave out images without a known label before predicting",
        )
