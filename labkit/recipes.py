"""Training recipes: what `training.fit` does, as data; the reports' own as named constants."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from labkit.errors import RecipeError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "plateau", "cosine", "onecycle")
MONITORS = ("val_accuracy", "val_loss", "accuracy", "loss")
LOSSES = {"crossentropy": (), "gce": ("q",), "forward": ()}
AUGMENTATIONS = (None, "basic", "mixup", "cutmix", "basic_cutmix", "cutmix_unit")
PRECISIONS = ("float32", "mixed_bfloat16")
PARTNERS = ("batch", "shuffle")
NUMBERS = ("lr", "weight_decay", "momentum", "warmup", "plateau_factor", "plateau_min_delta", "min_lr",
           "label_smoothing", "ema")  # fmt: skip
_PLATEAU_DEFAULTS = {
    "plateau_factor": 0.1,
    "plateau_patience": None,
    "plateau_min_delta": 1e-4,
}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; two equal recipes on equal data and weights give equal models."""

    epochs: int  # at most; 0 leaves the model as it is
    batch_size: int
    optimizer: str = "adam"
    lr: float = 1e-3  # the highest rate of a schedule
    weight_decay: float = 0.0  # decoupled, of all variables; Keras multiplies it by the learning rate
    momentum: float = 0.0
    nesterov: bool = False
    schedule: str = "constant"
    warmup: float = 0  # epochs of linear rise to lr
    plateau_factor: float = 0.1
    plateau_patience: int | None = None  # epochs without a better `monitor` before the rate drops
    plateau_min_delta: float = 1e-4
    min_lr: float = 0.0  # where a schedule ends
    patience: int | None = None  # epochs without a better `monitor` before training stops
    monitor: str = "val_accuracy"  # of two heads, accuracy is their mean
    restore_best: bool = True
    keep: str | None = None  # by what the best weights are chosen; None means by `monitor`
    label_smoothing: float = 0.0  # of the training labels; validation labels stay as they are
    loss: str = "crossentropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    augment: str | None = None
    partners: str = "batch"  # where mixup and CutMix find the second image: in the batch or in all images
    ema: float | None = None  # momentum of the moving average of weights that is validated and kept
    precision: str = "float32"
    steps_per_execution: int = 1
    seed: int = 0

    def __post_init__(self):
        """Refuse values out of range and values that contradict each other."""
        _check_words(self)
        _check_numbers(self)
        _check_harmony(self)

    @property
    def mode(self) -> str:
        """Whether a better `monitor` is a larger or a smaller one."""
        return mode(self.monitor)

    @property
    def kept_by(self) -> str:
        """The number by which the best weights are chosen."""
        return self.keep or self.monitor

    @property
    def needs_validation(self) -> bool:
        """Whether anything depends on a number that is measured on validation images."""
        stops = self.patience is not None or self.schedule == "plateau"
        watched = [self.monitor] * stops + [self.kept_by] * self.restore_best
        return any(number.startswith("val_") for number in watched)

    def but(self, **changes: Any) -> "Recipe":
        """The same recipe with changes; a shorter run warms up for a shorter time."""
        unknown = [name for name in changes if name not in {item.name for item in fields(self)}]
        if unknown:
            names = [item.name for item in fields(self)]
            raise RecipeError(
                f"A recipe has no {unknown[0]!r}.",
                expected="one of " + ", ".join(names),
                mend=nearest(unknown[0], names),
            )
        changed = {}
        if self.warmup and "epochs" in changes and self.epochs:
            changed["warmup"] = self.warmup * min(1, changes["epochs"] / self.epochs)
        if changes.get("schedule", "plateau") != "plateau":
            changed |= _PLATEAU_DEFAULTS
        return replace(self, **(changed | changes))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self) | {"loss_options": dict(self.loss_options)}

    def __str__(self) -> str:
        return ", ".join(part for part in _phrases(self) if part)


