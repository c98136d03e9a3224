import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import labels
from labkit.errors import DataError, ParameterError

CLEAN = np.arange(5000) % 10


def test_symmetric_noise_spreads_evenly_and_pair_flip_moves_to_the_next():
    assert labels.symmetric(4, 0.3)[1].tolist() == pytest.approx([0.1, 0.7, 0.1, 0.1])
    assert labels.pair_flip(3, 0.4).tolist() == [[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]]


def test_drawn_noise_meets_its_rate_within_chance():
    noisy = labels.corrupt(CLEAN, "symmetric", rate=0.606, seed=3)
    # Four standard deviations of a share drawn 5,000 times.
    assert abs((noisy != CLEAN).mean() - 0.606) < 4 * np.sqrt(0.606 * 0.394 / 5000)
    assert noisy.dtype == np.int64
    assert (noisy == labels.corrupt(CLEAN, "symmetric", rate=0.606, seed=3)).all()
    assert (noisy != labels.corrupt(CLEAN, "symmetric", rate=0.606, seed=4)).any()


@pytest.mark.parametrize("kind", labels.KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.606, 1.0])
def test_exact_noise_meets_its_rate_to_the_label(kind, rate):
    noisy = labels.corrupt(CLEAN, kind, rate=rate, seed=0, exact=True)
    assert (noisy != CLEAN).sum() == round(rate * len(CLEAN))
    per_class = np.bincount(CLEAN[noisy != CLEAN], minlength=10)
    assert np.ptp(per_class) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_exact_noise_follows_any_matrix(data):
    k = data.draw(st.integers(2, 6))
    matrix = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k))
    )
    matrix = (matrix + np.eye(k)) / (matrix + np.eye(k)).sum(axis=1, keepdims=True)
    clean = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=200)))
    noisy = labels.corrupt(clean, matrix, seed=data.draw(st.integers(0, 99)), exact=True)
    counts = np.bincount(clean * k + noisy, minlength=k * k).reshape(k, k)
    expected = matrix * np.bincount(clean, minlength=k)[:, None]
    off = ~np.eye(k, dtype=bool)
    assert np.abs(counts - expected)[off].max() <= 2  # one label for rounding the class, one for its targets
    assert abs(counts[off].sum() - expected[off].sum()) <= 0.5 + 1e-6


def test_transition_finds_the_matrix_that_drew_the_noise():
    matrix = labels.symmetric(10, 0.4)
    truth = np.where(np.arange(5000) < 4000, CLEAN, -1)
    inside = []
    for seed in range(20):
        noisy = labels.corrupt(CLEAN, matrix, seed=seed)
        found = labels.transition(noisy, truth, 10)
        inside.append((found.low <= matrix) & (matrix <= found.high))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)  # 2,000 cells
    assert found.counts.sum() == 4000
    assert found.rate == pytest.approx((noisy != CLEAN)[:4000].mean())
    assert (found.low <= found.matrix).all() and (found.matrix <= found.high).all()


def test_transition_tells_how_much_a_label_says():
    assert labels.transition(CLEAN, CLEAN, 10).bits == pytest.approx(np.log2(10))
    assert labels.transition(np.zeros_like(CLEAN), CLEAN, 10).bits == pytest.approx(0, abs=1e-9)
    unseen = labels.transition(np.array([0, 0]), np.array([0, 0]), 2)
    assert (
        np.isnan(unseen.matrix[1]).all()
        and unseen.low[1].tolist() == [0, 0]
        and unseen.high[1].tolist() == [1, 1]
    )


@pytest.mark.parametrize(("kind", "rate"), [("symmetric", 0.606), ("pair_flip", 0.4)])
def test_few_labels_seem_to_tell_no_more_than_many(kind, rate):
    share = getattr(labels, kind)(10, rate)
    entropy = -(share[0][share[0] > 0] * np.log2(share[0][share[0] > 0])).sum()
    found = [
        labels.transition(labels.corrupt(CLEAN[:1200], share, seed=seed), CLEAN[:1200], 10).bits
        for seed in range(60)
    ]
    assert np.mean(found) == pytest.approx(np.log2(10) - entropy, abs=0.015)  # 0.05 above it without


