import subprocess
import sys

import keras
import numpy as np
import pytest
from training_process import tiny_images

from labkit.augment import Batches
from labkit.data import PairStream
from labkit.training import feeding
from labkit.training.devices import shared


def streamed(batches: keras.utils.PyDataset) -> list:
    return [keras.tree.map_structure(keras.ops.convert_to_numpy, batch) for batch in feeding.feed(batches)]


def same(first: list, second: list) -> bool:
    for one, other in zip(first, second, strict=True):
        keras.tree.assert_same_structure(one, other)
        if not all(map(np.array_equal, keras.tree.flatten(one), keras.tree.flatten(other))):
            return False
    return True


def pairs() -> PairStream:
    return PairStream(tiny_images(20, 0), tiny_images(20, 1), 22, seed=0)


@pytest.mark.parametrize(
    ("images", "devices", "augment"),
    [
        (lambda: tiny_images(22, 0), 1, "basic"),
        (lambda: tiny_images(22, 0), 4, "basic"),
        (lambda: tiny_images(22, 0).with_hints(np.arange(22) % 3), 1, None),
        (pairs, 1, None),
    ],
    ids=["images", "shared by four devices", "hinted", "pairs"],
)
def test_the_stream_gives_the_batches_of_each_epoch_in_their_order(images, devices, augment):
    batches = Batches(images(), 8, seed=3, augment=augment)
    dealt = shared(batches, devices)
    epochs = []
    for epoch in (0, 1):
        batches.epoch = epoch
        epochs.append(streamed(dealt))
        assert same(epochs[-1], [dealt[index] for index in range(len(dealt))])
    assert len(epochs[0]) == len(dealt) and not same(*epochs)


def test_other_backends_take_the_batches_themselves(monkeypatch):
    batches = Batches(tiny_images(22, 0), 8, seed=3)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert feeding.feed(batches) is batches


TAKEN_AGAIN = """
import resource

import numpy as np

from labkit.training import feeding


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        [np.ones(3 * 2**20, np.uint8) for _ in range(20)]  # together more than a heap may happen to have free
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


feeding._begin_a_generator_data_set()
feeding._mallopt()(feeding._MMAP_THRESHOLD, 2**17)  # as where nothing larger was freed before
given_back = faults()
assert feeding.keep_freed_memory()
faults()
kept = faults()
feeding._begin_a_generator_data_set()
print(given_back, kept, faults())
"""


@pytest.mark.skipif(feeding._mallopt() is None, reason="this system's allocator has no such settings")
def test_freed_memory_stays_with_the_process():
    """By the pages that the system gives it to take twenty times three megabytes, three times over."""
    shown = subprocess.run([sys.executable, "-c", TAKEN_AGAIN], capture_output=True, text=True, check=True)
    given_back, kept, still_kept = map(int, shown.stdout.split())
    assert given_back > 50 * max(kept, still_kept, 1)


def no_library(name):
    raise TypeError("as on Windows")


@pytest.mark.parametrize("library", [no_library, lambda name: object()])
def test_a_system_without_such_settings_is_left_as_it_is(monkeypatch, library):
    monkeypatch.setattr(feeding.ctypes, "CDLL", library)
    assert not feeding.keep_freed_memory.__wrapped__()
