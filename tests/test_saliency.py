"""Where a network looks: maps find the place that decides, in the pixels where it lies."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from labkit import models, saliency
from labkit.errors import ModelError

RED, GREEN = 0, 1
SPOTS = {RED: (9, 21), GREEN: (20, 11)}


def colours() -> keras.Model:
    """A network whose head "colour" counts red places against green ones, and whose head "none" is blind."""
    images = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255)(images)
    x = layers.Conv2D(2, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(2, 3, strides=2, use_bias=False, name="strided")(x)
    x = layers.ReLU(name="last")(x)
    x = layers.GlobalAveragePooling2D()(x)
    heads = {"colour": layers.Dense(2, name="colour")(x), "none": layers.Dense(2, name="none")(x)}
    model = keras.Model(images, heads, name="colours")
    each = np.zeros((3, 3, 3, 2))
    each[:, :, RED, RED], each[:, :, RED, GREEN] = 1, -1
    each[:, :, GREEN, GREEN], each[:, :, GREEN, RED] = 1, -1
    model.get_layer("conv").set_weights([each])
    model.get_layer("strided").set_weights([np.eye(2) * np.ones((3, 3, 1, 1))])
    model.get_layer("colour").set_weights([np.array([[9, -9], [-9, 9]]), np.zeros(2)])
    model.get_layer("none").set_weights([np.zeros((2, 2)), np.zeros(2)])
    return model


def spotted() -> np.ndarray:
    """One black image with a red and a green spot."""
    image = np.zeros((1, 32, 32, 3), np.uint8)
    for colour, (y, x) in SPOTS.items():
        image[0, y - 1 : y + 2, x - 1 : x + 2, colour] = 255
    return image


def top(found: np.ndarray) -> np.ndarray:
    """The place of a map's maximum."""
    return np.array(np.unravel_index(found.argmax(), found.shape))


@pytest.mark.parametrize("layer", [None, "relu"])
@pytest.mark.parametrize("colour", [RED, GREEN])
def test_a_class_map_lies_over_what_raises_the_class(colour, layer):
    asked = {"colour": np.array([colour]), "none": np.array([colour])}
    maps = saliency.class_maps(colours(), spotted(), asked, layer=layer)
    assert maps["colour"].shape == (1, 32, 32)
    assert np.abs(top(maps["colour"][0]) - SPOTS[colour]).max() <= 1
    other = SPOTS[1 - colour]
    assert maps["colour"][0][other] == 0
    assert maps["none"].max() == 0


def test_class_maps_are_the_same_on_jax():
    command = [sys.executable, "-m", "pytest", "-q", "-n0", __file__, "-k", "class_map_lies"]
    ended = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.startswith("....")


@pytest.mark.parametrize("network", ["accn", "accnl", "fmp3"])
@pytest.mark.parametrize("place", [(10, 21), (19, 12)])
def test_places_of_a_map_lie_at_what_they_see(network, place):
    keras.utils.set_random_seed(1)
    model = models.build(network)
    chain = saliency._chain(model, saliency._last_large_map(model))
    body = keras.Model(model.input, chain[-1].output)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    without = np.asarray(body(image))
    image[:, place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2] = 255
    excited = np.abs(np.asarray(body(image)) - without).sum(axis=-1)
    found = saliency._over_pixels(excited, chain, (32, 32))[0]
    assert np.abs(top(found) - place).max() <= 3  # its places lie two to three pixels apart


def test_a_border_and_a_larger_size_move_places_back():
    images = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(16)(images)
    x = layers.Resizing(128, 128)(x)
    model = keras.Model(images, layers.MaxPooling2D(2)(x))
    found = saliency._middles(model.layers, 1)
    assert found[0] == 0 and found[-1] == 31  # the border has no pixel of its own
    np.testing.assert_allclose(found[16:-16], np.arange(32), atol=1.0)
    np.testing.assert_allclose(np.diff(found[17:-17]), 1.0)


@pytest.mark.parametrize(
    ("network", "layer", "words"),
    [
        ("accn", "relu55", "no layer 'relu55'"),
        ("accn", "mean", "hiding_maps"),
        ("resnet8", None, "hiding_maps"),
    ],
)
def test_what_has_no_places_is_refused(network, layer, words):
    model = models.build(network)
    with pytest.raises(ModelError, match=words):
        saliency.class_maps(model, spotted(), {"first": np.array([0])}, layer=layer)


def test_hiding_maps_find_the_patch_that_decides():
    maps = saliency.hiding_maps(colours(), np.maximum(spotted(), 1), {"colour": np.array([RED])})["colour"][0]
    y, x = SPOTS[RED]
    assert maps[y, x] > 0
    assert maps[SPOTS[GREEN]] == 0


def test_agreement_tells_the_same_image_from_another():
    draw = np.random.default_rng(0)
    some = {"first": draw.random((5, 8, 8))}
    noisy = {"first": some["first"] + 0.1 * draw.random((5, 8, 8))}
    same, different = saliency.agreement(some, noisy)
    assert same > 0.9 > 0.4 > abs(different)
    assert np.isnan(saliency.agreement(some, {"first": np.zeros((5, 8, 8))})).all()
