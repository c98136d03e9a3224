"""Times an epoch of `training.fit` under TensorFlow, its batches fed by Keras and by `labkit`.

    python bench/feeding.py

What TensorFlow's first generator data set does to the allocator stays with a process, so each side has one of
its own, and they take turns. A typical epoch is the median of all but the first, which compiles; where Keras
feeds, it may hold a second in which nothing happens.
"""

import argparse
import os
import subprocess
import sys

os.environ.setdefault("LABKIT_PROGRESS", "none")

import pandas as pd

from labkit import data, models, training
from labkit.recipes import RECIPES
from labkit.training import fitting
from labkit.training.machine import hardware

# Networks with the recipe whose batch they take, and how many images make an epoch of some seconds.
NETWORKS = {
    "cnn1": ("report001_cnn", 1_920),
    "resnet8": ("report000_model1", 1_280),
    "vgg": ("report000_model1", 1_280),
}
EPOCHS = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epoch", nargs=2, metavar=("NETWORK", "FED_BY"), help="print its seconds alone")
    given = parser.parse_args()
    if given.epoch:
        print(f"{a_typical_epoch(*given.epoch):.6f}")
        return
    print(f"The processor's vectors: {hardware()['vectors']}")
    table = pd.DataFrame([both_ways(name, given.repeats) for name in NETWORKS])
    print(table.to_string(index=False, float_format="{:.3f}".format))


def both_ways(network: str, repeats: int) -> dict[str, str | int | float]:
    """Seconds of an epoch fed by Keras and by `labkit`, each in its best process, and their ratio."""
    times = [[in_a_process(network, fed_by) for fed_by in ("keras", "labkit")] for _ in range(repeats)]
    keras, ours = map(min, zip(*times, strict=True))
    recipe, images = NETWORKS[network]
    batch = RECIPES[recipe].batch_size
    return {
        "an epoch of": network,
        "images": images,
        "batch": batch,
        "by Keras": keras,
        "by labkit": ours,
        "times faster": keras / ours,
    }


def in_a_process(network: str, fed_by: str) -> float:
    """Seconds of an epoch in a process that feeds in this way."""
    command = [sys.executable, __file__, "--epoch", network, fed_by]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def a_typical_epoch(network: str, fed_by: str) -> float:
    """Seconds of a typical epoch."""
    if fed_by == "keras":
        fitting.feed = lambda batches: batches
    recipe, count = NETWORKS[network]
    images = data.synthetic("cifar10", count * 5 // 4, 0)
    train, valid = images.take(slice(count)), images.take(slice(count, None))
    how = RECIPES[recipe].but(epochs=EPOCHS, patience=None)
    run = training.fit(models.build(network, seed=0), train, valid, how)
    return run.history["seconds"][1:].median()


if __name__ == "__main__":
    main()
