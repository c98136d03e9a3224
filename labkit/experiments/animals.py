"""Experiments of chapter 2: five networks from scratch, three pretrained ones in three freezing modes."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import keras
import numpy as np

from labkit import data, evaluation, models, protocols, recipes, scoreboard, training
from labkit.chapters import Settings
from labkit.data import ImageSet
from labkit.errors import ModelError
from labkit.experiments.registry import place, register
from labkit.recipes import Recipe
from labkit.runs import Run

SCRATCH = {
    "simple": "report002_simple",
    "mid": "report002_mid",
    "custom_resnet": "report002_resnet",
    "inception": "report002_inception",
    "resnet_aug": "report002_resnet",
}
BACKBONES = ("resnet50v2", "mobilenetv2", "xception")
MODES = {"transfer": "all", "finetune": "none", "partial": "below_top"}  # mode: what is frozen at the end
# Photos that a short profile shows to networks that cost much.
FEW = {
    "smoke": {"inception": 2, "custom_resnet": 8, "resnet_aug": 8} | dict.fromkeys(BACKBONES, 2),
    "quick": {"inception": 16},
    "full": {},
}
CHECKED = 16  # photos at most in a run that has nothing to show but that its network trains
LEAST = 16  # photos in a batch whose averages normalization can use
Parts = tuple[ImageSet, ImageSet, ImageSet]


def split(settings: Settings) -> Parts:
    """Training, validation and test photos."""
    return _split(place(settings, "animals"), settings.image_size, settings.seed, settings.n)


@lru_cache(maxsize=2)
def _split(source: str, size: int, seed: int, n: int | None) -> Parts:
    """All that decides the photos, so that a notebook full of experiments reads or draws them once."""
    drawn = n if source == "synthetic" else None
    images, test = data.animals(source, size=size, seed=seed, n=drawn)
    train, valid = protocols.animals(images, share=_share(n, images))
    return train, valid, protocols.thin(test, _share(n, test))


def _share(n: int | None, images: ImageSet) -> float:
    return 1 if n is None else min(1, n / len(images))


def few(settings: Settings, name: str) -> int | None:
    """How many photos a network is shown where that is to prove no more than that it trains."""
    checked = CHECKED if name in BACKBONES and settings.weights == "none" else None
    return FEW[settings.profile].get(name, checked)


def is_check(run: Run) -> bool:
    """Whether a run saw so few photos that it proves no more than that its network trains."""
    return run.record["data"]["train"]["n"] <= CHECKED


def photos(settings: Settings, name: str) -> Parts:
    """The photos that a network is trained, validated and tested on."""
    parts, count = split(settings), few(settings, name)
    if count is None:
        return parts
    return tuple(protocols.thin(part, min(1, count / len(part))) for part in parts)


def build(settings: Settings, name: str, **options) -> keras.Model:
    """A network of this chapter for the photos at hand; a backbone starts from the weights that are given."""
    train = split(settings)[0]
    shape, classes = train.images.shape[1:], len(train.classes)
    if name in BACKBONES:
        options["weights"] = weights(settings, name)
    return models.build(name, input_shape=shape, classes=classes, seed=settings.seed, **options)


def weights(settings: Settings, backbone: str) -> str | None:
    """What a backbone starts from: nothing, the download, or its file in the folder that is given."""
    if settings.weights in ("none", "imagenet"):
        return None if settings.weights == "none" else "imagenet"
    folder = Path(settings.weights)
    found = [path for path in sorted(folder.glob("*.h5")) if _holds(path, backbone)]
    if not found:
        raise ModelError(
            f"{folder.name} holds no weights of {backbone}.",
            expected="a folder with the file of keras.applications without its top, named ..._notop.h5, "
            "for each backbone",
            mend="put the file there, leave the backbone out of backbones=, or say weights='none'.",
        )
    return str(found[0])


def check_weights(settings: Settings) -> None:
    """Fetch and load the weights of every backbone once: what is missing is told before anything trains."""
    if settings.weights != "none":
        for backbone in settings.backbones:
            build(settings, backbone)


def _holds(path: Path, backbone: str) -> bool:
    plain = path.stem.lower().replace("_", "")
    return plain.startswith(backbone) and plain.endswith("notop")


@dataclass
class Start:
    """A network on a backbone as it is before any training."""

    model: keras.Model
    weights: list[np.ndarray] | None = None  # copied before the first training

    def again(self, freeze: str) -> keras.Model:
        """The network with its first weights and other layers frozen."""
        if self.weights is None:
            self.weights = self.model.get_weights()
        else:
            self.model.set_weights(self.weights)
        return models.refreeze(self.model, freeze)

    def trainable(self) -> dict[str, int]:
        """How many parameters each mode trains."""
        refrozen = ((mode, models.refreeze(self.model, freeze)) for mode, freeze in MODES.items())
        return {mode: models.counts(model).trainable for mode, model in refrozen}

    def top_counts(self) -> np.ndarray:
        """How many parameters train when the head and the last 0, 1, 2 … layers of the backbone do."""
        head = self.trainable()["transfer"]
        models.refreeze(self.model, "none")
        backbone = next(layer for layer in self.model.layers if isinstance(layer, keras.Model))
        sizes = [
            sum(math.prod(weight.shape) for weight in layer.trainable_weights) for layer in backbone.layers
        ]
        return head + np.cumsum([0, *reversed(sizes)])


def trained(settings: Settings, name: str, *, as_run: bool = False) -> tuple[keras.Model, Run]:
    """One of the report's own networks trained from scratch, and its run."""
    model = build(settings, name, **({"as_run": True} if as_run else {}))
    return model, train(settings, name, model, as_run=as_run)


