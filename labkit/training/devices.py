"""Several devices at once: the same model on each, every batch shared out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from labkit.errors import RecipeError, RunError


@contextmanager
def placed(model: keras.Model, devices: int) -> Iterator[keras.Model]:
    """The model itself on one device; on several a twin whose weights come back at the end."""
    if devices == 1:
        yield model
        return
    with _scope(devices):
        twin = keras.models.clone_model(model)
        copy_variables(model, twin)
        yield twin
    copy_variables(twin, model)


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Copy weights and random states from one model to another of the same make."""
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(np.array(keras.ops.convert_to_numpy(old)))
    for layer in target.layers:
        if hasattr(layer, "finalize_state"):  # Normalization computes with a copy of its variables
            layer.finalize_state()


def _scope(devices: int):
    """The backend's own way to train on several devices."""
    match keras.backend.backend():
        case "jax":
            _enough(keras.distribution.list_devices(), devices)
            return _jax_scope(devices)
        case "tensorflow":
            import tensorflow as tf

            kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            names = [device.name for device in tf.config.list_logical_devices(kind)]
            return tf.distribute.MirroredStrategy(_enough(names, devices)).scope()
    raise RunError(
        f"{devices} devices with Keras on {keras.backend.backend()}.",
        expected="TensorFlow or JAX for more than one device",
    )


def _jax_scope(devices: int):
    names = keras.distribution.list_devices()[:devices]
    return keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope()


def _enough(names: list[str], devices: int) -> list[str]:
    if len(names) < devices:
        raise RunError(
            f"{devices} devices were asked for.",
            expected=f"at most the {len(names)} that are here: {', '.join(names)}",
            mend="simulate more on a CPU with XLA_FLAGS=--xla_force_host_platform_device_count=2 for JAX",
        )
    return names[:devices]


def asked() -> int:
    """The devices that $LABKIT_DEVICES asks for, or one."""
    text = os.environ.get("LABKIT_DEVICES", "1")
    if not text.isdigit():
        raise RecipeError(f"LABKIT_DEVICES is {text!r}.", expected="a whole number, 1 or more")
    return int(text)


def check_devices(devices: int, batch_size: int) -> None:
    """Refuse a number of devices that a batch cannot be shared out to."""
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise RecipeError(f"devices is {devices!r}.", expected="a whole number, 1 or more")
    if batch_size % devices:
        raise RecipeError(
            f"A batch of {batch_size} cannot be shared by {devices} devices.",
            expected=f"a multiple of {devices}",
        )


class Shared(keras.utils.PyDataset):
    """Batches whose last one is cut to a multiple of the devices: each must get as many images."""

    def __init__(self, batches: keras.utils.PyDataset, devices: int):
        """Wrap a feeder."""
        super().__init__(workers=1)
        self.batches, self.devices = batches, devices

    def __len__(self) -> int:
        """Count the batches that keep an image for each device."""
        images, size = len(self.batches.images), self.batches.batch_size
        return -(-(images - images % self.devices) // size)

    def __getitem__(self, index: int):
        """Cut one batch."""
        batch = self.batches[index]
        return keras.tree.map_structure(lambda part: part[: len(part) - len(part) % self.devices], batch)

    def on_epoch_end(self) -> None:
        """Pass on the end of the epoch."""
        self.batches.on_epoch_end()


def shared(batches: keras.utils.PyDataset, devices: int) -> keras.utils.PyDataset:
    """The feeder as it is for one device, or with batches that can be shared out."""
    return batches if devices == 1 else Shared(batches, devices)
