"""Layers whose numbers are computed from training images rather than learned."""

import keras
import numpy as np

from labkit.models.layers import PatchWhitening


def adapt(model: keras.Model, images: np.ndarray) -> None:
    """Fit the normalization and whitening layers, where a model has them, to training images 0-255."""
    kinds = keras.layers.Normalization | PatchWhitening
    fitted = [layer for layer in model.layers if isinstance(layer, kinds)]
    for layer in fitted:
        layer.adapt(np.asarray(images))
    if fitted:  # a compiled step holds the old numbers as constants
        model.train_function = model.test_function = model.predict_function = None