def train(settings: Settings, name: str, model: keras.Model, *, as_run: bool = False) -> Run:
    """Train a newly built one of the report's own networks."""
    parts = photos(settings, name)
    recipe = in_as_many_steps(_recipe(settings, SCRATCH[name], as_run), settings, model, len(parts[0]))
    run = training.fit(model, *parts[:2], recipe, run=_name(name, as_run), runs=settings.runs)
    return _scored(run, model, parts[2])


def in_as_many_steps(recipe: Recipe, settings: Settings, model: keras.Model, photos: int) -> Recipe:
    """The recipe with a batch in proportion to the photos, for a network with batch normalization.

    Its averages follow the training step by step. In the report's batches a few thousand photos make so few
    steps an epoch that early stopping may end the training before the averages have caught up with it.
    """
    normalizes = any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    if settings.batch or not normalizes:
        return recipe
    return recipe.but(batch_size=batch_in_proportion(recipe.batch_size, photos))


def batch_in_proportion(batch: int, photos: int) -> int:
    """The batch that makes as many steps an epoch of these photos as the report's makes of its own."""
    return min(batch, max(LEAST, round(batch * photos / scoreboard.TRAINED_ON["animals"])))


def scratch(settings: Settings, name: str, *, as_run: bool = False) -> Run:
    """Train one of the report's own networks from scratch."""
    return trained(settings, name, as_run=as_run)[1]


def pretrained(
    settings: Settings, backbone: str, mode: str, *, as_run: bool = False, start: Start | None = None
) -> Run:
    """Train a head on a backbone, then, except for plain transfer, the backbone's unfrozen layers too.

    `start` spares building the network again for each mode: all of them begin with the same weights. What is
    but a proof that the network trains is neither kept on the disk nor scored on test photos.
    """
    train, valid, test = photos(settings, backbone)
    model = (start or begin(settings, backbone, as_run=as_run)).again(
        "all" if mode == "finetune" else MODES[mode]
    )
    checked = few(settings, backbone) is not None
    name = _name(f"{backbone}_{mode}", as_run)
    fit = partial(training.fit, model, train, valid, runs=settings.runs)
    if mode == "finetune":
        recipe = _recipe(settings, "report002_head", as_run)
        fit(recipe, run=None if checked else f"{name}_head", frozen_once=True)
        models.refreeze(model, MODES[mode])
    recipe = _recipe(
        settings, f"report002_{mode}_{backbone}" if mode == "finetune" else f"report002_{mode}", as_run
    )
    run = fit(recipe, run=None if checked else name, frozen_once=mode == "transfer")
    run = replace(run, name=name)
    return run if checked else _scored(run, model, test)


def begin(settings: Settings, backbone: str, *, as_run: bool = False) -> Start:
    """Build a network on a backbone."""
    return Start(build(settings, backbone, **({"as_run": True} if as_run else {})))


def chosen(settings: Settings, *names: str) -> tuple[str, ...]:
    """Which of these networks the reader asks for."""
    return tuple(name for name in names if name in (*settings.models, *settings.backbones))


def modes(settings: Settings, backbone: str) -> tuple[str, ...]:
    """The modes to try on a backbone: in smoke the smallest takes all of them, the others the first."""
    smallest = min(settings.backbones, key=lambda name: models.card(name).counts.total)
    few_will_do = settings.profile == "smoke" and backbone != smallest
    return settings.modes[:1] if few_will_do else settings.modes


def slips(settings: Settings) -> tuple[str, ...]:
    """Networks from scratch that this execution trains as the report ran them, too."""
    left_out = {"smoke": ("mid", "inception", "resnet_aug"), "quick": ("inception",), "full": ()}[
        settings.profile
    ]
    return tuple(name for name in settings.models if name not in left_out)


def pretrained_slips(settings: Settings) -> tuple[str, ...]:
    """Backbones that it trains as the report ran them, too: none where nothing can be learnt from them."""
    if settings.profile != "full":
        return ()
    return tuple(name for name in settings.backbones if few(settings, name) is None)


def _recipe(settings: Settings, name: str, as_run: bool) -> Recipe:
    """A recipe of the report; as run, the weights of the last epoch were scored and not the best."""
    recipe = settings.apply(recipes.RECIPES[name])
    return recipe.but(restore_best=False) if as_run else recipe


def _scored(run: Run, model: keras.Model, test: ImageSet) -> Run:
    """Add the result on the test photos to the run's record, unless it is there."""
    if run.has_scored("test", test):
        return run
    return run.score("test", evaluation.predict(model, test))


def _name(experiment: str, as_run: bool) -> str:
    return f"animals/{experiment}" + ("_as_run" if as_run else "")


for _model in SCRATCH:
    register(f"animals/{_model}", f"{_model} trained from scratch.", partial(scratch, name=_model))
    says = "with the report's bugs" if models.card(_model).as_run else "scored with its last weights"
    register(
        f"animals/{_model}_as_run",
        f"{_model} trained from scratch, {says}.",
        partial(scratch, name=_model, as_run=True),
    )
for _backbone in BACKBONES:
    for _mode in MODES:
        for _as_run in (False, True):
            says = f"{_backbone}, {_mode}" + (", with the report's bugs." if _as_run else ".")
            function = partial(pretrained, backbone=_backbone, mode=_mode, as_run=_as_run)
            register(_name(f"{_backbone}_{_mode}", _as_run), says, function)
