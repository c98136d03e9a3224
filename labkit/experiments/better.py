"""A first step past the reports: one small network on the chapters' data, meant for an hour on two cores."""

from dataclasses import replace

import keras
import numpy as np

from labkit import data, evaluation, labels, models, recipes, training
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
    if run.has_scored("test", test):
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
    model, run = _of_a_hundred(settings, "better_cifar100", "better")
    *_, test = cifar100.split(settings)
    if run.has_scored("test_doubts", test):
        return run
    predictions = evaluation.predict(model, test, flip=True)
    return cifar100.explained(settings, run.score("test", predictions), predictions)


def hundred_cutmix(settings: Settings) -> Run:
    """The same with CutMix after the moves, to compare on validation images; it is never tested."""
    return _of_a_hundred(settings, "better_cifar100_cutmix", "tried_cutmix")[1]


def _of_a_hundred(settings: Settings, how: str, name: str) -> tuple[keras.Model, Run]:
    train, valid, _ = cifar100.split(settings)
    model = models.build(NETWORK, classes=len(train.classes), seed=settings.seed, **WIDER)
    run = f"cifar100/{name}"
    return model, training.fit(model, train, valid, recipe(settings, how), run=run, runs=settings.runs)


def noisy(settings: Settings) -> Run:
    """A teacher learns true labels and, through the noise matrix, given ones; a student learns what it says.

    It says how probable each class is for an image; Bayes' rule joins that with the label as given.
    """
    settings = noisy_cifar.brief(settings, NETWORK)
    parts = noisy_cifar.split(settings)
    test = noisy_cifar.unseen(settings) or parts.test
    images = data.join(parts.kept, parts.unsure)
    matrix = noisy_cifar.noise_matrix(parts.judge_train)
    known = np.eye(len(matrix))[parts.kept.labels]
    likely = labels.likelihoods(parts.unsure.labels, matrix)

    def learn(name: str, how: str, seed: int, others: np.ndarray) -> tuple[keras.Model, Run]:
        model = models.build(NETWORK, seed=seed)
        run = training.fit(
            model,
            images,
            parts.valid,
            recipe(settings, how),
            run=f"noisy_cifar/{name}-{settings.protocol}",
            runs=settings.runs,
            targets=np.concatenate([known, others]),
        )
        return model, scored(run, model, test)

    teacher, _ = learn("better_teacher", "better_noisy_teacher", settings.seed, likely)
    opinion = evaluation.predict(teacher, parts.unsure, flip=True).probabilities
    believed = labels.posterior(opinion, likely)
    return learn("better", "better_noisy_student", settings.seed + 1, believed)[1]


register("noisy_cifar/better", "A small network that learns what a first one makes of every label.", noisy)
register("dual_cifar/better", "A small network with one head for all pairs, on moved components.", dual)
register("cifar100/better", "A small network with a one-cycle rate.", hundred)
register("cifar100/tried_cutmix", "The same network, with CutMix on moved images.", hundred_cutmix)