def mode(number: str) -> str:
    """Whether a better number is a larger or a smaller one."""
    return "max" if number.endswith("accuracy") else "min"


def _phrases(recipe: Recipe) -> Iterable[str]:
    """The parts of a recipe's one line, defaults left out."""
    yield f"{recipe.optimizer} at {recipe.lr:g}" + _if(recipe.momentum, " momentum {:g}")
    yield _if(recipe.nesterov, "nesterov")
    yield _if(recipe.weight_decay, "weight decay {:g}")
    if recipe.schedule == "plateau":
        yield f"×{recipe.plateau_factor:g} after {recipe.plateau_patience} epochs on a plateau"
    else:
        yield "" if recipe.schedule == "constant" else recipe.schedule
    yield _if(recipe.warmup, "warm-up {:g} epochs")
    yield f"batch {recipe.batch_size}"
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    yield epochs + ("" if recipe.patience is None else " at most")
    if recipe.patience is not None:
        yield f"stops after {recipe.patience} without a better {recipe.monitor}"
    if recipe.restore_best:
        yield f"keeps the best {recipe.kept_by}"
    yield "" if recipe.loss == "crossentropy" else f"loss {recipe.loss}"
    yield _if(recipe.loss_options.get("q"), "q {:g}")
    yield _if(recipe.label_smoothing, "label smoothing {:g}")
    yield _if(recipe.augment, "{}") + ("" if recipe.partners == "batch" else " across batches")
    yield _if(recipe.ema, "weight average {:g}")
    yield "" if recipe.precision == "float32" else recipe.precision
    yield f"seed {recipe.seed}"


def _if(value: Any, text: str) -> str:
    return text.format(value) if value else ""


def _check_words(recipe: Recipe) -> None:
    choices = {
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "monitor": MONITORS,
        "keep": (None, *MONITORS),
        "loss": tuple(LOSSES),
        "augment": AUGMENTATIONS,
        "precision": PRECISIONS,
        "partners": PARTNERS,
    }
    for name, allowed in choices.items():
        value = getattr(recipe, name)
        if value not in allowed:
            raise RecipeError(
                f"{name} is {value!r}.",
                expected="one of " + ", ".join(map(str, allowed)),
                mend=nearest(str(value), [word for word in allowed if word]),
            )


def _check_numbers(recipe: Recipe) -> None:
    whole = {"epochs": 0, "batch_size": 1, "steps_per_execution": 1, "seed": 0}
    whole |= {name: 1 for name in ("patience", "plateau_patience") if getattr(recipe, name) is not None}
    for name, low in whole.items():
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise RecipeError(f"{name} is {value!r}.", expected=f"a whole number, {low} or more")
    for name in NUMBERS:
        value = getattr(recipe, name)
        missing = value is None and name == "ema"
        if not missing and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RecipeError(f"{name} is {value!r}.", expected="a number")
    if not isinstance(recipe.restore_best, bool):
        raise RecipeError(f"restore_best is {recipe.restore_best!r}.", expected="True or False")
    ranges = {
        "lr": (recipe.lr > 0, "above 0"),
        "weight_decay": (recipe.weight_decay >= 0, "0 or more"),
        "momentum": (0 <= recipe.momentum < 1, "from 0 to below 1"),
        "warmup": (recipe.warmup >= 0, "0 or more epochs"),
        "plateau_factor": (0 < recipe.plateau_factor < 1, "between 0 and 1"),
        "plateau_min_delta": (recipe.plateau_min_delta >= 0, "0 or more"),
        "min_lr": (0 <= recipe.min_lr < recipe.lr, "from 0 to below lr"),
        "label_smoothing": (0 <= recipe.label_smoothing < 1, "from 0 to below 1"),
        "ema": (recipe.ema is None or 0 < recipe.ema < 1, "None, or between 0 and 1"),
    }
    for name, (holds, expected) in ranges.items():
        value = getattr(recipe, name)
        if not holds or (value is not None and not math.isfinite(value)):
            raise RecipeError(f"{name} is {value!r}.", expected=expected)


