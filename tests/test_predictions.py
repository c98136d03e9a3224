import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

from labkit.errors import DataError
from labkit.predictions import (
    Heads,
    Predictions,
    confused_pairs,
    merge,
    pair_interval,
    per_class_table,
    spread,
    superclass_accuracy,
    wilson,
)

CLASSES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")


def drawn(n=400, k=7, seed=0, sharpness=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + sharpness * np.eye(k)[labels] * rng.random((n, 1))
    shares = np.exp(logits)
    return Predictions(shares / shares.sum(1, keepdims=True), labels, CLASSES[:k], "drawn, seed 0", "f" * 64)


def test_scores_agree_with_scikit_learn():
    some = drawn()
    assert 0.2 < some.accuracy < 0.9
    assert some.accuracy == pytest.approx((some.probabilities.argmax(1) == some.labels).mean())
    for k in (1, 3, 5):
        expected = top_k_accuracy_score(some.labels, some.probabilities, k=k, labels=range(7))
        assert some.top(k) == pytest.approx(expected)
    assert some.loss == pytest.approx(log_loss(some.labels, some.probabilities))
    assert some.macro_f1 == pytest.approx(f1_score(some.labels, some.predicted, average="macro"))


def test_a_constant_answer_is_not_always_among_the_top():
    flat = Predictions(np.full((4, 4), 0.25), np.arange(4), CLASSES[:4])
    assert [flat.top(k) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]


def test_macro_f1_leaves_out_classes_that_never_occur():
    two = Predictions(np.eye(4)[[0, 1, 1]], np.array([0, 1, 0]), CLASSES[:4])
    assert two.macro_f1 == pytest.approx(2 / 3)
    assert two.report().loc["cat", "support"] == 0


def test_confusion_counts_by_true_row():
    some = Predictions(np.eye(3)[[0, 1, 1, 2]], np.array([0, 0, 1, 1]), CLASSES[:3])
    assert some.confusion().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    pairs = some.confused_pairs()
    assert pairs[["true", "predicted", "count", "rate"]].values.tolist() == [
        ["ant", "bee", 1, 0.5],
        ["bee", "cat", 1, 0.5],
    ]


def test_confused_pairs_of_a_record_match():
    some = drawn()
    record = json.loads(json.dumps(some.summary()))
    pd.testing.assert_frame_equal(
        confused_pairs(record["confusion"], record["classes"], 4), some.confused_pairs(4)
    )
    pd.testing.assert_frame_equal(per_class_table(record), some.report().round(6), check_dtype=False)


def test_worst_are_the_most_confident_mistakes():
    rows = [[0.9, 0.1], [0.2, 0.8], [0.35, 0.65], [0.6, 0.4]]
    worst = Predictions(np.array(rows), np.array([0, 0, 0, 1]), ("ant", "bee")).worst(2)
    assert worst["index"].tolist() == [1, 2]
    assert worst["confidence"].tolist() == [0.8, 0.65]
    assert worst["true_probability"].tolist() == [0.2, 0.35]


def test_ece_is_the_gap_between_confidence_and_accuracy():
    sure = Predictions(np.tile([0.8, 0.2], (10, 1)), np.array([0] * 5 + [1] * 5), ("ant", "bee"))
    assert sure.ece() == pytest.approx(0.3)
    table = sure.reliability(5)
    assert table["count"].tolist() == [0, 0, 0, 10, 0]
    assert table.loc[3, ["confidence", "accuracy"]].tolist() == pytest.approx([0.8, 0.5])


def test_confidence_of_one_falls_into_the_last_bin():
    table = Predictions(np.eye(2), np.arange(2), ("ant", "bee")).reliability(15)
    assert table["count"].iloc[-1] == 2


def test_wilson_interval_matches_a_table():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert drawn().interval()[0] < drawn().accuracy < drawn().interval()[1]


def test_summary_is_plain_json_and_complete():
    some = drawn(k=4)
    record = json.loads(json.dumps(some.summary(), allow_nan=False))
    assert record["top5"] is None
    assert np.sum(record["confusion"]) == record["n"] == 400
    assert record["fingerprint"] == "f" * 64
    assert set(record["reliability"]) == {"low", "high", "count", "confidence", "accuracy"}
    assert None in record["reliability"]["accuracy"]  # an empty bin has no accuracy
    assert 0 <= json.loads(json.dumps(drawn(k=7).summary()))["top5"] <= 1


def test_other_labels_score_the_same_answers():
    some = drawn()
    assert some.against(some.predicted).accuracy == 1
    assert some.accuracy < 1


@pytest.mark.parametrize(
    ("probabilities", "labels", "text"),
    [
        (np.full((2, 3), 1 / 3), [0, 1], "do not fit 2 classes"),
        (np.full((2, 2), 0.5), [0, 1, 1], "labels of shape"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), [0, 1], "first is row 1"),
        (np.full((2, 2), 5.0), [0, 1], "sum to 1"),
        (np.full((2, 2), 0.5), [0, -1], "run from -1 to 0"),
        (np.empty((0, 2)), [], "do not fit"),
    ],
)
def test_wrong_predictions_are_refused(probabilities, labels, text):
    with pytest.raises(DataError, match=text):
        Predictions(probabilities, np.array(labels), ("ant", "bee"))


