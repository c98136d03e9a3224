import json
import os
import random
import re
import subprocess
import sys
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from printed import ROWS, SIZES, TABLES

from labkit import models
from labkit.errors import ModelError
from labkit.models.layers import PatchWhitening, Unreached

HEADS = ("first", "second")
# these take seconds to build and more to save
LARGE = ("inception_transfer", "resnet50v2", "xception", "efficientnetv2b0", "lacnn")
# and these to save, while models of the same layers are quicker
SLOW = ("custom_resnet34_dropout", "custom_vgg16", "inception", "resnet44", "resnet_aug")
ONE_A_FAMILY = (
    "cnn1",
    "vgg",
    "cct",
    "resnet8",
    "inception",
    "mobilenetv2",
    "accn",
    "fmp3",
    "label_cleaner",
    "whitened",
)
REPORTED = [name for name in models.names() if models.card(name).report != "own"]
CHAPTERS = {"noisy_cifar", "animals", "dual_cifar", "cifar100", "any"}
SMALL_BACKBONE = {"input_shape": (32, 32, 3), "classes": 2}

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the test takes gradients with TensorFlow's tape"
)


def marked(names, slow=LARGE):
    return [pytest.param(name, marks=pytest.mark.long) if name in slow else name for name in names]


@lru_cache
def kept(name):
    return models.build(name)


def built(name):
    """The default model of a name, built once for all tests unless it is large; nobody may train it."""
    return models.build(name) if name in LARGE else kept(name)


def drawn(tensor, n, rng):
    if tensor.name.startswith("label"):
        return np.eye(tensor.shape[-1], dtype="float32")[rng.integers(0, tensor.shape[-1], n)]
    return rng.integers(0, 256, (n, *tensor.shape[1:]), "uint8")


def batch(model, n=2, seed=0):
    """Images of noise (and noisy labels) as a model takes them, and one-hot labels as it tells them."""
    rng = np.random.default_rng(seed)
    inputs, outputs = model.input, model.output
    x = (
        {k: drawn(t, n, rng) for k, t in inputs.items()}
        if isinstance(inputs, dict)
        else drawn(inputs, n, rng)
    )
    y = keras.tree.map_structure(
        lambda t: np.eye(t.shape[-1], dtype="float32")[np.arange(n) % t.shape[-1]], outputs
    )
    return x, y


def flat(outputs):
    return np.concatenate([np.asarray(head).ravel() for head in keras.tree.flatten(outputs)])


def values(weights):
    return [keras.ops.convert_to_numpy(weight).copy() for weight in weights]


def equal(some, others):
    """Whether two lists of arrays, or of weights, hold the same numbers."""
    return all(np.array_equal(a, b) for a, b in zip(values(some), values(others), strict=True))


def forward(model, x, training=False):
    return model(
        keras.tree.map_structure(lambda a: keras.ops.convert_to_tensor(a, "float32"), x), training=training
    )


def compiled(model, rate=0.01):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    losses = dict.fromkeys(model.output, loss) if isinstance(model.output, dict) else loss
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=losses, run_eagerly=True)
    return model


def gradients(model, x, y):
    """The gradient for each trainable weight, None where the loss does not depend on it, in inference mode.

    In training mode a bias before batch normalization has none: the normalization takes it out again.
    """
    import tensorflow as tf

    with tf.GradientTape() as tape:
        told = forward(model, x)
        pairs = zip(keras.tree.flatten(y), keras.tree.flatten(told), strict=True)
        loss = sum(
            tf.reduce_mean(keras.losses.categorical_crossentropy(true, head, from_logits=True))
            for true, head in pairs
        )
    found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    return [None if gradient is None else np.asarray(gradient) for gradient in found]


# --- sizes


def forms():
    for name in models.names():
        for number, form in enumerate(models.card(name).forms):
            given = "-".join(f"{option}={value}" for option, value in form.options.items())
            slow = number > 0 and name in (*LARGE, "mobilenetv2")
            yield pytest.param(
                name, form, id=f"{name}-{given}".strip("-"), marks=[pytest.mark.long] if slow else []
            )


@pytest.mark.parametrize(("name", "form"), forms())
def test_every_form_has_the_size_its_card_says(name, form):
    model = models.build(name, **form.options) if form.options else built(name)
    assert models.counts(model) == form.counts
    assert models.macs(model) / 1e6 == pytest.approx(form.millions, rel=2e-4, abs=0.006)


