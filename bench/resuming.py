"""Kills training runs by SIGKILL in every epoch, starts them again, and prints whether they end the same.

    python bench/resuming.py                       # the backends of this environment
    python bench/resuming.py --backends jax --variants stopping,ema

The same means bit-equal: history, learning rates, stopping epoch, best epoch, weights, random states. JAX
runs as if TensorFlow were not installed. Each kill is a process of its own: some minutes a backend.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

SCRIPT = Path(__file__).parents[1] / "tests" / "training_process.py"
VARIANTS = "stopping,cosine,ema,last"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", default="tensorflow,jax")
    parser.add_argument("--variants", default=VARIANTS)
    given = parser.parse_args()
    backends = [name for name in given.backends.split(",") if find_spec(name)]
    rows = [row for backend in backends for row in killed_everywhere(backend, given.variants.split(","))]
    table = pd.DataFrame(rows).pivot(index=["backend", "recipe"], columns="killed in epoch", values="equal")
    print(table.fillna("").to_string())
    if "NO" in {row["equal"] for row in rows}:
        sys.exit("A resumed run differs from the uninterrupted one.")


def killed_everywhere(backend: str, variants: list[str]) -> list[dict]:
    """One row for each recipe and each epoch that its uninterrupted run reaches."""
    with TemporaryDirectory() as folder:
        whole = trained(backend, Path(folder, "whole"), variants)
        last = max(len(whole[name]["history"]["epoch"]) for name in variants)
        rows = []
        for epoch in range(1, last + 1):
            reached = [name for name in variants if epoch <= len(whole[name]["history"]["epoch"])]
            place = Path(folder, f"killed{epoch}")
            for name in reached:
                kill(backend, place, name, epoch)
            resumed = trained(backend, place, reached)
            rows += [
                {
                    "backend": backend,
                    "recipe": name,
                    "killed in epoch": epoch,
                    "equal": "yes" if resumed[name] == whole[name] else "NO",
                }
                for name in reached
            ]
            print(f"{backend}: killed in epoch {epoch} of {last}", file=sys.stderr, flush=True)
    return rows


def trained(backend: str, folder: Path, variants: list[str]) -> dict:
    """The outcomes of runs that are left to end."""
    done = start(backend, folder, "--variants", ",".join(variants))
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def kill(backend: str, folder: Path, variant: str, epoch: int) -> None:
    """Start a run that dies in the middle of an epoch."""
    died = start(backend, folder, "--variants", variant, "--kill", str(epoch))
    if died.returncode != -9:
        sys.exit(died.stderr or f"The run was not killed: {died.returncode}.")


def start(backend: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    hidden = [] if backend == "tensorflow" else ["--without-tensorflow"]
    return subprocess.run(
        [sys.executable, SCRIPT, folder, *arguments, *hidden],
        env=os.environ | {"KERAS_BACKEND": backend, "LABKIT_PROGRESS": "none"},
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    main()