def two_heads(sides=None):
    first = Predictions(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 0]), ("ant", "bee"))
    second = Predictions(np.eye(2)[[0, 1, 1, 1]], np.array([0, 1, 0, 0]), ("cat", "dog"))
    return Heads({"first": first, "second": second}, sides)


def test_heads_give_mean_and_both_right():
    heads = two_heads()
    assert heads.mean_accuracy == 5 / 8
    assert heads.both_right == 2 / 4
    record = json.loads(json.dumps(heads.summary(), allow_nan=False))
    assert record["accuracy"] == 5 / 8
    assert record["interval_clustered"] is False
    assert record["heads"]["second"]["classes"] == ["cat", "dog"]


def test_pairs_that_share_images_widen_the_interval():
    shared = two_heads((np.array([0, 0, 1, 1]), np.arange(4)))
    assert np.ptp(shared.interval()) > np.ptp(two_heads().interval())
    assert shared.summary()["interval_clustered"] is True


def test_independent_pairs_get_the_plain_interval():
    right = np.random.default_rng(0).random(500) < 0.7
    distinct = (np.arange(500), np.arange(500))
    assert pair_interval(right, distinct) == pytest.approx(wilson(right.mean(), 500))


def test_interval_covers_where_images_recur():
    covered, naive = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ease = rng.normal(size=(2, 150))
        sides = tuple(rng.integers(150, size=(2, 2000)))
        right = rng.normal(size=2000) < ease[0][sides[0]] + ease[1][sides[1]]  # 0.5 on average over images
        for kept, (low, high) in (
            (covered, pair_interval(right, sides)),
            (naive, wilson(right.mean(), len(right))),
        ):
            kept.append(low <= 0.5 <= high)
    assert np.mean(covered) > 0.9
    assert np.mean(naive) < 0.6


def test_a_perfect_score_has_an_interval_too():
    low, high = pair_interval(np.ones(50), (np.arange(50), np.arange(50)))
    assert 0.9 < low < high == 1


def test_sides_must_match_the_pairs():
    with pytest.raises(DataError, match="two arrays of 3 image numbers"):
        pair_interval(np.ones(3), (np.arange(3), np.arange(4)))


def test_superclasses_forgive_mistakes_within_them():
    confusion = np.array([[3, 2, 0], [1, 4, 0], [0, 1, 4]])
    assert merge(confusion, [0, 0, 1]).tolist() == [[10, 0], [1, 4]]
    assert superclass_accuracy(confusion, [0, 0, 1]) == pytest.approx(14 / 15)
    with pytest.raises(DataError, match="3 classes need as many"):
        merge(confusion, [0, 0])


def test_spread_says_how_many_seeds():
    assert str(spread([0.5, 0.6, 0.7])) == "0.6000 ± 0.1000 (3 seeds)"
    assert str(spread([0.5])) == "0.5000 (1 seed)"
    assert np.isnan(spread([0.5]).deviation)
    with pytest.raises(DataError, match="one value a seed"):
        spread([])
