"""A first step past the reports: one small network on the chapters' data, meant for an hour on two cores."""

from dataclasses import replace
from functools import partial

import keras
import numpy as np

from labkit import data, evaluation, models, recipes, training
from labkit.chapters import Settings
from labkit.data import ImageSet
from labkit.experiments import cifar100, dual_cifar, noisy_cifar
from labkit.experiments.registry import register
from labkit.recipes import Recipe
from labkit.runs import Run

NETWORK = "whitened"
WIDER = {"widths": (64, 256, 384)}  # for a hundred classes


def recipe(settings: Settings, name: str) -> Recipe:
    """One of the recipes of this step; a short profile stops early and takes small batches."""
    return settings.apply(recipes.RECIPES[name])


def scored(run: Run, model: keras.Model, test: ImageSet, **options) -> Run:
    """Score on test images and their mirror images, once."""
    if run.metrics.get("test", {}).get("fingerprint") == test.fingerprint():
        return run
    return run.score("test", evaluation.predict(model, test, flip=True, **options))


def dual(settings: Settings) -> Run:
    """Moved components, and one head for all pairs of classes, summed into two."""
    parts = dual_cifar.split(settings)
    counts = {head: len(names) for head, names in parts.test.classes.items()}
    model = models.build(NETWORK, classes=counts, joint=tuple(counts.values()), seed=settings.seed)
    stream = replace(parts.train, augment="basic")
    how = recipe(settings, "better_dual")
    run = training.fit(model, stream, parts.valid, how, run="dual_cifar/better", runs=settings.runs)
    return scored(run, model, parts.test, sides=parts.test_sides)


def hundred(settings: Settings) -> Run:
    """A wider network; images moved anew in every epoch."""
    train, valid, test = cifar100.split(settings)
    model = models.build(NETWORK, classes=len(train.classes), seed=settings.seed, **WIDER)
    how = recipe(settings, "better_cifar100")
    run = training.fit(model, train, valid, how, run="cifar100/better", runs=settings.runs)
    if run.metrics.get("test_doubts", {}).get("fingerprint") == test.fingerprint():
        return run
    predictions = evaluation.predict(model, test, flip=True)
    return cifar100.explained(settings, run.score("test", predictions), predictions)


def noisy(settings: Settings) -> Run:
    """A teacher learns through the noise matrix; a student learns what teacher and given label agree on."""
    settings = noisy_cifar.brief(settings, NETWORK)
    parts = noisy_cifar.split(settings)
    test = noisy_cifar.unseen(settings) or parts.test
    matrix = noisy_cifar.noise_matrix(parts.judge_train)
    teacher = models.build(NETWORK, seed=settings.seed)
    how = recipe(settings, "better_noisy_teacher").but(loss_options={"matrix": matrix.tolist()})
    fit = partial(training.fit, runs=settings.runs)
    name = f"noisy_cifar/better_teacher-{settings.protocol}"
    first = fit(teacher, parts.noisy, parts.valid, how, run=name)
    scored(first, teacher, test)
    believed, sure = labelled(teacher, parts.unsure, matrix)
    student = models.build(NETWORK, seed=settings.seed + 1)
    run = fit(
        student,
        data.join(parts.kept, believed),
        parts.valid,
        recipe(settings, "better_noisy_student"),
        run=f"noisy_cifar/better-{settings.protocol}",
        sample_weights=np.concatenate([np.ones(len(parts.kept)), sure]),
    )
    return scored(run, student, test)


def labelled(teacher: keras.Model, images: ImageSet, matrix: np.ndarray) -> tuple[ImageSet, np.ndarray]:
    """The likeliest true label of each image by Bayes' rule, and its probability.

    The teacher says how likely each class is for the image, the matrix how likely the given label then is.
    """
    opinion = evaluation.predict(teacher, images, flip=True).probabilities
    posterior = opinion * matrix[:, images.labels].T
    posterior /= posterior.sum(axis=1, keepdims=True)
    return images.relabel(posterior.argmax(axis=1)), posterior.max(axis=1)


register("noisy_cifar/better", "A small network that weighs labels by what a first one thinks.", noisy)
register("dual_cifar/better", "A small network with one head for all pairs, on moved components.", dual)
register("cifar100/better", "A small network with a one-cycle rate.", hundred)
