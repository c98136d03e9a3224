"""Builds every model on every backend, moves weights between them, takes a training step, prints a table.

    python bench/models.py                                  # the backends of this environment
    python bench/models.py --python torch=other/bin/python  # one of them from another environment

On two CPU cores it takes about 15 minutes for all names on three backends; name some to be quicker.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="patterns of model names; all by default")
    parser.add_argument("--python", action="append", default=[], metavar="BACKEND=PATH")
    parser.add_argument("--walk", type=Path, help=argparse.SUPPRESS)  # the part that runs under one backend
    arguments = parser.parse_args()
    if arguments.walk:
        walk(arguments.names, arguments.walk)
    else:
        compare(arguments.names, dict(choice.split("=", 1) for choice in arguments.python))


def compare(names: list[str], pythons: dict[str, str]) -> None:
    """Run the walk under each backend, the first of them writing the models that the others load."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        rows = [row for backend in BACKENDS for row in walked(backend, names, folder, pythons.get(backend))]
    table = pd.DataFrame(rows).pivot(index="name", columns="backend").dropna(axis="columns", how="all")
    print(table.to_string(float_format="{:.3g}".format))
    print(table.sum(numeric_only=True)["build s"].to_string(float_format="{:.1f} s to build all".format))


def walked(backend: str, names: list[str], folder: str, python: str | None = None) -> list[dict]:
    """The rows that a fresh interpreter prints under a backend; none where that is not installed."""
    python = python or sys.executable
    found = subprocess.run(
        [python, "-c", f"import importlib.util as u, sys; sys.exit(not u.find_spec({backend!r}))"],
        check=False,
    )
    if found.returncode:
        return []
    printed = subprocess.run(
        [python, __file__, *names, "--walk", folder],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return [json.loads(line) for line in printed.stdout.splitlines() if line.startswith("{")]


def walk(patterns: list[str], folder: Path) -> None:
    """Build, compare with what another backend saved or save for it, train one step; a JSON line each."""
    backend = os.environ["KERAS_BACKEND"]
    if backend != "tensorflow":
        sys.meta_path.insert(0, WithoutTensorFlow())
    import keras

    from labkit import models

    for name in [name for pattern in patterns or ["*"] for name in models.names(pattern)]:
        start = time.perf_counter()
        model = models.build(name)
        built = time.perf_counter() - start
        row = {"backend": backend, "name": name, "build s": built}
        row |= {"difference": difference(model, folder / f"{name}.keras", keras)}
        start = time.perf_counter()
        row |= {"loss": one_step(model, keras), "step s": time.perf_counter() - start}
        print(json.dumps(row), flush=True)
        keras.backend.clear_session()


class WithoutTensorFlow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes imports of TensorFlow fail, as on a machine that does not have it."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "tensorflow" else None

    def exec_module(self, module):
        raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__)


def batch(model, n: int) -> tuple:
    """Images of noise, and one-hot labels, of the shapes a model takes and tells."""
    import numpy as np

    rng = np.random.default_rng(0)

    def drawn(tensor):
        if tensor.name.startswith("label"):
            return np.eye(tensor.shape[-1], dtype="float32")[rng.integers(0, tensor.shape[-1], n)]
        return rng.integers(0, 256, (n, *tensor.shape[1:]), "uint8")

    def told(tensor):
        return np.eye(tensor.shape[-1], dtype="float32")[rng.integers(0, tensor.shape[-1], n)]

    inputs, outputs = model.input, model.output
    x = {key: drawn(tensor) for key, tensor in inputs.items()} if isinstance(inputs, dict) else drawn(inputs)
    y = {key: told(tensor) for key, tensor in outputs.items()} if isinstance(outputs, dict) else told(outputs)
    return x, y


def difference(model, file: Path, keras) -> float | None:
    """The largest difference from the outputs of the same weights on the backend that saved them."""
    import numpy as np

    x, _ = batch(model, 2)
    logits = file.with_suffix(".npy")
    if not file.exists():
        model.save(file)
        np.save(logits, outputs(model, x, keras))
        return None
    return float(np.abs(outputs(keras.saving.load_model(file), x, keras) - np.load(logits)).max())


def outputs(model, x, keras):
    import numpy as np

    told = model.predict_on_batch(x)
    return np.stack([np.asarray(head) for head in keras.tree.flatten(told)])


def one_step(model, keras) -> float:
    """The loss of one training step on two images, after checking that it is finite and moved the weights."""
    import numpy as np

    x, y = batch(model, 2)
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=keras.tree.map_structure(lambda _: loss, y))
    value = float(np.asarray(model.train_on_batch(x, y, return_dict=True)["loss"]))
    after = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    moved = [bool((old != new).any()) for old, new in zip(before, after, strict=True)]
    if not np.isfinite(value) or not any(moved):
        raise RuntimeError(f"{model.name}: loss {value}, {sum(moved)} of {len(moved)} weights moved")
    return value


if __name__ == "__main__":
    main()