PROBS = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
GIVEN = np.array([0, 2, 1, 2])


def test_agrees_ranks_labels_and_breaks_ties_as_argmax_does():
    assert labels.self_filter(GIVEN, PROBS).tolist() == [True, False, False, True]
    assert (labels.self_filter(GIVEN, PROBS) == (PROBS.argmax(axis=1) == GIVEN)).all()
    assert labels.agrees(GIVEN, PROBS, top=2).tolist() == [True, True, True, True]
    assert labels.agrees(GIVEN, PROBS, top=2, least=0.5).tolist() == [True, False, False, True]


def test_corrected_takes_the_model_at_its_word_only_when_it_is_sure():
    assert labels.corrected(GIVEN, PROBS).tolist() == [0, 1, 0, 2]
    assert labels.corrected(GIVEN, PROBS, least=0.55).tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "confident_learning", "both"])
def test_confident_learning_drops_wrong_labels_and_keeps_right_ones(filter_by):
    rng = np.random.default_rng(0)
    clean = CLEAN[:1000]
    noisy = labels.corrupt(clean, "symmetric", rate=0.3, seed=2)
    probs = rng.dirichlet(np.full(10, 0.3), size=1000) * 0.4 + 0.6 * np.eye(10)[clean]
    kept = labels.confident(noisy, probs, filter_by=filter_by)
    report = labels.correction_report(noisy, kept, clean)
    assert (
        kept.dtype == bool and report.precision > 0.9 and report.recall > 0.8 and report.residual_noise < 0.1
    )


def test_every_judge_takes_no_labels_at_all():
    none, probs = np.array([], int), np.zeros((0, 3))
    for judge in (labels.agrees, labels.self_filter, labels.confident, labels.corrected):
        assert judge(none, probs).shape == (0,)


def test_a_report_of_a_mask_and_of_new_labels():
    before, truth = np.array([0, 1, 2, 3, 0]), np.array([0, 0, 2, 2, -1])
    mask = labels.correction_report(before, np.array([True, False, False, True, True]), truth)
    assert (mask.precision, mask.recall, mask.residual_noise, mask.kept) == (0.5, 0.5, 0.5, 0.5)
    changed = labels.correction_report(before, np.array([0, 0, 1, 3, 9]), truth)
    assert (changed.precision, changed.recall, changed.residual_noise, changed.kept) == (0.5, 0.5, 0.5, 1.0)
    nothing = labels.correction_report(truth[:4], np.ones(4, bool), truth[:4])
    assert np.isnan(nothing.precision) and nothing.residual_noise == 0


def test_a_label_is_likely_where_its_class_is_often_called_so():
    matrix = np.array([[0.7, 0.3], [0.1, 0.9]])
    assert labels.likelihoods(np.array([1, 0, 1]), matrix).tolist() == [[0.3, 0.9], [0.7, 0.1], [0.3, 0.9]]


