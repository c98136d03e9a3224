"""Experiments of chapter 4: nine networks times three augmentations, a search, and the test of the best."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from labkit import augment, data, evaluation, models, protocols, reasons, recipes, training, tuning
from labkit.chapters import CHAPTERS, Settings
from labkit.data import ImageSet
from labkit.errors import ModelError, RunError
from labkit.evaluation import Predictions
from labkit.experiments.registry import place, register
from labkit.labels import confident
from labkit.recipes import Recipe
from labkit.runs import Run
from labkit.training.failures import ran_out

MODELS = CHAPTERS["cifar100"].models
AUGMENTATIONS = ("none", "basic", "cutmix")
# Networks that a short profile trains with every augmentation; the others get the first one only.
WIDE = {"smoke": ("mlp", "conv2d"), "quick": ("mlp", "conv2d", "custom_vgg"), "full": MODELS}
# What a profile searches over, and for how many trials.
SEARCHED = {"smoke": ("custom_vgg_l2", 2), "quick": ("custom_vgg_l2", 3), "full": ("custom_vgg16", 10)}
BEST_DECAY = 1.0701e-3  # of the report's search, whose best rate is in the recipe "report004_tuned"
COARSE = "-coarse"  # ends the name of a run that names superclasses
ONE_BATCH = 64  # images that were left of the report's CutMix set
UNTRAINED = "Memory ran out outside training: while the network was built, or asked for its predictions."
_LONG = ("mlp", "conv2d")  # the report gave them 100 epochs at most, and 50 to the others
_SAYS = {
    "none": "on the images as they are",
    "basic": "on images flipped and shifted anew in every epoch",
    "cutmix": "on images mixed by CutMix anew in every epoch",
    "tuned": "with the weight decay and learning rate that the report's search found",
    "basic_as_run": "on images of which half were flipped and shifted once, before training",
    "cutmix_as_run": "on images mixed by CutMix and wrongly divided by 255, as those it is scored on are not",
    "tuned_as_run": "tuned, with the decay on the dense layer alone",
    "cutmix_one_batch_as_run": f"on {ONE_BATCH} images, as many as the report's CutMix set was cut down to, "
    "mixed anew in every epoch and wrongly divided by 255",
}


_SLIPS = {"basic": "augmented once", "cutmix": "divided by 255", "cutmix_one_batch": "one batch"}


@dataclass(frozen=True)
class Cell:
    """One place in the grid: a model, an augmentation, and whether the report's slips are kept."""

    model: str
    augmentation: str
    as_run: bool = False

    @property
    def name(self) -> str:
        """The model's name, with the augmentation if there is one."""
        parts = [self.model, "" if self.augmentation == "none" else self.augmentation]
        return "_".join(filter(None, [*parts, "as_run" if self.as_run else ""]))

    @property
    def says(self) -> str:
        """One sentence on what is trained, and on which images."""
        built = " as the report built it" if self.as_run and _differs(self.model) else ""
        way = f"{self.augmentation}_as_run" if self.as_run else self.augmentation
        return f"{self.model}{built}, {_SAYS.get(way) or _SAYS[self.augmentation]}."

    @property
    def slip(self) -> str:
        """What of the report's code it repeats, in the words of the chapter's list; empty as meant."""
        images = _SLIPS.get(self.augmentation, "")
        built = "as the report built it" if _differs(self.model) else ""
        return ", ".join(filter(None, [images, built])) if self.as_run else ""

    @property
    def recipe(self) -> Recipe:
        """Report 004's recipe for the model, with what the augmentation draws anew in every epoch."""
        if self.augmentation == "tuned":
            recipe = recipes.RECIPES["report004_tuned"]
            return recipe.but(epochs=50) if self.as_run else recipe  # as run the rate was 0 from there on
        recipe = recipes.RECIPES["report004_long" if self.model in _LONG else "report004"]
        drawn = {"none": None, "basic": None if self.as_run else "basic"}
        return recipe.but(augment=drawn.get(self.augmentation, "cutmix_unit" if self.as_run else "cutmix"))

    @property
    def options(self) -> Mapping[str, Any]:
        """What the model is built with beside its defaults."""
        options = {"as_run": True} if self.as_run else {}
        if self.augmentation == "tuned":
            options["dense_l2" if self.as_run else "l2"] = BEST_DECAY
        return options


def _differs(model: str) -> bool:
    """Whether the report's code built another network than its text describes."""
    return bool(models.card(model).as_run)


GRID = tuple(Cell(model, augmentation) for model in MODELS for augmentation in AUGMENTATIONS)
TUNED = Cell("custom_vgg16", "tuned")
AS_RUN = tuple(
    replace(cell, as_run=True)
    for cell in (*GRID, TUNED)
    if cell.augmentation != "none" or _differs(cell.model)
)
CUT_DOWN = tuple(
    Cell(model, "cutmix_one_batch", as_run=True)
    for model in ("custom_vgg", "custom_vgg16", "custom_resnet10")
)


