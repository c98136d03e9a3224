import csv
import time

import keras
import numpy as np
import pytest

from labkit import evaluation
from labkit.data import ImageSet
from labkit.errors import DataError, ModelError
from labkit.models.layers import FractionalMaxPooling2D

CLASSES = ("dark", "middle", "bright")


@pytest.fixture
def shades():
    """Images of one shade of grey each; the class follows from the shade."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90)
    levels = np.array([20, 120, 230])[labels] + rng.integers(-15, 15, 90)
    images = np.broadcast_to(levels[:, None, None, None], (90, 4, 4, 1)).astype(np.uint8)
    return ImageSet(images, labels, CLASSES, "synthetic, seed 0")


def graded(name="graded"):
    """A model that knows the shades: the logit of a class falls with the distance from its level."""
    inputs = keras.Input((4, 4, 1))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 25)(inputs))
    logits = keras.layers.Dense(3)
    model = keras.Model(inputs, logits(mean), name=name)
    levels = np.array([20, 120, 230]) / 25
    logits.set_weights([2 * levels[None], -(levels**2)])
    return model


def test_predictions_are_probabilities_in_order(shades):
    found = evaluation.predict(graded(), shades, batch_size=16)
    assert found.accuracy == 1
    assert found.classes == CLASSES
    assert found.source == "synthetic, seed 0"
    assert found.fingerprint == shades.fingerprint()
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    small = evaluation.predict(graded(), shades, batch_size=90)
    np.testing.assert_allclose(found.probabilities, small.probabilities, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "passes"), [(90, [90]), (89, [30, 33, 27])])
def test_few_images_of_several_parts_go_through_a_model_at_once(shades, monkeypatch, batch_size, passes):
    parts = {"a": shades.take(slice(30)), "b": shades.take(slice(30, 63)), "c": shades.take(slice(63, 90))}
    outputs, asked = evaluation.outputs, []
    monkeypatch.setattr(evaluation, "outputs", lambda *given: asked.append(len(given[1])) or outputs(*given))
    found = evaluation.predict_each(graded(), parts, batch_size=batch_size)
    assert asked == passes
    assert list(found) == list(parts)
    for part, images in parts.items():
        alone = evaluation.predict(graded(), images)
        np.testing.assert_allclose(found[part].probabilities, alone.probabilities, atol=1e-6)
        np.testing.assert_array_equal(found[part].labels, images.labels)
        assert found[part].fingerprint == images.fingerprint()


def test_inputs_and_heads_by_name_are_joined_and_parted_again(shades):
    image, label = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="label")
    model = keras.Model({"image": image, "label": label}, {"seen": label * 2})
    hinted = shades.with_hints(shades.labels)
    few = [evaluation._inputs(model, hinted.take(slice(*span))) for span in ((0, 5), (5, 12))]
    first, second = evaluation.outputs_of_each(model, few)
    np.testing.assert_array_equal(first["seen"], few[0]["label"] * 2)
    np.testing.assert_array_equal(second["seen"], few[1]["label"] * 2)


def test_images_of_other_sizes_go_through_a_model_on_their_own():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    small, large = np.full((2, 4, 4, 1), 1.0), np.full((3, 8, 8, 1), 2.0)
    found = list(evaluation.outputs_of_each(model, [small, large]))
    assert [values.tolist() for values in found] == [[[1.0]] * 2, [[2.0]] * 3]


def test_large_logits_stay_finite(shades):
    model = graded()
    model.layers[-1].set_weights([weights * 1e4 for weights in model.layers[-1].get_weights()])
    assert np.isfinite(evaluation.predict(model, shades).probabilities).all()


def left_sided():
    inputs = keras.Input((2, 2, 1))
    logits = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, logits(keras.layers.Flatten()(inputs)))
    logits.set_weights([np.array([[0.01, 0], [0, 0], [0, 0], [0, 0]])])
    return model


def test_flip_averages_both_ways_of_looking():
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, 0, 0] = 200
    some = ImageSet(image, np.array([0]), ("left", "right"), "made by hand")
    mirrored = ImageSet(image[:, :, ::-1], np.array([0]), ("left", "right"), "made by hand")
    both = evaluation.predict(left_sided(), some, flip=True).probabilities
    each = [evaluation.predict(left_sided(), view).probabilities for view in (some, mirrored)]
    assert not np.allclose(*each)
    np.testing.assert_allclose(both, np.mean(each, axis=0))


def two_headed():
    inputs = keras.Input((4, 4, 1))
    mean = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, {head: keras.layers.Dense(2, name=head)(mean) for head in ("first", "second")})


def test_two_heads_come_by_name():
    rng = np.random.default_rng(0)
    labels = {"first": rng.integers(2, size=20), "second": rng.integers(2, size=20)}
    classes = {"first": ("ant", "bee"), "second": ("cat", "dog")}
    pairs = ImageSet(rng.integers(0, 256, (20, 4, 4, 1), np.uint8), labels, classes, "pairs")
    found = evaluation.predict(two_headed(), pairs)
    assert list(found) == ["first", "second"]
    assert found["second"].classes == ("cat", "dog")
    assert found.mean_accuracy == pytest.approx((found["first"].accuracy + found["second"].accuracy) / 2)
    known = evaluation.predict(two_headed(), pairs, sides=(np.arange(20) // 4, np.arange(20)))
    assert known.summary()["interval_clustered"] is True


def test_heads_and_labels_must_agree(shades):
    with pytest.raises(ModelError, match="has 2 heads: first, second"):
        evaluation.predict(two_headed(), shades)
    with pytest.raises(ModelError, match="has 2 heads"):
        evaluation.predictor(two_headed(), CLASSES)(shades.images[0])


def hinted():
    image, label = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="label")
    mixed = keras.layers.Concatenate()([keras.layers.Flatten()(image), label])
    logits = keras.layers.Dense(3, use_bias=False)
    model = keras.Model({"image": image, "label": label}, logits(mixed))
    logits.set_weights([np.concatenate([np.zeros((16, 3)), 9 * np.eye(3)])])
    return model


def test_a_model_that_sees_a_label_gets_the_hints(shades):
    hints = np.roll(shades.labels, 1)
    found = evaluation.predict(hinted(), shades.with_hints(hints))
    np.testing.assert_array_equal(found.predicted, hints)
    with pytest.raises(DataError, match="with_hints"):
        evaluation.predict(hinted(), shades)


def test_hints_are_left_alone_by_other_models(shades):
    assert evaluation.predict(graded(), shades.with_hints()).accuracy == 1


def test_no_image_is_an_error(shades):
    with pytest.raises(DataError, match="no image to predict in synthetic, seed 0"):
        evaluation.predict(graded(), shades.take([]))


@pytest.fixture
def pooled():
    inputs = keras.Input((9, 9, 1))
    x = FractionalMaxPooling2D(1.5, seed=3)(keras.layers.Rescaling(1 / 64)(inputs))
    weights = keras.initializers.RandomNormal(stddev=0.1, seed=0)  # small: no probability is 0 or 1
    head = keras.layers.Dense(2, kernel_initializer=weights)
    return keras.Model(inputs, head(keras.layers.Flatten()(x)), name="pooled")


@pytest.fixture
def noise():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 9, 9, 1), np.uint8)
    return ImageSet(images, rng.integers(2, size=12), ("ant", "bee"), "synthetic, seed 0")


def test_random_passes_differ_by_seed_and_settle_with_their_number(pooled, noise):
    drawn = [evaluation.predict_random_passes(pooled, noise, (1, 16), seed=seed) for seed in (0, 0, 1)]
    once = [answers[1].probabilities for answers in drawn]
    np.testing.assert_array_equal(once[0], once[1])
    assert np.abs(once[0] - once[2]).max() > 1e-3
    often = [answers[16].probabilities for answers in drawn]
    assert np.abs(often[0] - often[2]).mean() < np.abs(once[0] - once[2]).mean()


def test_random_passes_leave_the_model_as_it_was(pooled, noise):
    before = evaluation.predict(pooled, noise).probabilities
    state = keras.ops.convert_to_numpy(pooled.layers[2].seed_generator.state)
    evaluation.predict_random_passes(pooled, noise, (2,))
    np.testing.assert_array_equal(evaluation.predict(pooled, noise).probabilities, before)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(pooled.layers[2].seed_generator.state), state)


def test_random_passes_need_something_random(shades, noise, pooled):
    with pytest.raises(ModelError, match="Every pass of graded is the same"):
        evaluation.predict_random_passes(graded(), shades, (2,))
    with pytest.raises(ModelError, match=r"\[3, 0\] passes"):
        evaluation.predict_random_passes(pooled, noise, (3, 0))


def test_a_predictor_is_a_function_from_image_to_label(shades):
    label_of = evaluation.predictor(graded(), CLASSES)
    image = shades.images[5]
    assert label_of(image) == shades.labels[5]
    assert label_of.name(image) == CLASSES[shades.labels[5]]
    np.testing.assert_array_equal(label_of.many(shades.images), shades.labels)


def test_the_course_evaluation_reports_any_function(shades):
    def darkest(image):
        return 0

    report = evaluation.evaluation(darkest, shades.labels, shades.images)
    share = (shades.labels == 0).mean()
    assert report.loc["accuracy", "f1"] == pytest.approx(share)
    assert report.loc["0", "recall"] == 1
    assert report.loc["macro avg", "recall"] == pytest.approx(1 / 3)
    assert report["support"].tolist()[:3] == np.bincount(shades.labels).tolist()
    with pytest.raises(DataError, match="3 labels came with 90 images"):
        evaluation.evaluation(darkest, [0, 1, 2], shades.images)


def test_the_course_evaluation_asks_a_predictor_once(shades):
    calls = []

    class Counted:
        def many(self, images):
            calls.append(len(images))
            return np.zeros(len(images), int)

    evaluation.evaluation(Counted(), shades.labels, shades.images)
    assert calls == [90]


def test_label_predictions_are_written_as_the_course_reads_them(tmp_path):
    path = tmp_path / "out" / "label_prediction.csv"
    evaluation.label_predictions(path, baseline=[3, 1], model_1=np.array([4, 1]), model_2=[5, 9])
    rows = list(csv.reader(path.open()))
    assert rows == [["Index", "Baseline", "Model I", "Model II"], ["1", "3", "4", "5"], ["2", "1", "1", "9"]]
    assert [entry.name for entry in path.parent.iterdir()] == ["label_prediction.csv"]
    with pytest.raises(DataError, match="different numbers of images"):
        evaluation.label_predictions(path, baseline=[3], model_1=[4, 1], model_2=[5, 9])


@pytest.mark.parametrize("labels", [[0.9, 2.7], ["1", "2"], [1, float("nan")], [True, False], [[1], [2]]])
def test_only_whole_numbers_are_written_as_predicted_labels(labels, tmp_path):
    path = tmp_path / "label_prediction.csv"
    with pytest.raises(DataError, match=r"Model II of type [\s\S]*one whole number an image"):
        evaluation.label_predictions(path, baseline=[3, 1], model_1=[4, 1], model_2=labels)
    assert not path.exists()


@pytest.mark.long
def test_one_call_is_many_times_faster_than_a_call_an_image():
    """Prints the ratio; what is asserted is that the answers are the same."""
    images = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 1), np.uint8)
    label_of = evaluation.predictor(graded(), CLASSES)
    label_of.many(images[:256])
    start = time.perf_counter()
    together = label_of.many(images)
    middle = time.perf_counter()
    apart = [label_of(image) for image in images[:100]]
    end = time.perf_counter()
    print(f"one call is {(end - middle) * 20 / (middle - start):.0f} times faster than a call an image")
    np.testing.assert_array_equal(together[:100], apart)