@pytest.mark.parametrize("name", REPORTED)
def test_cards_carry_what_the_reports_print(name):
    card = models.card(name)
    ran = [form for form in card.forms if set(form.options) <= {"as_run"}][-1]
    total, trainable, millions = SIZES[name]
    assert ran.total == total
    assert trainable is None or ran.trainable == trainable
    assert ran.millions == pytest.approx(millions, rel=0.02)


def test_cleaners_are_as_large_as_their_classifiers_make_them():
    sizes = {form.options["classifier"]: form.counts for form in models.card("label_cleaner").forms[2:]}
    assert sizes == {
        "cct": models.Counts(646_643, 646_367, 276),
        "resnet8": models.Counts(112_818, 112_062, 756),
        "resnet44": models.Counts(700_146, 696_702, 3_444),
    }


def summary_rows(name, model):
    """The rows of a summary as the reports' code prints it: activations fused, blocks where it had them."""
    inside = (keras.layers.Rescaling, keras.layers.RandomFlip, keras.layers.LeakyReLU)
    layers = [layer for layer in model.layers if not isinstance(layer, inside)]
    if name in ("accnrr", "accnl"):
        layers = [layer for layer in layers if not isinstance(layer, keras.layers.ReLU)]
    if name == "lacnn":
        layers = [layer for layer in layers[1:] if not isinstance(layer, keras.layers.ReLU)]
    if name == "fmp3":
        layers = [layer for layer in layers if not re.match("image|flatten|dropout", layer.name)]
    rows = []
    for layer in layers:
        block = re.match(r"block\d(?=_)", layer.name) or re.match(r"pool\d", layer.name)
        row = (tuple(keras.tree.flatten(layer.output)[0].shape[1:]), layer.count_params())
        if block and rows and (layer.name.startswith("pool") or rows[-1][2] == block.group()):
            row = (row[0], row[1] + rows.pop()[1])
        rows.append((*row, block and block.group()))
    return [row[:2] for row in rows]


@pytest.mark.parametrize("name", marked(TABLES))
def test_printed_layer_tables_are_reproduced_row_by_row(name):
    assert len(TABLES[name]) == ROWS[name]
    assert sum(parameters for _, parameters in TABLES[name]) == SIZES[name][0]
    assert summary_rows(name, models.build(name, as_run=True)) == TABLES[name]


def test_residual_blocks_of_report_002_have_its_sizes():
    model = built("custom_resnet")
    sizes = {}
    for layer in model.layers:
        if block := re.match(r"stage\d_block\d", layer.name):
            sizes[block.group()] = sizes.get(block.group(), 0) + layer.count_params()
    assert list(sizes.values()) == [
        74_368,
        74_368,
        230_784,
        296_192,
        920_320,
        1_182_208,
        3_675_648,
        4_723_712,
    ]


# --- what every model does


@pytest.mark.parametrize("name", marked(models.names()))
def test_outputs_are_logits_of_the_declared_shape(name):
    model, card = built(name), models.card(name)
    told = forward(model, batch(model)[0])
    if isinstance(card.classes, dict):
        assert {head: tuple(logits.shape) for head, logits in told.items()} == dict.fromkeys(HEADS, (2, 5))
    else:
        assert tuple(told.shape) == (2, card.classes)
    assert np.isfinite(flat(told)).all()
    for tensor in keras.tree.flatten(model.output):
        last = tensor._keras_history.operation
        assert getattr(last, "activation", keras.activations.linear) is keras.activations.linear


@pytest.mark.parametrize("name", ["cnn1", "mlp", "label_cleaner", "whitened"])
def test_bytes_and_floats_of_the_same_image_are_the_same(name):
    model = built(name)
    x, _ = batch(model)
    floats = keras.tree.map_structure(lambda a: a.astype("float32"), x)
    np.testing.assert_array_equal(model.predict_on_batch(x), model.predict_on_batch(floats))


