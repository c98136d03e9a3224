"""Experiments of chapter 2: five networks from scratch, three pretrained ones in three freezing modes."""

from functools import partial

import keras

from labkit import data, evaluation, models, protocols, recipes, training
from labkit.chapters import Settings
from labkit.data import ImageSet
from labkit.experiments.registry import place, register, share
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


def split(settings: Settings) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training, validation and test photos."""
    drawn = settings.n if settings.data == "synthetic" else None
    source = place(settings, "animals")
    images, test = data.animals(source, size=settings.image_size, seed=settings.seed, n=drawn)
    train, valid = protocols.animals(images, share=share(settings, images))
    return train, valid, protocols.thin(test, share(settings, test))


def build(settings: Settings, parts: tuple[ImageSet, ...], name: str, **options) -> keras.Model:
    """A model of this chapter for the photos at hand."""
    train = parts[0]
    shape, classes = train.images.shape[1:], len(train.classes)
    return models.build(name, input_shape=shape, classes=classes, seed=settings.seed, **options)


def scratch(settings: Settings, name: str, *, as_run: bool = False) -> Run:
    """Train one of the report's own networks from scratch."""
    train, valid, test = parts = split(settings)
    model = build(settings, parts, name, **({"as_run": True} if as_run else {}))
    recipe = settings.apply(recipes.RECIPES[SCRATCH[name]])
    if as_run:
        recipe = recipe.but(restore_best=False)  # the report scored the last epoch's weights
    run = training.fit(model, train, valid, recipe, run=_name(name, as_run), runs=settings.runs)
    return run.score("test", evaluation.predict(model, test))


def pretrained(settings: Settings, backbone: str, mode: str, *, as_run: bool = False) -> Run:
    """Train a head on a backbone, then, except for plain transfer, the backbone's unfrozen layers too."""
    train, valid, test = parts = split(settings)
    weights = None if settings.weights == "none" else settings.weights
    options = {"weights": weights} | ({"as_run": True} if as_run else {})
    first = "all" if mode == "finetune" else MODES[mode]
    model = build(settings, parts, backbone, freeze=first, **options)
    name = _name(f"{backbone}_{mode}", as_run)
    recipe = settings.apply(recipes.RECIPES["report002_head" if mode == "finetune" else f"report002_{mode}"])
    if mode == "finetune":
        training.fit(model, train, valid, recipe, run=f"{name}_head", runs=settings.runs)
        head, model = model, build(settings, parts, backbone, freeze="none", **options)
        model.set_weights(head.get_weights())
        recipe = settings.apply(recipes.RECIPES[f"report002_finetune_{backbone}"])
    run = training.fit(model, train, valid, recipe, run=name, runs=settings.runs)
    return run.score("test", evaluation.predict(model, test))


def _name(experiment: str, as_run: bool) -> str:
    return f"animals/{experiment}" + ("_as_run" if as_run else "")


for _model in SCRATCH:
    register(f"animals/{_model}", f"{_model} trained from scratch.", partial(scratch, name=_model))
    if _model != "mid":  # the one network whose code does what the report says
        says = f"{_model} trained from scratch, with the report's bugs."
        register(f"animals/{_model}_as_run", says, partial(scratch, name=_model, as_run=True))
for _backbone in BACKBONES:
    for _mode in MODES:
        for _as_run in (False, True):
            says = f"{_backbone}, {_mode}" + (", with the report's bugs." if _as_run else ".")
            function = partial(pretrained, backbone=_backbone, mode=_mode, as_run=_as_run)
            register(_name(f"{_backbone}_{_mode}", _as_run), says, function)
