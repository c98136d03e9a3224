"""A recipe turned into Keras: optimizer, schedule, loss, metrics, precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from labkit.errors import RecipeError
from labkit.models.layers import Marginal, PatchWhitening
from labkit.recipes import Recipe
from labkit.training.machine import accelerators

ONECYCLE_RISE = 0.3  # of all steps, where the recipe gives no warm-up
ONECYCLE_START = 25  # the first rate is lr / 25
EAGER_STEPS = 8  # up to as many, TensorFlow takes longer to trace a deep network than to run it step by step


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile a model by a recipe; each head gets the loss and its own accuracy."""
    heads = list(model.output) if isinstance(model.output, dict) else None
    model.compile(
        optimizer=optimizer(recipe, steps_per_epoch),
        loss=loss(recipe) if heads is None else {head: loss(recipe) for head in heads},
        metrics=_accuracy() if heads is None else {head: _accuracy() for head in heads},
        run_eagerly=_eagerly(recipe.epochs * steps_per_epoch),
        jit_compile=_jit(),
        steps_per_execution=recipe.steps_per_execution,
    )


def _accuracy() -> list[keras.metrics.Metric]:
    return [keras.metrics.CategoricalAccuracy(name="accuracy")]


def _eagerly(steps: int) -> bool:
    return keras.backend.backend() == "tensorflow" and steps <= EAGER_STEPS


def _jit() -> bool | str:
    """XLA as Keras sees fit, but not for TensorFlow on a CPU, where it is slower."""
    slow = keras.backend.backend() == "tensorflow" and not accelerators()
    return False if slow else "auto"


def optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with its schedule and weight average."""
    options = {"learning_rate": rate(recipe, steps_per_epoch)}
    if recipe.weight_decay:
        options["weight_decay"] = recipe.weight_decay
    if recipe.ema is not None:
        options |= {"use_ema": True, "ema_momentum": recipe.ema}
    if recipe.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = recipe.momentum
    if recipe.optimizer == "sgd":
        options["nesterov"] = recipe.nesterov
    kinds = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
    }
    return kinds[recipe.optimizer](**options)


def rate(recipe: Recipe, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, as a function of the step where it moves by itself."""
    schedules = keras.optimizers.schedules
    total = max(1, recipe.epochs * steps_per_epoch)
    rise = round(recipe.warmup * steps_per_epoch)
    if recipe.schedule == "onecycle":  # Smith 2018, arXiv:1708.07120
        rise = rise or round(ONECYCLE_RISE * total)
        return schedules.CosineDecay(
            recipe.lr / ONECYCLE_START,
            max(1, total - rise),
            alpha=recipe.min_lr / recipe.lr,
            warmup_target=recipe.lr,
            warmup_steps=rise,
        )
    if recipe.schedule == "cosine":
        alpha = recipe.min_lr / recipe.lr
        if not rise:
            return schedules.CosineDecay(recipe.lr, total, alpha=alpha)
        return schedules.CosineDecay(
            0.0, max(1, total - rise), alpha=alpha, warmup_target=recipe.lr, warmup_steps=rise
        )
    if rise:
        return schedules.PolynomialDecay(recipe.lr / rise, rise, end_learning_rate=recipe.lr, power=1.0)
    return recipe.lr


def loss(recipe: Recipe) -> keras.losses.Loss:
    """The recipe's loss of one-hot or mixed labels and logits."""
    if recipe.loss == "gce":
        return GeneralizedCrossEntropy(recipe.loss_options.get("q", 0.7))
    if recipe.loss == "forward":
        return ForwardCorrection()
    return keras.losses.CategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="labkit")
class GeneralizedCrossEntropy(keras.losses.Loss):
    """(1 - p^q) / q, between cross-entropy and mean absolute error (Zhang 2018, arXiv:1805.07836).

    Keras' own takes whole-number labels and probabilities; this one takes what mixup and smoothing make.
    """

    def __init__(self, q: float = 0.7, **options):
        """Take q, above 0 and at most 1."""
        super().__init__(**options)
        if not 0 < q <= 1:
            raise RecipeError(f"q is {q!r}.", expected="above 0, at most 1")
        self.q = q

    def call(self, y_true, y_pred):
        """Weigh the loss of each class by its share in the label."""
        log_p = ops.log_softmax(y_pred)
        return ops.sum(y_true * -ops.expm1(self.q * log_p) / self.q, axis=-1)

    def get_config(self):
        """Give what the constructor takes."""
        return super().get_config() | {"q": self.q}


@keras.saving.register_keras_serializable(package="labkit")
class ForwardCorrection(keras.losses.Loss):
    """Cross-entropy of the label as given, seen through the noise (Patrini 2017, arXiv:1609.03683).

    The target says how likely that label is under each true class; for a label that is sure it is one-hot.
    """

    def call(self, y_true, y_pred):
        """Weigh the model's opinion on the truth by what each truth would make of the label."""
        return -ops.log(ops.maximum(ops.sum(y_true * ops.softmax(y_pred), axis=-1), 1e-7))


@contextmanager
def precision(model: keras.Model, name: str) -> Iterator[None]:
    """Compute in another precision while training; heads, whitening, weights and predictions stay float32."""
    if name == "float32":
        yield
        return
    heads = [tensor._keras_history.operation for tensor in keras.tree.flatten(model.output)]
    heads += [head.input._keras_history.operation for head in heads if isinstance(head, Marginal)]
    exact = {id(head) for head in heads}
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if id(layer) not in exact
        and not isinstance(layer, PatchWhitening)  # whose filters all but cancel out
    ]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = name
        _forget_compiled(model)
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy
        _forget_compiled(model)


def _forget_compiled(model: keras.Model) -> None:
    """Make Keras trace the model anew at its next call."""
    model.train_function = model.test_function = model.predict_function = None
