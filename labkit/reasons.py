"""Why an image may have been mistaken: report 004's four reasons as rules that can be counted.

The report looks at mistakes and names reasons. A rule only explains mistakes if it holds for them more often
than for right answers, so every rule is asked about both: of a mistake, whether the predicted class had that
advantage over the label's; of a right answer, whether the runner-up had it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labkit.predictions import Predictions

if TYPE_CHECKING:
    from labkit.data import ImageSet

RULES = {
    "resolution": "the image shows less detail than four in five training images",
    "similar features": "both classes belong to one superclass",
    "colour": "its colours are more like the rival class's than like its own",
    "background": "its outer frame is more like the rival class's, its middle is not",
}
_LEVELS = 4  # steps of each colour channel: 64 colours
_FRAME = 6  # pixels on every side of 32


def rivals(predictions: Predictions) -> np.ndarray:
    """The class each image was, or almost was, mistaken for: the most probable one that is not its label."""
    others = predictions.probabilities.copy()
    others[np.arange(len(others)), predictions.labels] = -1
    return others.argmax(1)


def reasons(
    predictions: Predictions, images: "ImageSet", reference: "ImageSet", groups: Sequence[int] | None = None
) -> pd.DataFrame:
    """Which rules hold for each image, given typical images and each class's superclass."""
    rival, label = rivals(predictions), predictions.labels
    outer = _nearer_rival(images, reference, label, rival, middle=False)
    inner = _nearer_rival(images, reference, label, rival, middle=True)
    same_group = np.zeros(len(label), bool)
    if groups is not None:
        same_group = np.asarray(groups)[label] == np.asarray(groups)[rival]
    low = np.quantile(detail(reference.images), 0.2)
    return pd.DataFrame(
        {
            "right": predictions.right,
            "resolution": detail(images.images) < low,
            "similar features": same_group,
            "colour": outer & inner,
            "background": outer & ~inner,
        }
    )


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each rule holds, in a form that a run's record can keep."""

    shares: pd.DataFrame  # one row a rule
    accuracy: float
    n: int
    source: str
    fingerprint: str

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a record."""
        shares = {name: column.to_dict() for name, column in self.shares.items()}
        told = {"n": self.n, "accuracy": self.accuracy, "source": self.source}
        return {**told, "fingerprint": self.fingerprint, "shares": shares}


def tally(table: pd.DataFrame, predictions: Predictions) -> Tally:
    """How often each rule, any, and none of them hold for mistakes and for right answers."""
    held = table.drop(columns="right")
    held = held.assign(any=held.any(axis=1))
    shares = held.groupby(np.where(table["right"], "right answers", "mistakes")).mean().T
    shares = shares.reindex(columns=["mistakes", "right answers"])
    found = (predictions.accuracy, len(predictions), predictions.source, predictions.fingerprint)
    return Tally(shares, *found)


def tally_table(summary: dict[str, Any]) -> pd.DataFrame:
    """A tally of a record as a table, with how many times as often a rule holds for mistakes."""
    shares = pd.DataFrame(summary["shares"]).astype(float)
    shares["times as often"] = shares["mistakes"] / shares["right answers"].replace(0, np.nan)
    return shares.rename(index={"any": "any of these"})


def detail(images: np.ndarray) -> np.ndarray:
    """Mean step in brightness between neighbouring pixels: little in a blurred or an empty image."""
    grey = images.astype(np.float32).mean(-1)
    return (np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))) / 2


def _nearer_rival(
    images: "ImageSet", reference: "ImageSet", label: np.ndarray, rival: np.ndarray, *, middle: bool
) -> np.ndarray:
    """Tell for which images the rival class's colours are the nearer ones, in the middle or in the frame."""
    place = _middle(images.images.shape[1:3])
    place = place if middle else ~place
    typical = _typical(reference, place)
    own = np.sqrt(_colours(images.images, place))
    likeness = (own[:, None] * np.sqrt(typical)[np.stack([label, rival], 1)]).sum(-1)  # Bhattacharyya
    return likeness[:, 1] > likeness[:, 0]


def _middle(size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[_FRAME:-_FRAME, _FRAME:-_FRAME] = True
    return mask


def _typical(reference: "ImageSet", place: np.ndarray) -> np.ndarray:
    """The mean colour histogram of each class; a class without images has none and is near to nothing."""
    total = np.zeros((len(reference.classes), _LEVELS**3))
    np.add.at(total, reference.labels, _colours(reference.images, place))
    return total / np.maximum(reference.counts(), 1)[:, None]


def _colours(images: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The share of each of 64 colours among the pixels at `place`, one row an image."""
    red, green, blue = np.moveaxis(images[:, place] // (256 // _LEVELS), -1, 0)
    codes = red.astype(np.int32) * _LEVELS**2 + green * _LEVELS + blue
    codes += np.arange(len(codes), dtype=np.int32)[:, None] * _LEVELS**3
    counts = np.bincount(codes.ravel(), minlength=len(codes) * _LEVELS**3)
    return counts.reshape(len(codes), -1) / codes.shape[1]