def test_bayes_rule_joins_an_opinion_with_a_label():
    """Given labels are right seven times in ten; a model may be surer of another."""
    likely = labels.likelihoods(np.array([1, 1, 0]), np.array([[0.7, 0.3], [0.3, 0.7]]))
    told = labels.posterior([[0.8, 0.2], [0.5, 0.5], [0.8, 0.2]], likely)
    assert told[:, 0] == pytest.approx([0.24 / 0.38, 0.3, 0.56 / 0.62])
    assert told.sum(axis=1) == pytest.approx(1)
    assert labels.posterior([[0.3, 0.7]], [[0, 1]]).tolist() == [[0, 1]]  # a label that is sure
    assert labels.posterior([[0.0, 1.0]], [[1, 0]]).tolist() == [[0, 1]]  # they exclude each other


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: labels.corrupt(CLEAN, "pairflip", rate=0, seed=0), ParameterError, "mean 'pair_flip'"),
        (lambda: labels.corrupt(CLEAN, "symmetric", seed=0), ParameterError, "without a rate"),
        (lambda: labels.corrupt(CLEAN, np.eye(10), rate=0.1, seed=0), ParameterError, "beside a matrix"),
        (lambda: labels.corrupt(CLEAN, np.eye(3), seed=0), DataError, r"labels\[3\] is 3"),
        (lambda: labels.corrupt(CLEAN / 2, np.eye(10), seed=0), DataError, "whole number"),
        (lambda: labels.corrupt(CLEAN, np.full((10, 10), np.nan), seed=0), ParameterError, "summing to 1"),
        (lambda: labels.agrees(GIVEN, PROBS[:2]), DataError, "for 4 labels"),
        (lambda: labels.agrees(GIVEN, PROBS * np.nan), DataError, r"probabilities\[0, 0\] is nan"),
        (lambda: labels.corrected(GIVEN, np.log(PROBS)), DataError, r"\[0, 0\] is -0\.51(.|\n)*softmax"),
        (lambda: labels.confident(GIVEN, PROBS * 2), DataError, r"probabilities\[0, 0\] is 1\.2"),
        (lambda: labels.agrees(GIVEN, PROBS.astype(str)), DataError, "probabilities of type <U"),
        (lambda: labels.corrupt(CLEAN, "symmetric", rate=0.1, classes=0, seed=0), ParameterError, "0 class"),
        (lambda: labels.corrupt(CLEAN * 0, "symmetric", rate=0.1, seed=0), ParameterError, "among 1 classes"),
        (lambda: labels.corrupt(CLEAN, [[1], [0, 1]], seed=0), ParameterError, "not one of numbers"),
        (lambda: labels.corrupt(CLEAN, 0.5, seed=0), ParameterError, "summing to 1"),
        (lambda: labels.corrupt(CLEAN, np.eye(10), seed=-1), ParameterError, "seed=-1"),
        (lambda: labels.correction_report(GIVEN, np.ones(4), GIVEN), DataError, "after of type float64"),
        (lambda: labels.confident(GIVEN, PROBS, filter_by="bth"), ParameterError, "Did you mean 'both'"),
        (lambda: labels.transition(GIVEN, GIVEN[:2], 3), DataError, "4 noisy and 2 clean"),
        (lambda: labels.transition(GIVEN, GIVEN - 9, 3), DataError, "no true label"),
        (lambda: labels.correction_report(GIVEN, GIVEN[:2], GIVEN), DataError, "one length"),
        (lambda: labels.likelihoods(GIVEN, np.eye(2)), DataError, "from 0 to 1"),
        (lambda: labels.likelihoods(GIVEN, np.ones((3, 3))), ParameterError, "summing to 1"),
        (lambda: labels.posterior(PROBS, PROBS[:2]), DataError, "in both"),
        (lambda: labels.posterior(PROBS * np.nan, PROBS), DataError, r"probabilities\[0, 0\] is nan"),
        (lambda: labels.posterior(-PROBS, PROBS), DataError, r"probabilities\[0, 0\] is -(.|\n)*softmax"),
        (lambda: labels.posterior(PROBS, PROBS * np.nan), DataError, r"likelihoods\[0, 0\] is nan"),
        (lambda: labels.posterior(PROBS, -PROBS), DataError, r"likelihoods\[0, 0\] is -"),
        (lambda: labels.posterior(PROBS, PROBS + np.inf), DataError, r"likelihoods\[0, 0\] is inf"),
        (lambda: labels.posterior(PROBS, PROBS.astype(str)), DataError, "likelihoods of type <U"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
