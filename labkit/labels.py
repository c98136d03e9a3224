"""Everything that corrupts, doubts or corrects a label: NumPy in, masks or labels out."""

import warnings
from dataclasses import dataclass

import numpy as np

from labkit.errors import DataError, ParameterError, check_seed, nearest

_ROUNDING = 1e-5  # what sums of 32-bit floats may be off by
KINDS = ("symmetric", "pair_flip")


def symmetric(k: int, rate: float) -> np.ndarray:
    """Make the matrix that swaps a label with any other of k with equal chance; rows are true classes."""
    _check_rate(rate)
    matrix = np.full((k, k), rate / max(k - 1, 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def pair_flip(k: int, rate: float) -> np.ndarray:
    """Make the matrix that swaps a label with the next of k only; rows are true classes."""
    _check_rate(rate)
    return (1 - rate) * np.eye(k) + rate * np.roll(np.eye(k), 1, axis=1)


def corrupt(
    labels: np.ndarray,
    matrix: np.ndarray | str,
    *,
    seed: int,
    rate: float | None = None,
    classes: int | None = None,
    exact: bool = False,
) -> np.ndarray:
    """Draw noisy labels by a matrix, or by a kind and its rate; `exact` meets rates to the last label."""
    check_seed(seed)
    labels = whole_numbers("labels", labels)
    matrix = _noise_matrix(labels, matrix, rate, classes)
    rng = np.random.default_rng(seed)
    if exact:
        return _exactly(labels, matrix, rng)
    # The last column is open-ended, so that rounding in the sum cannot push a draw past it.
    ends = matrix.cumsum(axis=1)[:, :-1]
    return (rng.random(len(labels))[:, None] >= ends[labels]).sum(axis=1)


def _exactly(labels: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hand out each class's new labels in the matrix's shares, rounded so that all of them add up."""
    counts = np.bincount(labels, minlength=len(matrix))
    wrong = _rounded(counts * (1 - matrix.diagonal()))
    noisy = labels.copy()
    for label, (n, flipped) in enumerate(zip(counts, wrong, strict=True)):
        others = matrix[label].copy()
        others[label] = 0
        if flipped:
            targets = np.repeat(np.arange(len(matrix)), _rounded(others / others.sum() * flipped))
            places = np.flatnonzero(labels == label)
            noisy[places[rng.permutation(n)[:flipped]]] = rng.permutation(targets)
    return noisy


def _rounded(shares: np.ndarray) -> np.ndarray:
    """Round to whole numbers that keep the rounded sum (largest remainders first)."""
    whole = np.floor(shares + 1e-9).astype(np.int64)
    missing = int(np.rint(shares.sum())) - whole.sum()
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole


def _noise_matrix(
    labels: np.ndarray, matrix: np.ndarray | str, rate: float | None, classes: int | None
) -> np.ndarray:
    if isinstance(matrix, str):
        if matrix not in KINDS:
            raise ParameterError(
                f"no kind of label noise is called {matrix!r}",
                expected=f"a matrix, or one of {', '.join(KINDS)}",
                mend=nearest(matrix, KINDS),
            )
        if rate is None:
            raise ParameterError(f"{matrix} noise without a rate", expected="a rate from 0 to 1")
        k = int(labels.max(initial=0)) + 1 if classes is None else classes
        if k < 2:
            raise ParameterError(
                f"{matrix} noise among {k} classes",
                expected="at least two",
                mend="say how many with classes=",
            )
        matrix = symmetric(k, rate) if matrix == "symmetric" else pair_flip(k, rate)
    elif rate is not None:
        raise ParameterError("a rate beside a matrix, which holds its own", expected="one of the two")
    try:
        matrix = np.asarray(matrix, float)
    except (TypeError, ValueError):  # words, or rows of different lengths
        raise ParameterError(
            "a noise matrix that is not one of numbers",
            expected="matrix[true, given], every row summing to 1",
        ) from None
    k = matrix.shape[0] if matrix.ndim else 0
    if matrix.shape != (k, k) or not (matrix >= 0).all() or not np.allclose(matrix.sum(axis=1), 1):
        raise ParameterError(
            f"a noise matrix of shape {matrix.shape} that is not square with rows of shares",
            expected="matrix[true, given], every row summing to 1",
        )
    _in_range("labels", labels, k)
    return matrix


@dataclass(frozen=True, eq=False)
class Transition:
    """How true labels turn into given ones: counts and shares by true class (rows), with 95 % intervals."""

    counts: np.ndarray
    matrix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rate: float  # share of given labels that are wrong
    bits: float  # what a given label tells of the true one, less chance; log2(classes) when it tells all


def transition(noisy: np.ndarray, clean: np.ndarray, k: int) -> Transition:
    """Estimate the noise from images whose true label is known; a true label of -1 is left out."""
    noisy, clean = whole_numbers("noisy", noisy), whole_numbers("clean", clean)
    if noisy.shape != clean.shape:
        raise DataError(f"{len(noisy)} noisy and {len(clean)} clean labels", expected="two labels an image")
    known = clean >= 0
    if not known.any():
        raise DataError("no true label is known", expected="some true labels other than -1")
    _in_range("noisy", noisy, k)
    _in_range("clean", clean[known], k)
    counts = np.bincount(clean[known] * k + noisy[known], minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1, keepdims=True)
    matrix = np.divide(counts, totals, out=np.full((k, k), np.nan), where=totals > 0)
    low, high = _wilson(counts, totals)
    return Transition(counts, matrix, low, high, float(1 - counts.trace() / counts.sum()), _bits(counts))


def _bits(counts: np.ndarray) -> float:
    """The mutual information of rows and columns, less what so few labels seem to tell by chance.

    Of independent labels the plain estimate is above 0, on average by this correction (Miller 1955).
    """
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    told = (joint[joint > 0] * np.log2(joint[joint > 0] / independent[joint > 0])).sum()
    cells, rows, columns = (np.count_nonzero(found) for found in (counts, counts.sum(1), counts.sum(0)))
    freedom = max(cells - rows - columns + 1, 0)  # (k - 1)^2 where every cell was seen
    return float(max(told - freedom / (2 * counts.sum() * np.log(2)), 0.0))


def _wilson(hits: np.ndarray, totals: np.ndarray, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Bound a share at 95 % (Wilson 1927); nothing seen bounds nothing."""
    n = np.maximum(totals, 1)
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    seen = totals > 0
    return np.where(seen, np.clip(middle - reach, 0, 1), 0.0), np.where(
        seen, np.clip(middle + reach, 0, 1), 1.0
    )


def agrees(labels: np.ndarray, probs: np.ndarray, *, top: int = 1, least: float = 0.0) -> np.ndarray:
    """Keep a label that is among the `top` most probable classes and has at least the probability `least`."""
    labels, probs = _judged(labels, probs)
    own = probs[np.arange(len(labels)), labels]
    # Of equal probabilities the lowest class ranks first, as argmax has it.
    tied_before = (probs == own[:, None]) & (np.arange(probs.shape[1]) < labels[:, None])
    rank = (probs > own[:, None]).sum(axis=1) + tied_before.sum(axis=1)
    return (rank < top) & (own >= least)


def self_filter(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Keep a label where a model trained on clean labels predicts the same (report 001)."""
    return agrees(labels, probs)


def confident(labels: np.ndarray, probs: np.ndarray, *, filter_by: str = "prune_by_noise_rate") -> np.ndarray:
    """Keep a label that confident learning finds no fault with (Northcutt 2021, arXiv:1911.00068)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of a bar nobody asks for
        from cleanlab.filter import find_label_issues  # slow to import, and only this judge needs it

    labels, probs = _judged(labels, probs)
    if not len(labels):
        return np.ones(0, bool)
    choices = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given")
    if filter_by not in choices:
        raise ParameterError(
            f"no filter of cleanlab is called {filter_by!r}",
            expected=f"one of {', '.join(choices)}",
            mend=nearest(filter_by, choices),
        )
    return ~find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1)


def corrected(labels: np.ndarray, probs: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """Replace a label by the most probable class where that has at least the probability `least`."""
    labels, probs = _judged(labels, probs)
    return np.where(probs.max(axis=1) >= least, probs.argmax(axis=1), labels)


@dataclass(frozen=True)
class Correction:
    """How well a correction hit, measured where the truth is known."""

    precision: float  # of the labels dropped or changed: share rightly dropped, or changed to the truth
    recall: float  # of the wrong labels: share dropped, or changed to the truth
    residual_noise: float  # share of wrong labels among those left
    kept: float  # share of labels left


def correction_report(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> Correction:
    """Score a correction, given as a mask of labels to keep or as new labels; a truth of -1 is left out."""
    before, after, truth = whole_numbers("before", before), np.asarray(after), whole_numbers("truth", truth)
    after = after if after.dtype == bool else whole_numbers("after", after)
    if not before.shape == after.shape == truth.shape:
        raise DataError(
            f"{before.shape}, {after.shape} and {truth.shape} labels before, after and in truth",
            expected="three arrays of one length",
        )
    known = truth >= 0
    before, after, truth = before[known], after[known], truth[known]
    wrong = before != truth
    if after.dtype == bool:
        touched, mended, left, still_wrong = ~after, ~after & wrong, after, after & wrong
    else:
        touched, left, still_wrong = after != before, np.ones_like(wrong), after != truth
        mended = touched & ~still_wrong
    return Correction(
        _share(mended.sum(), touched.sum()),
        _share(mended.sum(), wrong.sum()),
        _share(still_wrong.sum(), left.sum()),
        _share(left.sum(), len(left)),
    )


def likelihoods(given: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """How likely each label as given is under every true class: a row an image, by the noise matrix."""
    given = whole_numbers("given", given)
    return _noise_matrix(given, matrix, None, None).T[given]


def posterior(probs: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Join by Bayes' rule what a model thinks of each image and how likely its label is under each class.

    Where the two exclude each other, the model's opinion stays.
    """
    probs, likely = np.asarray(probs), np.asarray(likely)
    if probs.ndim != 2 or probs.shape != likely.shape:
        raise DataError(
            f"probabilities of shape {probs.shape} and likelihoods of shape {likely.shape}",
            expected="one row an image and one column a class in both",
        )
    _check_probabilities(probs)
    _check_numbers("likelihoods", likely, 0, np.finfo(float).max, expected="finite numbers from 0 up")
    probs = probs.astype(float)
    joint = probs * likely
    total = joint.sum(axis=1, keepdims=True)
    return np.divide(joint, total, out=probs, where=total > 0)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ParameterError(f"a rate of {rate}", expected="a number from 0 to 1")


def whole_numbers(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as int64; `name` is what a message calls them when they are no whole numbers."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(
            f"{name} of type {labels.dtype} and shape {labels.shape}", expected="one whole number an image"
        )
    return labels.astype(np.int64)


def _in_range(name: str, labels: np.ndarray, k: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= k))
    if wrong.size:
        raise DataError(
            f"{name}[{wrong[0]}] is {labels[wrong[0]]}", expected=f"whole numbers from 0 to {k - 1}"
        )


def _judged(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probs = whole_numbers("labels", labels), np.asarray(probs)
    if probs.ndim != 2 or len(probs) != len(labels):
        raise DataError(
            f"probabilities of shape {probs.shape} for {len(labels)} labels", expected="one row an image"
        )
    _check_probabilities(probs)
    _in_range("labels", labels, probs.shape[1])
    return labels, probs


def _check_probabilities(probs: np.ndarray) -> None:
    mend = "give what softmax makes of the model's outputs"
    expected = "numbers from 0 to 1"
    _check_numbers("probabilities", probs, -_ROUNDING, 1 + _ROUNDING, expected=expected, mend=mend)


def _check_numbers(
    name: str, numbers: np.ndarray, low: float, high: float, *, expected: str, mend: str | None = None
) -> None:
    if not np.issubdtype(numbers.dtype, np.number):
        raise DataError(f"{name} of type {numbers.dtype}", expected=expected)
    within = (numbers >= low) & (numbers <= high)
    if not within.all():
        row, column = np.argwhere(~within)[0]
        raise DataError(f"{name}[{row}, {column}] is {numbers[row, column]:g}", expected=expected, mend=mend)
