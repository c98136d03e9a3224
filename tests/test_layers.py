from importlib.util import find_spec

import keras
import numpy as np
import pytest
from scipy.stats import ks_2samp

from labkit.models import FractionalMaxPooling2D
from labkit.models.layers import (
    AtInference,
    Marginal,
    PatchWhitening,
    PositionEmbedding,
    SettledNormalization,
    Unreached,
)

needs_tensorflow = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="TensorFlow is not installed, whose operation is the reference"
)


def ramp(side):
    """An image that grows to the right and downwards, so that a region's maximum tells where it ends."""
    row, column = np.mgrid[:side, :side]
    return (row + column / 1000).astype("float32")[None, :, :, None]


def ends(pooled):
    """Where the regions of a pooled ramp end: rows, columns."""
    pooled = np.asarray(pooled)[0, :, :, 0]
    return tuple(np.floor(pooled[:, 0]).astype(int)), tuple(np.round(1000 * (pooled[0] % 1)).astype(int))


@pytest.mark.parametrize(
    ("side", "ratio", "pooled"),
    [
        (31, 31 / 22, 22),
        (21, 21 / 15, 15),
        (14, 14 / 10, 10),
        (9, 9 / 6, 6),
        (5, 5 / 4, 4),
        (3, 3 / 2, 2),
        (8, 2, 4),
        (23, 2.3, 10),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_sizes_are_static_and_as_in_report_003(side, ratio, pooled, training):
    layer = FractionalMaxPooling2D(ratio, seed=0)
    assert layer.compute_output_shape((None, side, side, 3)) == (None, pooled, pooled, 3)
    assert layer(np.zeros((2, side, side, 3), "float32"), training=training).shape == (2, pooled, pooled, 3)


@pytest.mark.parametrize("overlapping", [True, False])
def test_regions_cover_the_image_in_two_neighbouring_sizes(overlapping):
    layer = FractionalMaxPooling2D((31 / 22, 2.6), overlapping=overlapping, seed=0)
    for _ in range(20):
        for last, lengths in zip(ends(layer(ramp(31), training=True)), ({1, 2}, {2, 3}), strict=True):
            if not overlapping:
                assert set(np.diff([-1, *last])) <= lengths
            assert last[-1] == 30


def test_the_fixed_grid_is_the_same_for_every_call_and_layer():
    first, second = FractionalMaxPooling2D(31 / 22, seed=1), FractionalMaxPooling2D(31 / 22, seed=2)
    np.testing.assert_array_equal(first(ramp(31)), first(ramp(31)))
    np.testing.assert_array_equal(first(ramp(31)), second(ramp(31)))


def test_random_regions_are_a_function_of_the_seed_and_alike_for_all_images():
    once, again = FractionalMaxPooling2D(31 / 22, seed=1), FractionalMaxPooling2D(31 / 22, seed=1)
    images = np.concatenate([ramp(31), ramp(31)])
    calls = [np.asarray(once(images, training=True)) for _ in range(8)]
    for call in calls:
        np.testing.assert_array_equal(call, again(images, training=True))
        np.testing.assert_array_equal(call[0], call[1])
    assert len({call.tobytes() for call in calls}) > 1


def test_regions_are_drawn_at_inference_only_on_request():
    layer = FractionalMaxPooling2D(31 / 22, inference="random", seed=1)
    assert len({np.asarray(layer(ramp(31))).tobytes() for _ in range(8)}) > 1


@pytest.mark.parametrize("overlapping", [True, False])
def test_each_output_is_the_maximum_of_its_region(overlapping):
    layer = FractionalMaxPooling2D(31 / 22, overlapping=overlapping)
    rows, columns = ends(FractionalMaxPooling2D(31 / 22, overlapping=False)(ramp(31)))
    images = np.random.default_rng(0).normal(size=(2, 31, 31, 3)).astype("float32")
    pooled = np.asarray(layer(images))
    for i, bottom in enumerate(rows):
        for j, right in enumerate(columns):
            top, left = (rows[i - 1] + 1 if i else 0), (columns[j - 1] + 1 if j else 0)
            region = images[:, top : bottom + 1 + overlapping, left : right + 1 + overlapping]
            np.testing.assert_array_equal(pooled[:, i, j], region.max(axis=(1, 2)))


@needs_tensorflow
@pytest.mark.parametrize(
    ("side", "ratio", "overlapping"), [(31, 31 / 22, False), (9, 9 / 6, True), (23, 2.3, False)]
)
def test_random_regions_are_distributed_as_those_of_tensorflow(side, ratio, overlapping):
    import tensorflow as tf

    draws = range(1, 201)
    layer = FractionalMaxPooling2D(ratio, overlapping=overlapping, seed=0)
    how = {"pseudo_random": True, "overlapping": overlapping}
    ours = [ends(layer(ramp(side), training=True)) for _ in draws]
    theirs = [
        ends(tf.nn.fractional_max_pool(ramp(side), [1, ratio, ratio, 1], seed=seed, **how)[0])
        for seed in draws
    ]
    mine, reference = [[cuts for pair in pairs for cuts in pair] for pairs in (ours, theirs)]
    assert set(mine) == set(reference)  # the same cuts occur
    # and as often: cuts shifted further have a larger sum
    assert ks_2samp([sum(cuts) for cuts in mine], [sum(cuts) for cuts in reference]).pvalue > 0.01
    assert len(set(ours)) > len(set(mine))  # rows and columns are drawn apart


@needs_tensorflow
def test_gradients_go_to_the_maxima():
    import tensorflow as tf

    layer = FractionalMaxPooling2D(9 / 6, overlapping=False)
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(images)
        pooled = layer(images)
    gradient = np.asarray(tape.gradient(pooled, images))
    np.testing.assert_array_equal(gradient, np.isin(images.numpy(), pooled.numpy()).astype("float32"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pool_ratio": 0.9}, "at least 1"),
        ({"pool_ratio": (1.5, 1.5, 1.5)}, "one or two numbers"),
        ({"pool_ratio": 1.5, "inference": "mean"}, 'must be "fixed" or "random"'),
    ],
)
def test_wrong_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        FractionalMaxPooling2D(**given)


def test_images_of_unknown_size_are_refused():
    with pytest.raises(ValueError, match="known size"):
        FractionalMaxPooling2D(1.5)(keras.Input((None, None, 3)))


def dropping():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])