def _check_harmony(recipe: Recipe) -> None:
    """Refuse settings that have no effect or fight each other."""
    plateau = recipe.schedule == "plateau"
    strays = [name for name, value in _PLATEAU_DEFAULTS.items() if getattr(recipe, name) != value]
    known = LOSSES[recipe.loss]
    options = [name for name in recipe.loss_options if name not in known]
    contradictions = [
        (plateau and recipe.plateau_patience is None, "plateau without plateau_patience", "set it"),
        (not plateau and strays, f"{', '.join(strays)} with schedule {recipe.schedule!r}",
         "use schedule='plateau' or leave them out"),
        (recipe.min_lr and recipe.schedule == "constant", "min_lr with a constant rate", "choose a schedule"),
        (recipe.warmup and plateau, "a warm-up before a plateau schedule", "use cosine or constant"),
        (recipe.warmup and recipe.warmup >= recipe.epochs > 0,
         f"a warm-up of {recipe.warmup:g} epochs in a run of {recipe.epochs}", "shorten the warm-up"),
        (recipe.weight_decay and recipe.optimizer == "adam", "adam with decoupled weight decay",
         "optimizer='adamw' is adam with it"),
        (not recipe.weight_decay and recipe.optimizer == "adamw", "adamw without weight decay",
         "set weight_decay, or use adam"),
        (recipe.momentum and recipe.optimizer not in ("sgd", "rmsprop"),
         f"momentum with {recipe.optimizer}", "leave it out: adam has its own"),
        (recipe.nesterov and not (recipe.optimizer == "sgd" and recipe.momentum),
         "nesterov without sgd and momentum", "set both, or leave it out"),
        (recipe.partners != "batch" and recipe.augment not in ("mixup", "cutmix"),
         f"partners={recipe.partners!r} with augment={recipe.augment!r}", "use mixup or cutmix"),
        (recipe.loss == "forward" and recipe.label_smoothing, "loss 'forward' with label smoothing",
         "its targets are likelihoods, which need none"),
        (options, f"loss {recipe.loss!r} with {', '.join(options)}",
         f"it takes {', '.join(known) or 'no options'}"),
        (recipe.ema and recipe.patience is not None and not recipe.restore_best,
         "a weight average, early stopping and the last weights", "set restore_best"),
    ]  # fmt: skip
    for holds, happened, mend in contradictions:
        if holds:
            raise RecipeError(f"The recipe contradicts itself: {happened}.", mend=mend)


# Report 000. Its AdamW, of tensorflow-addons, takes 1e-4 of every weight away at each step. Keras multiplies
# the decay by the learning rate, so the same decay is 1e-4 / lr: 0.1 at 1e-3 and 1.0 at 1e-4.
REPORT000_MODEL1 = Recipe(
    epochs=100, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.1, patience=15, label_smoothing=0.1
)
REPORT000_CLEANER = Recipe(epochs=100, batch_size=128, lr=1e-3, patience=15, label_smoothing=0.1)
REPORT000_MODEL2 = REPORT000_MODEL1.but(lr=1e-4, weight_decay=1.0, patience=10)
REPORT000_MIXUP_HONEST = REPORT000_MODEL2.but(augment="mixup", partners="shuffle", patience=5)
REPORT000_MIXUP = REPORT000_MIXUP_HONEST.but(monitor="accuracy")  # as run: selected on training accuracy

# Report 001 looked at no validation data.
REPORT001_CNN = Recipe(epochs=10, batch_size=32, lr=1e-3, monitor="accuracy", restore_best=False)
REPORT001_INCEPTION = REPORT001_CNN.but(epochs=6, batch_size=64, lr=1e-4)