@dataclass(frozen=True)
class Outcome:
    """What became of one training: a scored run, or why there is none."""

    cell: Cell
    run: Run | None
    again: Callable[[], tuple[keras.Model, Run]]  # the trained network, loaded
    why: str = ""


@dataclass(frozen=True)
class Searched:
    """What became of one search: its trials, or why there are none."""

    model: str
    as_run: bool
    real: bool  # whether its images were
    found: tuning.Search | None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Doubts:
    """The test labels that confident learning doubts by a network's predictions, for a run's record."""

    predictions: Predictions

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a record: the share of labels that are doubted."""
        told = self.predictions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with few images, as in the smoke profile
            kept = confident(told.labels, told.probabilities)
        images = {"n": len(told), "source": told.source, "fingerprint": told.fingerprint}
        return {**images, "accuracy": told.accuracy, "doubted": float(1 - kept.mean())}


def split(settings: Settings) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training, validation and test images."""
    source = place(settings, "cifar-100-binary")
    return _split(source, settings.label_mode, settings.seed, settings.n)


@lru_cache(maxsize=2)
def _split(source: str, label_mode: str, seed: int, n: int | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    """All that decides the images, so that a notebook full of experiments reads or draws them once."""
    drawn = n if source == "synthetic" else None
    images, test = data.cifar100(source, labels=label_mode, seed=seed, n=drawn)
    part = 1 if n is None else min(1, n / len(images))
    return *protocols.cifar100(images, share=part), protocols.thin(test, part)


def cells(settings: Settings) -> tuple[Cell, ...]:
    """The places of the grid that this execution fills."""
    wide, chosen = WIDE[settings.profile], settings.augmentations
    return tuple(
        cell
        for cell in GRID
        if cell.model in settings.models
        and cell.augmentation in (chosen if cell.model in wide else chosen[:1])
    )


def slips(settings: Settings) -> tuple[Cell, ...]:
    """The report's slips that this execution repeats, for networks that it trains as meant as well."""
    trained = {cell.name for cell in cells(settings)}
    small = WIDE["smoke"][:1] if settings.profile == "smoke" else WIDE["quick"]
    repeatable = [cell for cell in (*AS_RUN, *CUT_DOWN) if cell.model in small]
    return tuple(cell for cell in repeatable if as_meant(cell).name in trained)


def as_meant(cell: Cell) -> Cell:
    """The cell that a slip spoilt."""
    return Cell(cell.model, cell.augmentation.removesuffix("_one_batch"))


def spaces(settings: Settings) -> tuple[bool, ...]:
    """Whether each space that this execution searches is the one as run, which takes the large network."""
    return tuple(
        as_run
        for as_run in (False, True)
        if searched_model(settings, as_run) in settings.models and (settings.profile == "full" or not as_run)
    )


def searched_model(settings: Settings, as_run: bool) -> str:
    """The network that this profile searches over; only `custom_vgg16` has what the report did."""
    return SEARCHED["full" if as_run else settings.profile][0]


def attempt(settings: Settings, cell: Cell) -> Outcome:
    """Train one cell; memory that ran out, a loss that diverged or weights that are missing is an answer."""
    return _outcome(cell, partial(trained, settings, cell))


def _outcome(cell: Cell, again: Callable[[], tuple[keras.Model, Run]]) -> Outcome:
    """Train by `again`, or tell why there is no run."""
    try:
        return Outcome(cell, again()[1], again)
    except (RunError, ModelError) as error:
        return Outcome(cell, None, again, error.happened)
    except Exception as error:
        if not ran_out(error):
            raise
        return Outcome(cell, None, again, UNTRAINED)


def train(settings: Settings, cell: Cell) -> Run:
    """Train one cell and score it on the validation images; the test images are left alone."""
    return trained(settings, cell)[1]


def trained(settings: Settings, cell: Cell) -> tuple[keras.Model, Run]:
    """The trained network of a cell, and its run."""
    images, valid, _ = split(settings)
    model = build(settings, cell.model, len(images.classes), **cell.options)
    recipe = settings.apply(cell.recipe)
    return model, fit(settings, model, prepared(settings, images, cell), valid, recipe, cell.name)


def build(settings: Settings, name: str, classes: int, **options: Any) -> keras.Model:
    """A new network; only EfficientNet can start from given weights."""
    if "weights" in models.card(name).options and settings.weights != "none":
        options["weights"] = settings.weights
    return models.build(name, classes=classes, seed=settings.seed, **options)


def fit(
    settings: Settings, model: keras.Model, images: ImageSet, valid: ImageSet, recipe: Recipe, name: str
) -> Run:
    """Train a network, or load it, and score it on the validation images once."""
    run = training.fit(model, images, valid, recipe, run=_full_name(settings, name), runs=settings.runs)
    if run.has_scored("valid", valid):
        return run
    return run.score("valid", evaluation.predict(model, valid))


def _full_name(settings: Settings, name: str) -> str:
    """What a run is called: the names of classes and of superclasses are kept apart."""
    return f"cifar100/{name}" + (COARSE if settings.label_mode == "coarse" else "")


def prepared(settings: Settings, images: ImageSet, cell: Cell) -> ImageSet:
    """What is done to the training images once, before training: nothing, but for the report's slips."""
    if cell.augmentation == "cutmix_one_batch":
        return images.take(slice(ONE_BATCH))
    if cell.as_run and cell.augmentation == "basic":
        rng = np.random.default_rng(settings.seed)
        moved, _ = augment.basic(images.images, images.labels, rng, share=0.5)
        return replace(images, images=moved)
    return images


def search(settings: Settings, *, as_run: bool = False) -> tuning.Search:
    """The report's search; a short profile searches over a smaller network of the same kind."""
    images, valid, _ = split(settings)
    model, trials = searched_model(settings, as_run), SEARCHED[settings.profile][1]
    recipe = settings.apply(replace(TUNED, as_run=as_run).recipe)
    return tuning.search(
        partial(tuning.report004, model=model, classes=len(images.classes), as_run=as_run),
        images,
        valid,
        recipe,
        run=_full_name(settings, f"{model}_search" + ("_as_run" if as_run else "")),
        trials=settings.trials or trials,
        tuner=settings.tuner,
        seed=settings.seed,
        runs=settings.runs,
    )


def attempt_search(settings: Settings, *, as_run: bool = False) -> Searched:
    """Search; that no trial finished, or memory ran out before the first, is an answer too."""
    model, real = searched_model(settings, as_run), settings.data != "synthetic"
    try:
        return Searched(model, as_run, real, search(settings, as_run=as_run))
    except RunError as error:
        return Searched(model, as_run, real, None, error.happened)
    except Exception as error:
        if not ran_out(error):
            raise
        return Searched(model, as_run, real, None, UNTRAINED)


def retrained(settings: Settings, found: tuning.Search) -> tuple[keras.Model, Run]:
    """The best trial trained again from another seed: its first score was the best of many, luck included."""
    images, valid, _ = split(settings)
    model, recipe = found.build()
    built = models.spec(model)
    seed = settings.seed + 1
    model = models.build(built["name"], classes=len(images.classes), seed=seed, **built["options"])
    name = f"{found.name.removeprefix('cifar100/').removesuffix(COARSE)}_again"
    return model, fit(settings, model, images, valid, recipe.but(seed=seed), name)


def tuned(settings: Settings, searches: Iterable[Searched]) -> list[Outcome]:
    """What tuning adds to the choice: a search's best trial, and in the full profile the report's."""
    told = settings.profile == "full" and TUNED.model in settings.models
    won = [one for one in searches if one.found is not None and not one.as_run]
    return [
        *([attempt(settings, TUNED)] if told else []),
        *(_outcome(Cell(one.model, "search"), partial(retrained, settings, one.found)) for one in won),
    ]


def best(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome with the highest validation accuracy: what is tested, and nothing else."""
    done = [outcome for outcome in outcomes if outcome.run is not None]
    if not done:
        raise RunError("Nothing was trained, so that there is nothing to test.", expected="one run or more")
    return max(done, key=lambda outcome: outcome.run.metrics["valid"]["accuracy"])


def tested(settings: Settings, chosen: Outcome) -> tuple[Predictions, Run]:
    """The test images' only use: the chosen network's predictions, and its run with their score."""
    *_, test = split(settings)
    model, run = chosen.again()
    predictions = evaluation.predict(model, test)
    return predictions, explained(settings, run.score("test", predictions), predictions)


def explained(settings: Settings, run: Run, predictions: Predictions) -> Run:
    """The run with what its mistakes on the test images have in common, and how many labels it doubts."""
    tally = reasons.tally(why_mistaken(settings, predictions), predictions)
    return run.score("test_reasons", tally).score("test_doubts", Doubts(predictions))


def why_mistaken(settings: Settings, predictions: Predictions) -> pd.DataFrame:
    """Which of the report's reasons hold for each test image."""
    images, _, test = split(settings)
    groups = data.FINE_TO_COARSE if settings.label_mode == "fine" else None
    return reasons.reasons(predictions, test, images, groups)


def _final(settings: Settings) -> Run:
    filled = [attempt(settings, cell) for cell in cells(settings)]
    searches = [attempt_search(settings)] if False in spaces(settings) else []
    return tested(settings, best([*filled, *tuned(settings, searches)]))[1]


def _searched(settings: Settings, *, as_run: bool = False) -> Run:
    return retrained(settings, search(settings, as_run=as_run))[1]


for _cell in (*GRID, TUNED, *AS_RUN, *CUT_DOWN):
    register(f"cifar100/{_cell.name}", _cell.says, partial(train, cell=_cell))
register(
    "cifar100/search", "The report's search, with the decay on every layer; best trial again.", _searched
)
register(
    "cifar100/search_as_run",
    "The report's search as run, with the decay on the dense layer alone; best trial again.",
    partial(_searched, as_run=True),
)
register("cifar100/final", "All of the grid and the search, then the test of what validates best.", _final)
