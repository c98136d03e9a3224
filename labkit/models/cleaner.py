"""The label-cleaning network: Veit 2017, arXiv:1701.01619."""

import keras
from keras import layers

from labkit.errors import ModelError
from labkit.models.layers import AtInference
from labkit.models.registry import Classes, Form, Shape, build, register


@register(
    chapter="noisy_cifar",
    report="000",
    paper="Veit 2017, arXiv:1701.01619",
    figure="0.766 on vgg, 0.705 on cct, 0.713 on resnet8, 0.772 on resnet44",
    as_run="Outputs clipped to 0-1 are trained as logits, and training moves the classifier's own layers.",
    forms=[
        Form(834_002, 22_174, 39.18),
        Form(834_002, 833_726, 39.18, {"as_run": True}),
        Form(646_643, 646_367, 233.74, {"classifier": "cct", "as_run": True}),
        Form(112_818, 112_062, 14.61, {"classifier": "resnet8", "as_run": True}),
        Form(700_146, 696_702, 99.55, {"classifier": "resnet44", "as_run": True}),
    ],
)
def label_cleaner(
    input_shape: Shape, classes: Classes, *, classifier: str | keras.Model = "vgg", as_run: bool = False
) -> keras.Model:
    """A frozen copy of a classifier's features and a noisy label in, the true label out.

    `classifier` is a trained model. A name stands for a new one of that name, enough to look at sizes.
    """
    if isinstance(classifier, str):
        classifier = build(
            classifier, input_shape=input_shape, classes=classes, **({"as_run": True} if as_run else {})
        )
    features = _features(classifier, input_shape, classes)
    image = keras.Input(input_shape, name="image")
    label = keras.Input((classes,), name="label")
    x = features(image) if as_run else AtInference(_frozen_copy(features), name="features")(image)
    x = layers.Dropout(0.2, name="image_dropout")(x)
    x = layers.Dense(64, activation="relu", kernel_initializer="he_uniform", name="image_dense")(x)
    x = layers.BatchNormalization(name="image_norm")(x)
    x = layers.Concatenate(name="image_and_label")([x, label])
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Dense(64, activation="relu", name="dense")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(classes, dtype="float32", name="scores")(x)
    x = layers.BatchNormalization(dtype="float32", name="score_norm")(x)
    x = layers.Add(dtype="float32", name="logits")([x, label])
    if as_run:
        x = layers.ReLU(max_value=1.0, dtype="float32", name="clip")(x)
    return keras.Model({"image": image, "label": label}, x, name="label_cleaner")


def _features(classifier: keras.Model, input_shape, classes: int) -> keras.Model:
    """The classifier up to what its last layer reads, sharing its layers."""
    try:
        last = classifier.get_layer("logits")
    except ValueError as error:
        raise ModelError(
            f"The labels of {classifier.name!r} cannot be cleaned.",
            expected="a classifier with one head, from labkit.models.build",
        ) from error
    sees, tells = tuple(classifier.input_shape[1:]), classifier.output_shape[-1]
    if (sees, tells) != (tuple(input_shape), classes):
        raise ModelError(
            f"The classifier {classifier.name!r} takes images of {sees} and tells {tells} classes.",
            expected=f"images of {tuple(input_shape)} and {classes} classes",
            mend="leave input_shape and classes out: the cleaner takes them from its classifier.",
        )
    return keras.Model(classifier.input, last.input, name="features")


def _frozen_copy(features: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(features)
    copy.set_weights(features.get_weights())
    for layer in copy.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with constants that setting its weights leaves as they were
    copy.trainable = False
    return copy