# Report 002 meant to keep the best weights, and kept the last: `.but(restore_best=False)` is as run.
REPORT002_RESNET = Recipe(
    epochs=50,
    batch_size=258,
    lr=1e-3,
    schedule="plateau",
    plateau_factor=0.2,
    plateau_patience=5,
    plateau_min_delta=1e-5,
    patience=10,
    monitor="val_loss",
)
REPORT002_SIMPLE = REPORT002_RESNET.but(epochs=20)
REPORT002_MID = REPORT002_RESNET.but(epochs=30)
REPORT002_INCEPTION = REPORT002_RESNET.but(lr=1e-4)
REPORT002_TRANSFER = REPORT002_RESNET.but(lr=1e-4)  # a head on a frozen backbone
REPORT002_PARTIAL = REPORT002_RESNET.but(lr=1e-4)  # some layers of the backbone train too
REPORT002_HEAD = REPORT002_RESNET.but(plateau_patience=3, patience=5)  # before fine-tuning the whole
REPORT002_FINETUNE_RESNET50V2 = REPORT002_RESNET.but(lr=5e-5, plateau_patience=3)
REPORT002_FINETUNE_MOBILENETV2 = REPORT002_RESNET.but(lr=1e-5, plateau_patience=2, patience=2)
REPORT002_FINETUNE_XCEPTION = REPORT002_FINETUNE_MOBILENETV2

# Report 003. FMP3's patience is not in what is left of the report; its other networks wait 10 or 20 epochs.
REPORT003_ACCN = Recipe(
    epochs=250,
    batch_size=64,
    optimizer="rmsprop",
    lr=1e-3,
    schedule="plateau",
    plateau_factor=0.2,
    plateau_patience=5,
    min_lr=1e-9,
    patience=10,
    monitor="val_loss",
    keep="val_accuracy",
    label_smoothing=0.1,
)
REPORT003_ACCNL = REPORT003_ACCN.but(epochs=100, patience=20)
REPORT003_FMP3 = Recipe(
    epochs=100, batch_size=64, lr=1e-3, patience=10, monitor="val_loss", keep="val_accuracy"
)
REPORT003_LACNN = REPORT003_ACCN.but(patience=20, plateau_patience=10, label_smoothing=0.0)

REPORT004 = Recipe(epochs=50, batch_size=64, optimizer="sgd", lr=0.01, momentum=0.9, patience=10)
REPORT004_LONG = REPORT004.but(epochs=100)
# As run the cosine reached zero after 50 of 60 epochs; here it lasts to the end.
REPORT004_TUNED = REPORT004.but(epochs=60, lr=0.022339, schedule="cosine")

NOISY_GCE = REPORT000_MODEL1.but(loss="gce", loss_options={"q": 0.7}, label_smoothing=0.0)
NOISY_FORWARD = REPORT000_MODEL1.but(loss="forward", label_smoothing=0.0)  # `fit` takes the likelihoods

# Past the reports, an hour on two cores each; a teacher and its student share one, on cores with bfloat16.
BETTER_CIFAR100 = Recipe(
    epochs=24,
    batch_size=512,
    optimizer="sgd",
    lr=0.75,
    momentum=0.85,
    nesterov=True,
    weight_decay=5e-3,
    schedule="onecycle",
    label_smoothing=0.1,
    augment="basic",
    restore_best=False,
)
BETTER_CIFAR100_CUTMIX = BETTER_CIFAR100.but(augment="basic_cutmix")
BETTER_DUAL = BETTER_CIFAR100.but(augment=None)  # the components move before they are averaged
BETTER_NOISY_TEACHER = BETTER_CIFAR100.but(epochs=14, loss="forward", label_smoothing=0.0)
BETTER_NOISY_STUDENT = BETTER_CIFAR100.but(epochs=22)

# Every recipe of this file by its name in small letters.
RECIPES = {name.lower(): recipe for name, recipe in list(globals().items()) if isinstance(recipe, Recipe)}
