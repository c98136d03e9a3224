"""Times a training step of networks that convolve, with and without oneDNN under TensorFlow.

    python bench/onednn.py

TensorFlow decides when it is loaded, so each side has a process of its own. `labkit` asks for oneDNN on every
processor.
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack

os.environ.setdefault("LABKIT_PROGRESS", "none")

import pandas as pd
from _ratio import ratio
from training import STEPPED, STEPS, fastest, stepping

from labkit.recipes import RECIPES
from labkit.training.machine import hardware

NETWORKS = ("custom_vgg", "vgg", "resnet8", "accn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", metavar="NETWORK", help="print the seconds of its step alone")
    given = parser.parse_args()
    if given.step:
        print(f"{a_step(given.step, given.repeats):.6f}")
        return
    print(f"The processor's vectors: {hardware()['vectors']}")
    table = pd.DataFrame([both_ways(name, given.repeats) for name in NETWORKS])
    print(table.to_string(index=False, float_format="{:.3f}".format))


def both_ways(network: str, repeats: int) -> dict[str, str | int | float]:
    """Seconds of a step with oneDNN off and on."""
    off, on = (in_a_process(network, repeats, flag) for flag in "01")
    batch = RECIPES[STEPPED[network]].batch_size
    ratio(f"a step of `{network}` with oneDNN", "without", "speed", off / on)
    return {"a step of": network, "batch": batch, "without": off, "with": on}


def in_a_process(network: str, repeats: int, flag: str) -> float:
    """Seconds of a step where TensorFlow is told to use oneDNN, or not to."""
    command = [sys.executable, __file__, "--step", network, "--repeats", str(repeats)]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": flag, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def a_step(network: str, repeats: int) -> float:
    """Seconds of a step, in the fastest of the repeats."""
    with ExitStack() as stack:
        steps = stepping(stack, network, RECIPES[STEPPED[network]], "float32")
        ((seconds, _),) = fastest(repeats, steps)
    return seconds / STEPS


if __name__ == "__main__":
    main()
