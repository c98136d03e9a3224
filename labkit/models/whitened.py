"""A small net for short training, stronger than those of the reports."""

from collections.abc import Sequence

import keras
from keras import layers

from labkit.models import heads
from labkit.models.layers import PatchWhitening
from labkit.models.registry import Classes, Form, Shape, register


@register(
    chapter="any",
    paper="Jordan 2024, arXiv:2404.00498",
    forms=[
        Form(1_973_954, 1_971_338, 118.15),
        Form(1_977_809, 1_975_193, 118.15, {"joint": (5, 5)}),
    ],
)
def whitened(
    input_shape: Shape,
    classes: Classes,
    *,
    widths: Sequence[int] = (64, 256, 256),
    depth: int = 2,
    momentum: float = 0.6,
    logit_scale: float = 1 / 9,
    joint: tuple[int, int] | None = None,
) -> keras.Model:
    """Six 3×3 convolutions after a frozen patch whitening, with max pooling, batch normalization and GELU.

    `depth` is the number of convolutions for each of `widths`. `joint=(5, 5)` gives one head for all
    25 pairs, summed into the logits of two heads.
    """
    images = keras.Input(input_shape, name="image")
    x = PatchWhitening(dtype="float32", name="whiten")(images)
    x = layers.Activation("gelu", name="whiten_gelu")(x)
    for stage, width in enumerate(widths, start=1):
        for conv in range(1, depth + 1):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"stage{stage}_conv{conv}")(x)
            if conv == 1:
                x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
            x = layers.BatchNormalization(momentum=momentum, scale=False, name=f"stage{stage}_norm{conv}")(x)
            x = layers.Activation("gelu", name=f"stage{stage}_gelu{conv}")(x)
    x = layers.GlobalMaxPooling2D(name="peak")(x)
    x = layers.Rescaling(logit_scale, name="temper")(x)  # keeps early logits small under large rates
    outputs = heads.joint_logits(x, classes, joint) if joint else heads.logits(x, classes)
    return keras.Model(images, outputs, name="whitened")
