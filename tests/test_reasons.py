"""The rules behind mistakes: each fires for what it names, and says nothing where labels are random."""

import json

import numpy as np
import pytest

from labkit import reasons
from labkit.data import ImageSet
from labkit.predictions import Predictions

RED, GREEN = (230, 20, 20), (20, 230, 20)
CLASSES = ("rose", "leaf", "poppy")
GROUPS = (0, 1, 0)


def painted(frame, middle) -> np.ndarray:
    image = np.empty((32, 32, 3), np.uint8)
    image[:] = frame
    image[6:-6, 6:-6] = middle
    return image


def noisy(images: np.ndarray) -> np.ndarray:
    """Give flat images enough detail to count as sharp."""
    rough = np.random.default_rng(0).integers(0, 20, images.shape, dtype=np.uint8)
    return images + rough


REFERENCE = ImageSet(
    noisy(np.stack([painted(RED, RED), painted(GREEN, GREEN), painted(RED, RED)] * 5)),
    np.arange(15) % 3,
    CLASSES,
    "synthetic",
)


def judged(images: np.ndarray, labels: list[int], predicted: list[int]):
    """The rules for images of which each is taken, quite surely, for the class predicted."""
    shown = ImageSet(images, np.array(labels), CLASSES, "synthetic")
    probabilities = np.full((len(labels), 3), 0.1)
    probabilities[np.arange(len(labels)), predicted] = 0.8
    predictions = Predictions(probabilities, shown.labels, CLASSES)
    return predictions, reasons.reasons(predictions, shown, REFERENCE, GROUPS)


def test_the_rival_is_the_predicted_class_or_the_runner_up():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]])
    predictions = Predictions(probabilities, np.array([0, 1, 1]), CLASSES)
    assert reasons.rivals(predictions).tolist() == [1, 0, 0]


def test_colours_of_the_predicted_class_explain_a_mistake():
    _, table = judged(noisy(painted(GREEN, GREEN)[None]), [0], [1])
    assert table.loc[0, "colour"] and not table.loc[0, "background"] and not table.loc[0, "right"]


def test_a_background_of_the_predicted_class_explains_a_mistake():
    _, table = judged(noisy(painted(GREEN, RED)[None]), [0], [1])
    assert table.loc[0, "background"] and not table.loc[0, "colour"]


def test_own_colours_explain_nothing():
    _, table = judged(noisy(painted(RED, RED)[None]), [0], [1])
    assert not table.loc[0, ["colour", "background", "similar features"]].any()


def test_classes_of_one_superclass_are_similar():
    _, table = judged(noisy(np.stack([painted(RED, RED)] * 2)), [0, 0], [2, 1])
    assert table["similar features"].tolist() == [True, False]


def test_an_image_without_detail_is_of_low_resolution():
    flat, sharp = painted(RED, RED)[None], noisy(painted(RED, RED)[None]) // 2 * 2
    _, table = judged(np.concatenate([flat, sharp]), [0, 0], [1, 1])
    assert table.loc[0, "resolution"]
    assert reasons.detail(flat)[0] == 0 < reasons.detail(sharp)[0]


def test_a_class_without_typical_images_is_near_to_nothing():
    only_red = REFERENCE.take(REFERENCE.labels == 0)
    image = ImageSet(painted(RED, RED)[None], np.array([0]), CLASSES, "synthetic")
    predictions = Predictions(np.array([[0.1, 0.8, 0.1]]), image.labels, CLASSES)
    table = reasons.reasons(predictions, image, only_red, GROUPS)
    assert not table.loc[0, "colour"] and not table.loc[0, "background"]


def test_the_tally_compares_mistakes_with_right_answers():
    images = noisy(np.stack([painted(GREEN, GREEN), painted(RED, RED), painted(RED, RED)]))
    predictions, table = judged(images, [0, 0, 0], [1, 1, 0])
    summary = json.loads(json.dumps(reasons.tally(table, predictions).summary()))
    assert summary["n"] == 3 and summary["accuracy"] == pytest.approx(1 / 3)
    counted = reasons.tally_table(summary)
    assert list(counted.index) == [*reasons.RULES, "any of these"]
    assert counted.loc["colour", "mistakes"] == pytest.approx(0.5)
    assert counted.loc["colour", "right answers"] == 0
    assert np.isnan(counted.loc["colour", "times as often"])


def test_a_tally_without_right_answers_has_no_rates_for_them():
    predictions, table = judged(noisy(painted(GREEN, GREEN)[None]), [0], [1])
    counted = reasons.tally_table(reasons.tally(table, predictions).summary())
    assert counted["right answers"].isna().all() and counted.loc["any of these", "mistakes"] == 1
