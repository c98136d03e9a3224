"""The way of batches into Keras, spared two costs of TensorFlow that can outweigh a small network's steps."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import keras

if TYPE_CHECKING:
    import tensorflow as tf

# Settings of glibc's allocator by their numbers in malloc.h, and values by which freed memory stays with the
# process: it is never trimmed, grows in large pieces, and no array comes from the system by itself.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 0}
AHEAD = 2  # batches that are made while the device is at work


Feed: TypeAlias = "keras.utils.PyDataset | tf.data.Dataset"


def feed(batches: keras.utils.PyDataset) -> Feed:
    """The batches as this backend takes them fastest; the same ones in the same order on all."""
    if keras.backend.backend() != "tensorflow":
        return batches
    keep_freed_memory()
    return _stream(batches)


def _stream(batches: keras.utils.PyDataset) -> "tf.data.Dataset":
    """What Keras makes of the batches, but untuned: a tuned stream may take a second to end, every epoch."""
    import tensorflow as tf

    def spec(part) -> tf.TensorSpec:
        return tf.TensorSpec((None, *part.shape[1:]), part.dtype)

    stream = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(len(batches))),
        output_signature=keras.tree.map_structure(spec, batches[0]),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    counted = stream.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(AHEAD).with_options(options)


@cache
def keep_freed_memory() -> bool:
    """Undo what TensorFlow's first generator data set does to this process; tells whether the system can.

    It sets M_TRIM_THRESHOLD, and with that ends the C library's own adjustment of the size above which an
    array comes from the system and goes back there: 128 KiB, if none was freed before. A step of a small
    network then takes as long to get its arrays, page by page, as to compute.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    _begin_a_generator_data_set()
    accepted = [mallopt(setting, value) for setting, value in KEEPING.items()]
    return all(accepted)


def _mallopt() -> Callable[[int, int], int] | None:
    """What sets the C library's allocator; None where there is none, as on macOS and Windows."""
    try:
        return getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):
        return None


def _begin_a_generator_data_set() -> None:
    import tensorflow as tf

    nothing = tf.TensorSpec((), tf.int32)
    for _ in tf.data.Dataset.from_generator(lambda: iter(()), output_signature=nothing):
        pass