LAYERS = [
    (FractionalMaxPooling2D((1.4, 1.5), overlapping=False, inference="random", seed=3), (9, 9, 3)),
    (PatchWhitening(patch=3), (9, 9, 3)),
    (PositionEmbedding(), (7, 4)),
    (PositionEmbedding(learned=False, seed=5), (7, 4)),
    (Unreached([keras.layers.Conv2D(5, 3), keras.layers.BatchNormalization()]), (9, 9, 3)),
    (Marginal((3, 4), 1), (12,)),
    (SettledNormalization(), (9, 9, 3)),
    (AtInference(dropping()), (6,)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: getattr(value, "name", None))
def test_layers_survive_saving_in_safe_mode(layer, shape, tmp_path):
    given = keras.Input(shape)
    model = keras.Model(given, layer(given))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    same = type(layer).from_config(layer.get_config())
    assert same.get_config() == layer.get_config()
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("float32")
    outputs = [np.asarray(m(x, training=False)) for m in (model, loaded)]
    assert outputs[0].shape == outputs[1].shape == (2, *layer.compute_output_shape((2, *shape))[1:])
    if not isinstance(layer, FractionalMaxPooling2D):  # drawn anew in every pass
        np.testing.assert_array_equal(*outputs)


def test_every_layer_of_ours_is_registered_under_our_name():
    for layer, _ in LAYERS:
        assert keras.saving.get_registered_name(type(layer)) == f"labkit>{type(layer).__name__}"


def test_a_constant_embedding_is_no_weight_and_a_function_of_its_seed():
    tokens = np.zeros((1, 7, 4), "float32")
    layer = PositionEmbedding(learned=False, seed=5)
    told = np.asarray(layer(tokens))
    assert not layer.weights
    assert np.abs(told).max() > 0.01
    np.testing.assert_array_equal(told, PositionEmbedding(learned=False, seed=5)(tokens))
    assert (told != np.asarray(PositionEmbedding(learned=False, seed=6)(tokens))).any()


def test_unreached_layers_are_counted_and_change_nothing():
    layer = Unreached([keras.layers.Conv2D(5, 3), keras.layers.BatchNormalization()])
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    np.testing.assert_array_equal(layer(x), x)
    assert layer.count_params() == 3 * 3 * 3 * 5 + 5 + 4 * 5


@pytest.mark.parametrize(
    "layer", [SettledNormalization(), AtInference(dropping())], ids=["settled", "at inference"]
)
def test_networks_at_inference_stay_so_inside_a_model_in_training(layer):
    given = keras.Input((6,))
    model = keras.Model(given, layer(given))
    x = np.random.default_rng(0).normal(3, 2, (8, 6)).astype("float32")
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    assert model.trainable_weights
