"""Times an epoch of `training.fit` under TensorFlow, its batches fed by Keras and by `labkit`.

    python bench/feeding.py

What TensorFlow's first generator data set does to the allocator stays with a process, so each side has
processes of its own, and they take turns. All epochs count but the first of each, which compiles. The mean
beside the fastest tells of what comes and goes: a second at an epoch's end in which nothing happens, and
memory that goes back to the system at every step, or not, by what the process freed before.
"""

import argparse
import os
import subprocess
import sys
from statistics import fmean

os.environ.setdefault("LABKIT_PROGRESS", "none")

import pandas as pd
from _ratio import ratio

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
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", nargs=2, metavar=("NETWORK", "SIDE"), help="print their seconds alone")
    given = parser.parse_args()
    if given.epochs:
        print(*epochs_of(*given.epochs))
        return
    print(f"The processor's vectors: {hardware()['vectors']}")
    table = pd.DataFrame([both_ways(name, given.repeats) for name in NETWORKS])
    print(table.to_string(index=False, float_format="{:.3f}".format))


def both_ways(network: str, repeats: int) -> dict[str, str | int | float]:
    """Seconds of an epoch fed by Keras and by `labkit`, fastest and mean; the ratio is that of the means."""
    sides = {"Keras": [], "labkit": []}
    for _ in range(repeats):
        for side, epochs in sides.items():
            epochs += in_a_process(network, side)
    recipe, images = NETWORKS[network]
    row = {"an epoch of": network, "images": images, "batch": RECIPES[recipe].batch_size}
    for side, epochs in sides.items():
        row |= {f"{side}, fastest": min(epochs), f"{side}, mean": fmean(epochs)}
    times = row["Keras, mean"] / row["labkit, mean"]
    ratio(f"an epoch of `{network}` fed by `labkit`", "fed by Keras", "speed", times)
    return row


def in_a_process(network: str, side: str) -> list[float]:
    """Seconds of each epoch in a process whose batches this side feeds."""
    command = [sys.executable, __file__, "--epochs", network, side]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(seconds) for seconds in done.stdout.split()]


def epochs_of(network: str, side: str) -> list[float]:
    """Seconds of each epoch but the first."""
    if side == "Keras":
        fitting.feed = lambda batches: batches
    recipe, count = NETWORKS[network]
    images = data.synthetic("cifar10", count * 5 // 4, 0)
    train, valid = images.take(slice(count)), images.take(slice(count, None))
    how = RECIPES[recipe].but(epochs=EPOCHS, patience=None)
    run = training.fit(models.build(network, seed=0), train, valid, how)
    return list(run.history["seconds"][1:])


if __name__ == "__main__":
    main()
