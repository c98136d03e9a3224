"""Where images enter a model: 0-255 of any type in, the range that the rest of the model expects out."""

import keras
from keras import layers


def unit(images: keras.KerasTensor) -> keras.KerasTensor:
    """Pixels in [0, 1], in float32 whatever the precision of the layers that follow."""
    return layers.Rescaling(1 / 255, dtype="float32", name="rescale")(images)


def signed(images: keras.KerasTensor) -> keras.KerasTensor:
    """Pixels in [-1, 1], as most backbones of keras.applications were trained on."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")(images)


def imagenet(images: keras.KerasTensor) -> keras.KerasTensor:
    """Channels less ImageNet's mean, over its deviation, as the B networks of EfficientNetV2 were trained."""
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = [1 / (255 * deviation) for deviation in deviations]
    offset = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return layers.Rescaling(scale, offset=offset, dtype="float32", name="rescale")(images)


def standard(images: keras.KerasTensor) -> keras.KerasTensor:
    """Channels of mean 0 and variance 1, once `models.adapt` has seen the training images."""
    return layers.Normalization(dtype="float32", name="normalize")(images)


def jittered(images: keras.KerasTensor, *, rotation: float, zoom: float) -> keras.KerasTensor:
    """Random flips, rotations and zooms of each image while training."""
    x = layers.RandomFlip("horizontal", dtype="float32", name="flip")(images)
    x = layers.RandomRotation(rotation, dtype="float32", name="rotate")(x)
    return layers.RandomZoom(zoom, zoom, dtype="float32", name="zoom")(x)
