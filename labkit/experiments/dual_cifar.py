"""Experiments of chapter 3: name both of two averaged images."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from labkit import data, evaluation, models, protocols, recipes, scoreboard, training
from labkit.chapters import Settings
from labkit.data import ImageSet, PairStream
from labkit.evaluation import Heads
from labkit.experiments.registry import place, register, share
from labkit.protocols import DualSplit
from labkit.runs import Run

FULL_EPOCH = 44_992  # 703 batches of 64, as in the report
FIXED_PAIRS = 10_000
PAIRS = "million training pairs"
PASSES = {"smoke": (1, 2), "quick": (1, 3, 10), "full": (1, 3, 10, 30, 100)}
BRIEF = {"smoke": 2, "quick": 64}  # pairs for the network that costs 26 billion multiply-adds each
REPORTED = {
    "fmp3": "report003_fmp3",
    "accn": "report003_accn",
    "accnrr": "report003_accn",
    "accnl": "report003_accnl",
    "lacnn": "report003_lacnn",
}


@dataclass(frozen=True)
class Change:
    """One row of the ablation: what differs from `accn` by the report's recipe."""

    name: str
    says: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model
    recipe: Mapping[str, Any] = field(default_factory=dict)
    augment: str | None = None  # of each image before averaging


ABLATION = (
    Change("accn_leaky", "leaky ReLUs", {"slope": 0.3}),
    Change("accn_l2", "an L2 penalty on the heads", {"l2": 0.001}),
    Change("accn_unsmoothed", "no label smoothing", recipe={"label_smoothing": 0.0}),
    Change("accn_flip", "random flips of the average", {"flip": True}),
    Change("accn_parts", "flips and shifts of each image before averaging", augment="basic"),
    Change("accn_joint", "one head for all pairs of classes", {"joint": True}),
)


def changes(settings: Settings) -> tuple[Change, ...]:
    """The rows of the ablation that a profile trains: a smoke run shows two, of the data and of the head."""
    return ABLATION[-2:] if settings.profile == "smoke" else ABLATION


def split(settings: Settings) -> DualSplit:
    """Training pairs without end, fixed validation and test pairs."""
    drawn = settings.n if settings.data == "synthetic" else None
    images, test = _images(place(settings, "cifar-10-batches-bin"), settings.seed, drawn)
    part = share(settings, images)
    pairs = settings.pairs_per_epoch or settings.n or FULL_EPOCH
    return protocols.dual_cifar(
        protocols.thin(images, part),
        protocols.thin(test, part),
        groups=settings.groups,
        weight=settings.weight,
        pairs_per_epoch=pairs,
        fixed_pairs=min(pairs, FIXED_PAIRS),
        augment=None if settings.augment == "none" else settings.augment,
        seed=settings.seed,
    )


@lru_cache(maxsize=2)
def _images(source: str, seed: int, n: int | None) -> tuple[ImageSet, ImageSet]:
    return data.cifar10(source, seed=seed, n=n)


def train(
    settings: Settings, parts: DualSplit, name: str, change: Change | None = None
) -> tuple[keras.Model, Run]:
    """Train one network on fresh pairs by the report's recipe, with one change to it or none."""
    change = change or Change(name, "")
    parts = _brief(settings, parts) if name == "lacnn" else parts
    model = models.build(name, **_shape(parts, change.options), seed=settings.seed)
    recipe = settings.apply(recipes.RECIPES[REPORTED[name]]).but(**change.recipe)
    stream = replace(parts.train, augment=change.augment or parts.train.augment)
    run = training.fit(model, stream, parts.valid, recipe, run=_name(settings, change), runs=settings.runs)
    return model, scored(run, model, parts)