@pytest.mark.parametrize("name", marked(models.names(), LARGE + SLOW))
def test_saved_models_load_in_safe_mode_with_equal_outputs(name, tmp_path):
    model = built(name)
    x, _ = batch(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(flat(forward(model, x)), flat(forward(loaded, x)))
    assert models.counts(loaded) == models.counts(model)


# adding a constant to all scores that a softmax compares changes nothing, so these biases have no gradient
INDIFFERENT = {"cct": ("block1_attention/key/bias", "block2_attention/key/bias", "pool_scores/bias")}


@needs_tensorflow
@pytest.mark.parametrize("name", marked(models.names()))
def test_every_trainable_weight_has_a_gradient(name):
    model = built(name)
    found = dict(
        zip([w.path for w in model.trainable_weights], gradients(model, *batch(model, 4)), strict=True)
    )
    for path in INDIFFERENT.get(name, ()):
        assert np.abs(found.pop(path)).max() < 1e-6
    assert found
    for path, gradient in found.items():
        assert gradient is not None, path
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


@needs_tensorflow
def test_the_gradient_test_finds_the_dead_convolutions_of_report_002():
    model = models.build("custom_resnet", as_run=True)
    found = zip(model.trainable_weights, gradients(model, *batch(model)), strict=True)
    dead = [weight for weight, gradient in found if gradient is None or not gradient.any()]
    held = [w for layer in model.layers if isinstance(layer, Unreached) for w in layer.trainable_weights]
    assert {id(weight) for weight in dead} == {id(weight) for weight in held}
    assert sum(int(np.prod(weight.shape)) for weight in dead) == 3_173_376


@pytest.mark.parametrize(
    "name",
    [name if name in ONE_A_FAMILY else pytest.param(name, marks=pytest.mark.long) for name in models.names()],
)
def test_a_model_is_a_function_of_name_and_seed(name, capfd):
    random.seed(11)
    np.random.seed(11)  # noqa: NPY002  (the global state is what is watched)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = models.build(name, seed=5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.seed(99)
    second = models.build(name, seed=5)
    assert capfd.readouterr() == ("", "")
    assert [layer.name for layer in walk(first)] == [layer.name for layer in walk(second)]
    assert equal(first.weights, second.weights)


def walk(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from walk(layer)


@pytest.mark.parametrize("name", ["cnn1", "cct", "whitened"])
def test_another_seed_gives_other_weights(name):
    first, second = models.build(name, seed=1), models.build(name, seed=2)
    assert not equal(first.weights, second.weights)
    names_of = [[layer.name for layer in model.layers] for model in (first, second)]
    assert names_of[0] == names_of[1]


@pytest.mark.parametrize("name", ["vgg", "cct", "fmp3"])
def test_dropout_and_jitter_are_a_function_of_the_seed(name):
    first, second = models.build(name, seed=3), models.build(name, seed=3)
    x, _ = batch(first)
    once = flat(forward(first, x, training=True))
    np.testing.assert_array_equal(once, flat(forward(second, x, training=True)))
    assert (once != flat(forward(first, x, training=True))).any()


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("vgg", "mixed_bfloat16"),
        ("cct", "mixed_bfloat16"),
        ("label_cleaner", "mixed_bfloat16"),
        ("custom_vgg", "mixed_float16"),
        ("fmp3", "mixed_float16"),
        ("whitened", "mixed_float16"),
    ],
)
def test_models_train_under_mixed_precision_and_tell_float32_logits(name, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = models.build(name)
    finally:
        keras.config.set_dtype_policy(before)
    x, y = batch(model)
    assert {tensor.dtype for tensor in keras.tree.flatten(model.output)} == {"float32"}
    assert np.isfinite(compiled(model).train_on_batch(x, y, return_dict=True)["loss"])


ANIMALS = [name for name in models.names() if models.card(name).chapter == "animals"]


@pytest.mark.parametrize("name", [name for name in ANIMALS if name not in ("xception", *LARGE)])
def test_animal_models_take_smaller_images_and_fewer_classes(name):
    model = models.build(name, input_shape=(64, 64, 3), classes=2)
    assert model.predict_on_batch(batch(model)[0]).shape == (2, 2)


def test_two_heads_may_differ_in_classes():
    model = models.build("accn", classes={"second": 3, "first": 7})
    assert {head: tensor.shape[-1] for head, tensor in model.output.items()} == {"first": 7, "second": 3}
    assert models.spec(model)["classes"] == {"first": 7, "second": 3}
    assert list(models.build("accn", classes=4).output) == list(HEADS)


# --- the register


def test_names_match_patterns_and_stay_in_the_order_of_reports():
    assert models.names("custom_vgg*") == ("custom_vgg", "custom_vgg_l1", "custom_vgg_l2", "custom_vgg16")
    assert models.names("nothing*") == ()
    reports = [models.card(name).report for name in models.names()]
    assert reports == sorted(reports)
    assert set(SIZES) | {"whitened"} == set(models.names())
    assert len(set(models.names())) == len(models.names())


@pytest.mark.parametrize("name", models.names())
def test_cards_are_complete(name):
    card = models.card(name)
    assert card.sentence.endswith(".")
    assert card.chapter in CHAPTERS
    assert card.forms[0].options == {}
    assert card.counts == card.forms[0].counts
    assert ("as_run" in card.options) == bool(card.as_run)
    assert not card.as_run or card.as_run.endswith(".")
    assert not card.paper or re.fullmatch(
        r"[A-Z]\w+ \d{4}, arXiv:\d{4}\.\d{5}|[A-Z]\w+ \d{4}, arXiv:\d{4}\.\d{4}", card.paper
    )


def test_the_table_of_cards_has_a_row_for_each_name():
    table = models.cards()
    assert tuple(table.index) == models.names()
    assert table.loc["vgg", "parameters"] == 814_122
    assert table.loc["cct", "as the report ran it"].startswith("The position embedding")
    assert len(models.cards("resnet*")) == len(models.names("resnet*"))


def test_an_overview_says_what_networks_are_and_how_large():
    table = models.overview(["cnn2", "vgg"])
    assert table.index.tolist() == ["cnn2", "vgg"]
    assert (
        table.loc["cnn2", "what it is"]
        == "The net of cnn1 with batch normalization of the flattened features."
    )
    assert table.loc["vgg"].tolist() == [models.card("vgg").sentence, "814,122", "39.2"]


@pytest.mark.parametrize("name", ["cnn1", "accn", "whitened"])
def test_a_spec_survives_json_and_builds_the_same_model(name):
    model = models.build(name, seed=4)
    spec = json.loads(json.dumps(models.spec(model)))
    assert spec["name"] == name
    again = models.build(
        spec["name"],
        input_shape=tuple(spec["input_shape"]),
        classes=spec["classes"],
        seed=spec["seed"],
        **spec["options"],
    )
    assert equal(model.weights, again.weights)


def test_the_spec_of_a_cleaner_tells_its_classifier():
    classifier = models.build("cnn1", classes=3, seed=8)
    spec = models.spec(models.build("label_cleaner", classifier=classifier))
    assert spec["options"]["classifier"]["name"] == "cnn1"
    assert spec["options"]["classifier"]["seed"] == 8
    assert (spec["classes"], spec["input_shape"]) == (3, [32, 32, 3])


def test_a_model_from_elsewhere_has_no_spec():
    with pytest.raises(ModelError, match=r"Nothing is known of how the model 'mine' was built"):
        models.spec(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="mine"))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vg", {}, "Did you mean 'vgg'?"),
        ("resnet_50", {}, "Did you mean 'resnet50v2'?"),
        ("label_cleaner", {"clasifier": "vgg"}, "Did you mean 'classifier'?"),
        ("vgg", {"frieze": 3}, "Expected: no options"),
        ("whitened", {"as_run": True}, "'whitened' has no option 'as_run'."),
        ("cct", {"as_run": "yes"}, "as_run is 'yes'."),
        ("vgg", {"input_shape": (32, 32)}, "input_shape is (32, 32)."),
        ("vgg", {"input_shape": (32, 0, 3)}, "input_shape is (32, 0, 3)."),
        ("vgg", {"classes": 1}, "classes is 1."),
        ("vgg", {"classes": {"first": 5, "second": 5}}, "'vgg' has one head"),
        ("accn", {"classes": {"first": 5, "third": 5}}, "Expected: a number for each of ('first', 'second')"),
        ("vgg", {"input_shape": (4, 4, 3)}, "'vgg' cannot be built for images of 4×4×3"),
        ("mid", {"input_shape": (16, 16, 3)}, "'mid' cannot be built for images of 16×16×3"),
        ("accn", {"input_shape": (12, 12, 3)}, "give larger images"),
        ("fmp3", {"input_shape": (8, 8, 3)}, "'fmp3' cannot be built for images of 8×8×3"),
        ("xception", {"input_shape": (64, 64, 3)}, "must be at least 71x71"),
        ("inception_transfer", {"input_shape": (16, 16, 3)}, "must be at least 75x75"),
        ("mobilenetv2", {"freeze": "some"}, "freeze is 'some'."),
        ("mobilenetv2", {"freeze": "below_top", "top": 0}, "top is 0."),
        ("fmp3", {"inference": "mean"}, 'inference must be "fixed" or "random"'),
        (
            "whitened",
            {"joint": (5, 5), "classes": {"first": 5, "second": 4}},
            "joint=(5, 5) does not go with",
        ),
    ],
)
def test_mistakes_are_named_with_the_way_out(name, given, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        models.build(name, **given)


# --- as run and as meant


def test_a_flip_is_in_accnrr_unless_as_run():
    def has_flip(model):
        return any(isinstance(layer, keras.layers.RandomFlip) for layer in model.layers)

    assert has_flip(models.build("accnrr"))
    assert not has_flip(models.build("accnrr", as_run=True))


def test_the_constant_position_embedding_of_report_000_survives_saving(tmp_path):
    model = models.build("cct", as_run=True)
    x, _ = batch(model)
    model.save(tmp_path / "cct.keras")
    loaded = keras.saving.load_model(tmp_path / "cct.keras")
    np.testing.assert_array_equal(model.predict_on_batch(x), loaded.predict_on_batch(x))
    assert not any("embedding" in weight.path for weight in model.weights)


def test_fractional_pooling_is_fixed_at_inference_unless_as_run():
    meant, ran = models.build("fmp3"), models.build("fmp3", as_run=True)
    x, _ = batch(meant)
    np.testing.assert_array_equal(flat(forward(meant, x)), flat(forward(meant, x)))
    assert (flat(forward(ran, x)) != flat(forward(ran, x))).any()


def test_as_run_passes_for_models_that_it_does_not_change():
    one, other = models.build("vgg"), models.build("vgg", as_run=True)
    assert equal(one.weights, other.weights)


def test_penalties_reach_the_convolutions():
    assert not models.build("custom_vgg").losses
    assert len(models.build("custom_vgg_l2").losses) == 10
    assert len(models.build("custom_vgg16").losses) == 14
    assert len(models.build("accnrr").losses) == 2
    assert len(models.build("custom_resnet10").losses) == 12
    assert len(models.build("custom_resnet10", as_run=True).losses) == 9


# --- numbers from training images


def photographs(n=64, size=32):
    """Smooth coloured noise, whose neighbouring pixels are alike as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (n, size // 4, size // 4, 3))
    return (np.kron(coarse, np.ones((1, 4, 4, 1))) + rng.integers(0, 50, (n, size, size, 3))).astype("uint8")


def test_adapt_standardizes_the_channels_even_after_a_prediction():
    model = models.build("mlp")
    images = photographs()
    before = model.predict(images, verbose=0)
    models.adapt(model, images)
    normalized = np.asarray(model.get_layer("normalize")(images.astype("float32")))
    np.testing.assert_allclose(normalized.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalized.std(axis=(0, 1, 2)), 1, atol=1e-3)
    after = model.predict(images, verbose=0)
    assert np.abs(after - before).max() > 1
    np.testing.assert_allclose(after, forward(model, images), atol=1e-4)


def test_adapted_numbers_are_saved_with_the_weights(tmp_path):
    images = photographs()
    for name in ("mlp", "whitened"):
        model, fresh = models.build(name), models.build(name, seed=1)
        models.adapt(model, images)
        model.save_weights(tmp_path / "model.weights.h5")
        fresh.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(flat(forward(model, images)), flat(forward(fresh, images)))


def test_adapt_leaves_other_models_alone():
    model = models.build("cnn1")
    before = values(model.weights)
    models.adapt(model, photographs())
    assert equal(before, model.weights)


def test_whitened_patches_are_uncorrelated():
    model = models.build("whitened")
    images = photographs(200)
    layer = model.get_layer("whiten")
    models.adapt(model, images)
    assert not layer.trainable_weights
    patches = np.asarray(layer(images.astype("float32"))).reshape(-1, 24)
    np.testing.assert_allclose(patches[:, :12], -patches[:, 12:], atol=1e-4)
    covariance = np.cov(patches[:, :12], rowvar=False)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-2)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.05)
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-2)


def test_joint_logits_are_the_marginals_of_all_pairs():
    model = models.build("whitened", joint=(3, 4))
    assert models.spec(model)["classes"] == {"first": 3, "second": 4}
    x, _ = batch(model)
    pairs = keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(x).astype("float64")
    shares = np.exp(pairs).reshape(-1, 3, 4)
    told = model.predict_on_batch(x)
    np.testing.assert_allclose(told["first"], np.log(shares.sum(axis=2)), atol=1e-5)
    np.testing.assert_allclose(told["second"], np.log(shares.sum(axis=1)), atol=1e-5)


def test_whitened_takes_widths_depth_and_two_heads():
    model = models.build("whitened", widths=(8, 16), depth=3, classes={"first": 5, "second": 5})
    convolutions = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert convolutions == [8, 8, 8, 16, 16, 16]
    assert set(model.output) == set(HEADS)
    assert any(isinstance(layer, PatchWhitening) for layer in model.layers)


# --- the label cleaner


def test_training_a_cleaner_leaves_its_classifier_as_it_was():
    classifier = models.build("vgg", seed=2)
    cleaner = compiled(models.build("label_cleaner", classifier=classifier), rate=0.5)
    x, y = batch(cleaner, 8)
    before = values(classifier.weights)
    copied = values(cleaner.get_layer("features").weights)
    head = values(cleaner.trainable_weights)
    cleaner.train_on_batch(x, y)
    assert equal(before, classifier.weights)
    assert equal(copied, cleaner.get_layer("features").weights)
    assert not equal(head, cleaner.trainable_weights)


def test_training_a_cleaner_as_run_moves_its_classifier():
    classifier = models.build("vgg", seed=2)
    cleaner = compiled(models.build("label_cleaner", classifier=classifier, as_run=True), rate=0.5)
    before = values(classifier.weights)
    cleaner.train_on_batch(*batch(cleaner, 8))
    assert not equal(before, classifier.weights)


@pytest.mark.parametrize("name", ["resnet8", "custom_vgg", "whitened"])
def test_a_cleaner_sees_the_features_of_a_trained_classifier(name):
    images = photographs()
    classifier = models.build(name, classes=10, seed=1)
    models.adapt(classifier, images)
    compiled(classifier).train_on_batch(images, np.eye(10, dtype="float32")[np.arange(64) % 10])
    features = keras.Model(classifier.input, classifier.get_layer("logits").input)
    copy = models.build("label_cleaner", classifier=classifier).get_layer("features")
    np.testing.assert_allclose(forward(copy, images), forward(features, images), atol=1e-5)


def test_only_the_cleaner_as_run_clips_what_it_tells():
    for as_run, within in ((True, True), (False, False)):
        cleaner = models.build("label_cleaner", classifier="cnn1", as_run=as_run)
        x, _ = batch(cleaner, 16)
        x["label"] = 5 * x["label"]
        told = cleaner.predict_on_batch(x)
        assert (told.min() >= 0 and told.max() <= 1) == within


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ("accn", "The labels of 'accn' cannot be cleaned"),
        ("vggg", "Did you mean 'vgg'?"),
    ],
)
def test_a_cleaner_needs_a_classifier_with_one_head(classifier, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        models.build("label_cleaner", classifier=classifier)


def test_a_cleaner_must_fit_its_classifier():
    classifier = models.build("cnn1", classes=3)
    with pytest.raises(ModelError, match="tells 3 classes"):
        models.build("label_cleaner", classifier=classifier, classes=10)
    two_heads = models.build("accn")
    with pytest.raises(ModelError, match="cannot be cleaned"):
        models.build("label_cleaner", classifier=two_heads)


# --- backbones


def backbone(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def test_below_top_frees_the_last_layers_and_as_run_the_others():
    meant = backbone(models.build("mobilenetv2", freeze="below_top", top=4, **SMALL_BACKBONE))
    ran = backbone(models.build("mobilenetv2", freeze="below_top", top=4, as_run=True, **SMALL_BACKBONE))
    assert [layer.trainable for layer in meant.layers] == [False] * (len(meant.layers) - 4) + [True] * 4
    assert [layer.trainable for layer in ran.layers] == [True] * (len(ran.layers) - 4) + [False] * 4


@pytest.mark.parametrize(
    ("options", "pretrained", "moves"),
    [
        ({"freeze": "all"}, True, False),
        ({"freeze": "none"}, True, False),
        ({"freeze": "none"}, False, True),  # there is nothing to keep
        ({"freeze": "none", "as_run": True}, True, True),
    ],
)
def test_batch_normalization_keeps_statistics_that_were_trained(options, pretrained, moves, tmp_path):
    if pretrained:
        options = options | {"weights": tmp_path / "backbone.weights.h5"}
        backbone(models.build("mobilenetv2", **SMALL_BACKBONE)).save_weights(options["weights"])
    model = compiled(models.build("mobilenetv2", **options, **SMALL_BACKBONE))
    before = values(model.non_trainable_weights)
    model.train_on_batch(*batch(model, 4))
    assert equal(before, model.non_trainable_weights) != moves


@pytest.mark.parametrize(("as_run", "lowest"), [(False, -1), (True, 0)])
def test_backbones_see_the_range_they_were_trained_on_unless_as_run(as_run, lowest):
    model = models.build("mobilenetv2", as_run=as_run, **SMALL_BACKBONE)
    seen = np.asarray(model.get_layer("rescale")(np.array([[0.0, 127.5, 255.0]], "float32")))
    np.testing.assert_allclose(seen, [[lowest, (lowest + 1) / 2, 1]], atol=1e-6)


@pytest.mark.parametrize("published", [True, False], ids=["published format", "Keras 3 format"])
def test_backbone_weights_come_from_a_file(published, tmp_path):
    donor = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    file = tmp_path / ("mobilenet_notop.h5" if published else "mobilenet_notop.weights.h5")
    if published:
        with h5py.File(file, "w") as archive:
            legacy_h5_format.save_weights_to_hdf5_group(archive, donor)
    else:
        donor.save_weights(file)
    model = models.build("mobilenetv2", weights=str(file) if published else file, **SMALL_BACKBONE)
    assert equal(donor.weights, backbone(model).weights)
    assert models.spec(model)["options"]["weights"] == file.name


def test_weights_that_are_missing_or_do_not_fit_say_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"There is no weights file '.*gone\.h5'(.|\n)*weights=None"):
        models.build("mobilenetv2", weights=tmp_path / "gone.h5", **SMALL_BACKBONE)
    models.build("cnn1").save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match=r"'other\.weights\.h5' does not fit"):
        models.build("mobilenetv2", weights=tmp_path / "other.weights.h5", **SMALL_BACKBONE)
    (tmp_path / "broken.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"'broken\.weights\.h5' does not fit"):
        models.build("mobilenetv2", weights=tmp_path / "broken.weights.h5", **SMALL_BACKBONE)


def test_pixels_of_efficientnet_are_those_of_keras():
    shape = (64, 64, 3)
    net = keras.applications.EfficientNetV2B0(weights=None, include_top=False, input_shape=shape)
    theirs = keras.Model(net.input, net.get_layer("normalization").output)
    model = models.build("efficientnetv2b0", input_shape=shape, classes=10)
    ours = keras.Model(model.input, model.get_layer("rescale").output)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("float32")
    np.testing.assert_allclose(ours(images), theirs(images), atol=1e-5)


def test_imagenet_without_a_network_never_falls_back(monkeypatch, tmp_path):
    from keras.src.applications import mobilenet_v2

    uncached = partial(mobilenet_v2.file_utils.get_file, cache_dir=tmp_path)
    monkeypatch.setattr(mobilenet_v2.file_utils, "get_file", uncached)
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(ModelError, match=r"could not be fetched(.|\n)*_notop\.h5(.|\n)*weights=None"):
        models.build("mobilenetv2", weights="imagenet", **SMALL_BACKBONE)


# --- other backends

WALK = Path(__file__).resolve().parents[1] / "bench" / "models.py"
QUICK = ["mlp", "fmp3", "whitened"]


def walked(backend, names, folder):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(WALK.parents[1])}
    command = [sys.executable, WALK, *names, "--walk", folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def check_backend(backend, names, folder):
    """Models saved here give the same outputs under another backend, where each trains a step."""
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")  # PyTorch is in no extra: where it is, it is tested
    for name in names:
        model = built(name)
        x, _ = import_walk().batch(model, 2)
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", import_walk().outputs(model, x, keras))
    rows = walked(backend, names, folder)
    assert set(rows) == set(names)
    for name, row in rows.items():
        assert np.isfinite(row["loss"]), name
        scale = np.abs(np.load(folder / f"{name}.npy")).max()
        assert row["difference"] <= 1e-4 * max(scale, 1), name


@lru_cache
def import_walk():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("bench_models", WALK)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_models_build_train_and_agree_without_tensorflow(backend, tmp_path):
    check_backend(backend, QUICK, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", [name for name in models.names() if name not in QUICK])
def test_every_other_model_builds_trains_and_agrees_without_tensorflow(backend, name, tmp_path):
    check_backend(backend, [name], tmp_path)
