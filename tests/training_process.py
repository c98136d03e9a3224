"""Training runs in a process of their own, which can kill itself, or stall, in the middle of an epoch."""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path


class WithoutTensorFlow(PathFinder):
    """Finds everything but TensorFlow, as where it is not installed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, path, target)


if "--without-tensorflow" in sys.argv:
    sys.meta_path = [WithoutTensorFlow if finder is PathFinder else finder for finder in sys.meta_path]

import keras  # noqa: E402

from labkit import augment, data, runs, training  # noqa: E402
from labkit.recipes import Recipe  # noqa: E402
from labkit.training.devices import placed  # noqa: E402

BASE = Recipe(epochs=8, batch_size=16, lr=3e-2, augment="basic", label_smoothing=0.1, seed=3)
VARIANTS = {
    "stopping": BASE.but(
        epochs=12,
        lr=4e-2,
        schedule="plateau",
        plateau_patience=1,
        plateau_factor=0.5,
        patience=3,
        monitor="val_loss",
    ),
    "cosine": BASE.but(optimizer="adamw", weight_decay=0.01, schedule="cosine", warmup=2, augment="mixup"),
    "ema": BASE.but(optimizer="sgd", momentum=0.9, ema=0.9),
    "last": BASE.but(optimizer="rmsprop", restore_best=False, monitor="loss", augment="cutmix"),
}


def tiny_model(*, dropout: float = 0.3, normalization: bool = True, seed: int = 1) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    if dropout:
        x = keras.layers.RandomFlip(seed=1)(x)
    x = keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=_drawn(seed))(x)
    if normalization:
        x = keras.layers.BatchNormalization(momentum=0.7)(x)
    x = keras.layers.Flatten()(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=2)(x)
    return keras.Model(inputs, keras.layers.Dense(10, kernel_initializer=_drawn(seed + 1))(x), name="tiny")


def _drawn(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed)


def tiny_images(n: int, seed: int) -> data.ImageSet:
    images = data.synthetic("cifar10", n, seed)
    return data.ImageSet(images.images[:, ::4, ::4].copy(), images.labels, images.classes, images.source)


def train(folder: Path, variant: str, **options) -> tuple[keras.Model, runs.Run]:
    model = tiny_model()
    images, valid = tiny_images(64, 0), tiny_images(48, 1)
    options = {"run": f"tests/{variant}", "runs": folder, "save_every": 0} | options
    return model, training.fit(model, images, valid, VARIANTS[variant], **options)


def outcome(model: keras.Model, run: runs.Run) -> dict:
    """What must not depend on whether, where and how often a run was killed."""
    digest = hashlib.sha256()
    for variable in model.variables:  # random states included
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return {
        "history": {name: values for name, values in run.record["history"].items() if name != "seconds"},
        "best_epoch": run.best_epoch,
        "stopped_early": run.record["stopped_early"],
        "weights": digest.hexdigest(),
    }


def shared_curve(devices: int) -> list[float]:
    """Losses of a model without randomness, its batches shared by devices."""
    model = tiny_model(dropout=0, normalization=False)
    recipe = BASE.but(epochs=3, augment=None, restore_best=False, lr=1e-3)
    run = training.fit(model, tiny_images(64, 0), tiny_images(48, 1), recipe, devices=devices)
    return [*run.history["loss"], *run.history["val_loss"], *run.history["val_accuracy"]]


def simulate_devices(count: int) -> None:
    """Cut TensorFlow's processor in parts; JAX reads $XLA_FLAGS."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )


def places(devices: int) -> int:
    """On how many devices a weight lies in training."""
    with placed(tiny_model(), devices) as model:
        weight = model.weights[0].value
        return len(weight.devices() if keras.backend.backend() == "jax" else weight.values)


def interrupt(epoch: int, act) -> None:
    """Act when the third batch of an epoch, counted from 1, is made."""
    make = augment.Batches.__getitem__

    def interrupted(self, index):
        if self.shuffle and self.epoch == epoch - 1 and index == 2:
            act()
        return make(self, index)

    augment.Batches.__getitem__ = interrupted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", default="stopping")
    parser.add_argument("--kill", type=int, help="die by SIGKILL in this epoch")
    parser.add_argument("--stall", type=int, help="hang in this epoch")
    parser.add_argument("--devices", type=int, help="compare one device with several")
    parser.add_argument("--without-tensorflow", action="store_true")
    given = parser.parse_args()
    if given.kill:
        interrupt(given.kill, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if given.stall:
        interrupt(given.stall, lambda: time.sleep(600))
    if given.devices:
        simulate_devices(given.devices)
        found = {str(devices): shared_curve(devices) for devices in (1, given.devices)}
        found["places"] = places(given.devices)
    else:
        found = {name: outcome(*train(given.folder, name)) for name in given.variants.split(",")}
    print(json.dumps(found | {"backend": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main()