def _shape(parts: DualSplit, options: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of both heads, and where the heads are joined, the classes of the one."""
    classes = {head: len(names) for head, names in parts.test.classes.items()}
    joint = {"joint": tuple(classes.values())} if options.get("joint") else {}
    return {"classes": classes, **options, **joint}


def _name(settings: Settings, change: Change) -> str:
    """What a run is called: parameters that change the task are part of it."""
    parts = [change.name]
    if settings.weight != 0.5:
        parts.append(f"weight{settings.weight:g}")
    if settings.groups != ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)):
        parts.append("groups" + "_".join("".join(map(str, group)) for group in settings.groups))
    if settings.augment != "none":
        parts.append(settings.augment)
    return "dual_cifar/" + "-".join(parts)


def _brief(settings: Settings, parts: DualSplit) -> DualSplit:
    """Few enough pairs that a laptop takes a step of the largest network, in the short profiles."""
    few = BRIEF.get(settings.profile)
    if few is None or settings.pairs_per_epoch:
        return parts
    cut = slice(few)
    sides = tuple(side[cut] for side in parts.test_sides)
    stream = replace(parts.train, n=few)
    return replace(
        parts, train=stream, valid=parts.valid.take(cut), test=parts.test.take(cut), test_sides=sides
    )


def scored(run: Run, model: keras.Model, parts: DualSplit) -> Run:
    """Add the result on the fixed test pairs to the run's record, unless it is there."""
    if run.metrics.get("test", {}).get("fingerprint") == parts.test.fingerprint():
        return run
    return run.score("test", evaluation.predict(model, parts.test, sides=parts.test_sides))


def chance(settings: Settings, parts: DualSplit) -> tuple[keras.Model, Run]:
    """Score an untrained linear network."""
    model = models.build("dual_linear", **_shape(parts, {}), seed=settings.seed)
    recipe = settings.apply(recipes.RECIPES["report003_accn"]).but(epochs=0, patience=None)
    name = _name(settings, Change("dual_linear", ""))
    run = training.fit(model, parts.train, parts.valid, recipe, run=name, runs=settings.runs)
    return model, scored(run, model, parts)


def run(settings: Settings, name: str) -> Run:
    """Train and score one network of the report, or one row of the ablation."""
    parts = split(settings)
    if name == "dual_linear":
        return chance(settings, parts)[1]
    change = next((change for change in ABLATION if change.name == name), None)
    return train(settings, parts, "accn" if change else name, change)[1]


def by_passes(model: keras.Model, parts: DualSplit, passes: tuple[int, ...], seed: int = 0) -> pd.DataFrame:
    """Mean accuracy with pooling on a fixed grid, and averaged over so many random passes."""
    heads = {"fixed grid": evaluation.predict(model, parts.test, sides=parts.test_sides)}
    for count in passes:
        name = "1 random pass" if count == 1 else f"{count} random passes"
        heads[name] = evaluation.predict_random_passes(
            model, parts.test, count, seed=seed, sides=parts.test_sides
        )
    return table(heads)


def by_weight(model: keras.Model, parts: DualSplit, weights: tuple[float, ...]) -> pd.DataFrame:
    """Accuracy of a trained network on the same test pairs, averaged unequally."""
    heads = {}
    for weight in weights:
        pairs = PairStream(*parts.test_images, n=len(parts.test), weight=weight, seed=2).epoch(0)
        heads[weight] = evaluation.predict(model, pairs, sides=parts.test_sides)
    return table(heads).rename_axis("weight of the first")


def table(heads: Mapping[Any, Heads]) -> pd.DataFrame:
    """Accuracy of each head, their mean with its interval, and the share of pairs named in full."""
    rows = {}
    for name, found in heads.items():
        low, high = found.interval()
        rows[name] = {
            "first": found["first"].accuracy,
            "second": found["second"].accuracy,
            "mean": found.mean_accuracy,
            "low": low,
            "high": high,
            "both right": found.both_right,
            "F1": found.macro_f1,
        }
    return pd.DataFrame(rows).T


def hiding_maps(
    model: keras.Model,
    images: np.ndarray,
    targets: Mapping[str, np.ndarray],
    *,
    patch: int = 8,
    step: int = 4,
) -> dict[str, np.ndarray]:
    """For each head, how much of its class's probability goes when a patch of the image turns grey.

    The last map of `accn` has 2×2 places, too few for a class activation map to show anything. Hiding parts
    of the image (Zeiler 2013, arXiv:1311.2901) asks the same question of any network.
    """
    side = images.shape[1]
    corners = [(y, x) for y in range(0, side - patch + 1, step) for x in range(0, side - patch + 1, step)]
    lost = {head: np.zeros(images.shape[:3]) for head in targets}
    counts = np.zeros((side, side))
    whole = _probabilities(model, images, targets)
    for y, x in corners:
        hidden = images.copy()
        hidden[:, y : y + patch, x : x + patch] = 128
        found = _probabilities(model, hidden, targets)
        counts[y : y + patch, x : x + patch] += 1
        for head in targets:
            loss = np.maximum(whole[head] - found[head], 0)
            lost[head][:, y : y + patch, x : x + patch] += loss[:, None, None]
    return {head: maps / np.maximum(counts, 1) for head, maps in lost.items()}


def _probabilities(model: keras.Model, images: np.ndarray, targets: Mapping[str, np.ndarray]) -> dict:
    logits = model.predict_on_batch(images)
    shares = {head: np.asarray(keras.ops.softmax(logits[head])) for head in targets}
    return {head: shares[head][np.arange(len(images)), targets[head]] for head in targets}


def ablation(runs: Mapping[str, Run]) -> pd.DataFrame:
    """What each change to `accn` does to the mean accuracy on the test pairs."""
    says = {"accn": "the report's recipe"} | {change.name: change.says for change in ABLATION}
    base = runs["accn"].metrics["test"]["accuracy"]
    rows = {
        says[name]: _pair_figures(run) | {"against accn": run.metrics["test"]["accuracy"] - base}
        for name, run in runs.items()
    }
    return pd.DataFrame(rows).T.rename_axis("accn with").round(4)


def _pair_figures(run: Run) -> dict[str, float]:
    test = run.metrics["test"]
    heads = {head: found["accuracy"] for head, found in test["heads"].items()}
    return {**heads, "mean": test["accuracy"], "both right": test["both_right"]}


def recorded_ablation() -> pd.DataFrame:
    """The ablation on real images over seeds, out of the records that saw as many pairs as `accn`."""
    says = {"accn": "the report's recipe"} | {change.name: change.says for change in ABLATION}
    runs = {name: scoreboard.recorded(f"dual_cifar/{name}") for name in says}
    given = Counter(map(_budget, runs["accn"]))
    common = max(given, key=given.get) if given else None
    rows = {}
    for name, text in says.items():
        equal = [run for run in runs[name] if _budget(run) == common]
        means = [run.metrics["test"]["accuracy"] for run in equal]
        pairs = [run.epochs * run.record["data"]["train"]["n"] / 1e6 for run in equal]
        rows[text] = {
            "mean": str(evaluation.spread(means)) if means else "not run yet",
            PAIRS: f"{max(pairs):.2f}" if pairs else "",
        }
    return pd.DataFrame(rows).T.rename_axis("accn with")


def _budget(run: Run) -> tuple[int, int]:
    """Epochs at most, and pairs in each."""
    return run.record["recipe"]["epochs"], run.record["data"]["train"]["n"]


def by_pairs() -> dict[str, pd.DataFrame]:
    """Mean validation accuracy by millions of training pairs: the records, and what the report prints."""
    figures = scoreboard.published("dual_cifar")
    epochs = figures["metric"].str.extract(r"^epoch_(\d+)_valid_accuracy$")[0].dropna().astype(int)
    printed = figures.loc[epochs.index].assign(**{PAIRS: epochs * FULL_EPOCH / 1e6})
    curves = {
        f"{name}, report": points.rename(columns={"value": "val_accuracy"})
        for name, points in printed.groupby("experiment")
    }
    for run in scoreboard.recorded("dual_cifar/*"):
        if run.epochs:
            seen = run.history["epoch"] * run.record["data"]["train"]["n"] / 1e6
            curves[f"{run.name.partition('/')[2]}, seed {run.seed}"] = run.history.assign(**{PAIRS: seen})
    return curves


def costs(names: Iterable[str] = ("fmp3", "accn", "lacnn")) -> pd.DataFrame:
    """What the report's networks cost: one image, and the report's epochs on two cores."""
    rows = {}
    for name in names:
        card = models.card(name)
        work = scoreboard.work(f"dual_cifar/{name}", {name: card.macs}, images=FULL_EPOCH, epochs=1)
        rows[name] = {
            "parameters": f"{card.counts.total:,}",
            "million MACs an image": f"{card.macs / 1e6:,.0f}",
            "hours an epoch on 2 cores": f"{work.total / scoreboard.THROUGHPUT / 3600:.2g}",
        }
    return pd.DataFrame(rows).T


def best(trained: Mapping[str, tuple[keras.Model, Run]]) -> str | None:
    """The trained network with the highest mean accuracy on validation pairs; the largest is left aside."""
    scores = {
        name: run.history["val_accuracy"].max() for name, (_, run) in trained.items() if name != "lacnn"
    }
    return max(scores, key=scores.get) if scores else None


def summary(runs: Iterable[Run]) -> str:
    """What the records and this execution say, in two sentences."""
    found = scoreboard.table("dual_cifar").dropna(subset=["as run", "as meant"], how="all")
    said = [
        f"On real images {name} scores {_first(row['as run'], row['as meant']):.4f} where the report has "
        f"{row['published']:.4f}: {row['verdict']}."
        for name, row in found.iterrows()
    ]
    tests = [(run.metrics["test"]["n"], run.metrics["test"]["accuracy"], run) for run in runs]
    *_, top = max(tests, key=lambda test: test[:2])  # a network shown a handful of pairs is not compared
    here = (
        f"In this execution, on {top.metrics['test']['source']}, the best mean accuracy is "
        f"{top.metrics['test']['accuracy']:.3f}, of {top.name.split('/')[1]}."
    )
    return " ".join([*(said or ["None of the report's networks is on record with real images yet."]), here])


def _first(*values: float) -> float:
    return next(value for value in values if pd.notna(value))


register(
    "dual_cifar/dual_linear",
    "An untrained linear network: what chance gives.",
    partial(run, name="dual_linear"),
)
for _model in REPORTED:
    register(f"dual_cifar/{_model}", f"{_model} by the report's recipe.", partial(run, name=_model))
for _change in ABLATION:
    register(
        f"dual_cifar/{_change.name}",
        f"accn by the report's recipe with {_change.says}.",
        partial(run, name=_change.name),
    )
