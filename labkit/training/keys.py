"""The key of a run: a digest of everything that can change its result."""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from labkit import models
from labkit.errors import ModelError
from labkit.runs.record import plain
from labkit.training.machine import accelerators, versions

_PACKAGE = Path(__file__).parents[1]
# What decides a result beyond the data, weights, architecture and recipe, which are in the key themselves.
_SOURCES = (
    "augment.py",
    "data/image_set.py",
    "data/pairs.py",
    "models/layers.py",
    "training/callbacks.py",
    "training/compiling.py",
    "training/devices.py",
    "training/features.py",
    "training/feeding.py",
    "training/fitting.py",
)
_NOT_ARCHITECTURE = ("compile_config", "build_config", "shared_object_id")
_LIBRARIES = ("keras", "tensorflow", "jax", "torch", "numpy")


def key(parts: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the digest of named parts."""
    return hashlib.sha256(json.dumps(plain(parts), sort_keys=True).encode()).hexdigest()[:16]


def libraries() -> dict[str, str]:
    """Versions that belong to a key."""
    return {name: number for name, number in versions().items() if name in _LIBRARIES}


def circumstances(devices: int) -> dict[str, Any]:
    """The parts of a key that say what computes: code, libraries, backend and devices."""
    return {
        "backend": keras.backend.backend(),
        "devices": [devices, bool(accelerators())],
        "versions": libraries(),
        "source": source_digest(),
    }


@cache
def source_digest() -> str:
    """Digest of the code that decides a result; comments, docstrings and layout are no part of it."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        tree = ast.parse((_PACKAGE / name).read_text(encoding="utf-8"))
        digest.update(f"{name}\n{ast.unparse(_without_docstrings(tree))}\n".encode())
    return digest.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree


def weights_digest(model: keras.Model) -> str:
    """Digest of a model's weights, and of which of them may change."""
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype.name} {values.shape} {weight.trainable};".encode())
        digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def array_digest(values: np.ndarray) -> str:
    """Digest of an array's type, shape and contents."""
    values = np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{values.dtype.name} {values.shape};".encode())
    digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def architecture_digest(model: keras.Model) -> str:
    """Digest of a model's layers and connections, whatever names Keras numbered them by."""
    config = json.loads(model.to_json())
    names: dict[str, str] = {}
    _collect_names(config, names)
    return hashlib.sha256(json.dumps(_renamed(config, names), sort_keys=True).encode()).hexdigest()


def _collect_names(config: Any, names: dict[str, str]) -> None:
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            names.setdefault(config["name"], f"name {len(names)}")
        for value in config.values():
            _collect_names(value, names)
    elif isinstance(config, list):
        for value in config:
            _collect_names(value, names)


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, dict):
        return {
            name: _renamed(value, names) for name, value in config.items() if name not in _NOT_ARCHITECTURE
        }
    if isinstance(config, list):
        return [_renamed(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def model_record(model: keras.Model) -> dict[str, Any]:
    """What a record says of a model: how it was built, its size, and the weights it starts from."""
    try:
        record = models.spec(model)
    except ModelError:  # a model of the reader's own
        record = {"name": model.name, "seed": None, "options": {}}
    counts = models.counts(model)
    return record | {
        "parameters": {
            "total": counts.total,
            "trainable": counts.trainable,
            "non_trainable": counts.non_trainable,
        },
        "macs": _macs(model),
        "architecture": architecture_digest(model),
        "initial_weights": weights_digest(model),
    }


def _macs(model: keras.Model) -> int | None:
    """Multiply-adds of one image, or None where a layer of the reader's own cannot be counted."""
    try:
        return models.macs(model)
    except (AttributeError, TypeError, ValueError):
        return None


source_digest()  # read now: an editor may change the files before the first training
