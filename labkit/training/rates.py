"""A learning rate to start from: raised until the loss explodes (Smith 2017, arXiv:1506.01186)."""

import math
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from labkit.augment import Batches
from labkit.data import ImageSet, PairStream
from labkit.errors import RunError
from labkit.recipes import Recipe
from labkit.training.callbacks import seed_generators
from labkit.training.compiling import compile_model
from labkit.training.fitting import adapt, batches_of, check_targets

_MEMORY = 0.8  # of the running mean that smooths the losses
_EXPLODED = 3  # times the lowest loss, and the search ends


@dataclass(frozen=True, eq=False)
class Rates:
    """Losses at rising learning rates, and the rate to try."""

    table: pd.DataFrame  # lr, loss, smooth
    suggestion: float

    def __str__(self) -> str:
        return f"try a learning rate of {self.suggestion:.1e}"


def find_lr(
    model: keras.Model,
    train: ImageSet | PairStream,
    recipe: Recipe,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    targets: np.ndarray | None = None,
) -> Rates:
    """Train on `steps` batches at rates from `low` to `high`; the model gets its weights back.

    The suggestion is a third of the rate at which the smoothed loss is lowest. As in `fit`, layers that take
    their numbers from training images are fitted first, and stay so; `targets` are learnt in place of labels.
    """
    if not 0 < low < high or steps < 1:
        raise RunError(
            f"There is nothing to search in {steps} steps from {low:g} to {high:g}.",
            expected="one step or more, from a rate above 0 to a higher one",
        )
    check_targets(model, train, recipe, targets)
    adapt(model, train)
    before = model.get_weights()
    flat = recipe.but(schedule="constant", warmup=0, lr=high, min_lr=0.0, ema=None)
    batches = batches_of(train, recipe, targets)
    compile_model(model, flat, len(batches))
    seed_generators(model, recipe.seed, 0)
    try:
        table = _losses(model, batches, np.geomspace(low, high, steps))
    finally:
        model.set_weights(before)
    if table.empty:
        raise RunError(
            f"The loss is not finite at a learning rate of {low:g}.",
            mend="start lower, or look at the images",
        )
    return Rates(table, float(table["lr"][table["smooth"].idxmin()]) / 3)


def _losses(model: keras.Model, batches: Batches, rates: np.ndarray) -> pd.DataFrame:
    rows, mean, lowest = [], 0.0, math.inf
    for step, rate in enumerate(rates):
        batches.epoch, place = divmod(step, len(batches))
        model.optimizer.learning_rate = float(rate)
        model.reset_metrics()  # train_on_batch gives means since the last reset
        loss = float(model.train_on_batch(*batches[place], return_dict=True)["loss"])
        if not math.isfinite(loss):
            break
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        smooth = mean / (1 - _MEMORY ** (step + 1))
        lowest = min(lowest, smooth)
        rows.append({"lr": float(rate), "loss": loss, "smooth": smooth})
        if smooth > _EXPLODED * lowest:
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smooth"])
