"""Experiments of chapter 3: name both of two averaged images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import keras

from labkit import data, evaluation, models, protocols, recipes, training
from labkit.chapters import Settings
from labkit.data import ImageSet, PairStream
from labkit.evaluation import Heads
from labkit.experiments.registry import place, register, share
from labkit.protocols import DualSplit
from labkit.runs import Run
from labkit.training import machine

FULL_EPOCH = 44_992  # 703 batches of 64, as in the report
FIXED_PAIRS = 10_000
PASSES = {"smoke": (1, 2), "quick": (1, 3, 10), "full": (1, 3, 10, 30, 100)}
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the first image in the average
FEW_SHARES = (0.2, 0.5, 0.8)  # in smoke
LOOKED_AT = {"smoke": 6, "quick": 100, "full": 100}  # test pairs, to see where a network looks
BRIEF = {"smoke": 2, "quick": 16}  # pairs for the network that costs 26 billion multiply-adds each
REPORTED = {
    "fmp3": "report003_fmp3",
    "accn": "report003_accn",
    "accnrr": "report003_accn",
    "accnl": "report003_accnl",
    "lacnn": "report003_lacnn",
}
COMPARED = tuple(name for name in REPORTED if name != "lacnn")  # which sees a handful in short profiles


@dataclass(frozen=True)
class Change:
    """What differs from a network of the report, trained by the report's recipe."""

    name: str
    says: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model
    recipe: Mapping[str, Any] = field(default_factory=dict)
    augment: str | None = None  # of each image before averaging
    network: str = "accn"


ABLATION = (
    Change("accn_leaky", "leaky ReLUs", {"slope": 0.3}),
    Change("accn_l2", "an L2 penalty on the heads", {"l2": 0.001}),
    Change("accn_unsmoothed", "no label smoothing", recipe={"label_smoothing": 0.0}),
    Change("accn_flip", "random flips of the average", {"flip": True}),
    Change("accn_parts", "flips and shifts of each image before averaging", augment="basic"),
    Change("accn_joint", "one head for all pairs of classes", {"joint": True}),
)
PADDED = Change(
    "lacnn_padded", "the average padded with black instead of scaled", {"padded": True}, network="lacnn"
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


def largest(settings: Settings) -> tuple[Change | None, ...]:
    """The ways in which `lacnn` is trained beside the others: on a handful of pairs, or in full on a GPU."""
    if settings.profile == "full" and not machine.accelerators():
        return ()
    return (None,) if settings.profile == "smoke" else (None, PADDED)


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
    if _known(run, "test", parts):
        return run
    return run.score("test", evaluation.predict(model, parts.test, sides=parts.test_sides))


def _known(run: Run, part: str, parts: DualSplit, ways: Iterable[str] = ()) -> bool:
    """Whether a run's record has a score of these test pairs, asked for in these ways."""
    return run.has_scored(part, parts.test) and list(run.metrics[part].get("ways", ())) == list(ways)


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
    change = next((change for change in (*ABLATION, PADDED) if change.name == name), None)
    model, trained = train(settings, parts, change.network if change else name, change)
    if settings.profile == "full" and name == "fmp3":
        trained = with_passes(settings, model, trained, parts)
    if settings.profile == "full" and name in COMPARED:
        trained = with_shares(settings, model, trained, parts)
    return trained


@dataclass(frozen=True)
class Ways:
    """Answers about the test pairs asked for in several ways, the usual one first."""

    answers: Mapping[str, Heads]

    def summary(self) -> dict[str, Any]:
        """The figures of each, as a record keeps them, without confusions."""
        usual = next(iter(self.answers.values())).summary()
        shared = {name: usual[name] for name in ("n", "accuracy", "source", "fingerprint")}
        return shared | {"ways": {name: _figures(heads.summary()) for name, heads in self.answers.items()}}


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    heads = {head: {"accuracy": found["accuracy"]} for head, found in summary["heads"].items()}
    kept = ("accuracy", "interval", "both_right", "macro_f1")
    return {name: summary[name] for name in kept} | {"heads": heads}


def with_passes(settings: Settings, model: keras.Model, run: Run, parts: DualSplit) -> Run:
    """Add to a run's record what pooling on a fixed grid gives, and the mean of so many random passes."""
    counts = PASSES[settings.profile]
    names = {count: "1 random pass" if count == 1 else f"{count} random passes" for count in counts}
    if _known(run, "test_passes", parts, ["fixed grid", *names.values()]):
        return run
    sides = parts.test_sides
    grid = evaluation.predict(model, parts.test, sides=sides)
    drawn = evaluation.predict_random_passes(model, parts.test, counts, seed=settings.seed, sides=sides)
    answers = {names[count]: answer for count, answer in drawn.items()}
    return run.score("test_passes", Ways({"fixed grid": grid} | answers))


def with_shares(settings: Settings, model: keras.Model, run: Run, parts: DualSplit) -> Run:
    """Add to a run's record how it names the same test pairs averaged unequally."""
    shares = FEW_SHARES if settings.profile == "smoke" else SHARES
    weights = {f"{weight:g}": weight for weight in (settings.weight, *shares)}
    if _known(run, "test_shares", parts, weights):
        return run
    answers = {}
    for name, weight in weights.items():
        stream = PairStream(*parts.test_images, n=len(parts.test), weight=weight, seed=2)
        answers[name] = evaluation.predict(model, stream.epoch(0), sides=parts.test_sides)
    return run.score("test_shares", Ways(answers))


register(
    "dual_cifar/dual_linear",
    "An untrained linear network: what chance gives.",
    partial(run, name="dual_linear"),
)
for _model in REPORTED:
    register(f"dual_cifar/{_model}", f"{_model} by the report's recipe.", partial(run, name=_model))
for _change in (*ABLATION, PADDED):
    register(
        f"dual_cifar/{_change.name}",
        f"{_change.network} by the report's recipe with {_change.says}.",
        partial(run, name=_change.name),
    )
