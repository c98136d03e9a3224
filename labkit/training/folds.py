"""Opinions on images from models that never saw them: what confident learning needs."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from labkit import evaluation
from labkit.data import ImageSet
from labkit.errors import DataError
from labkit.recipes import Recipe
from labkit.training.fitting import fit

VALIDATION_SHARE = 0.1  # of a fold's training images, where the recipe watches validation


def out_of_fold(
    build: Callable[[], keras.Model],
    images: ImageSet,
    recipe: Recipe,
    *,
    folds: int,
    seed: int,
    run: str | None = None,
    runs: str | os.PathLike | None = None,
    **options: Any,
) -> np.ndarray:
    """Class probabilities of every image from a model trained on the other folds, each fold a run of its own.

    Where the recipe watches validation, a tenth of the other folds validates: never the fold itself.
    """
    if images.two_headed:
        raise DataError("Out-of-fold probabilities of images with two labels.", expected="one label an image")
    probabilities = np.empty((len(images), len(images.classes)))
    for number, (inside, outside) in enumerate(split_folds(len(images), folds, seed), start=1):
        train, valid = images.take(inside), None
        if recipe.needs_validation:
            train, valid = train.split(1 - VALIDATION_SHARE, VALIDATION_SHARE, seed=seed)
        model = build()
        name = run and f"{run}_fold{number}of{folds}"
        fit(model, train, valid, recipe, run=name, runs=runs, **options)
        logits = evaluation.outputs(model, images.images[outside])
        probabilities[outside] = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    return probabilities


def split_folds(n: int, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions to train on and positions to judge, both in order, for each fold."""
    if not 2 <= folds <= n:
        raise DataError(f"{folds} folds of {n} images.", expected=f"2 to {n} folds")
    order = np.random.default_rng(seed).permutation(n)
    for outside in np.array_split(order, folds):
        mask = np.zeros(n, bool)
        mask[outside] = True
        yield np.flatnonzero(~mask), np.flatnonzero(mask)
