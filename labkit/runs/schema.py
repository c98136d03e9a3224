"""What a record holds, as a JSON schema, and the check of a record against it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from labkit.errors import RunError

VERSION = 1

_TEXT = {"type": "string", "minLength": 1}
_MAYBE_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_POSITIVE = {"type": ["number", "null"], "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_MOMENT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
_COLUMN = {"type": "array", "items": {"type": ["number", "null"]}}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None, **more: Any) -> dict:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required)} | more


_IMAGES = _object({"source": _TEXT, "fingerprint": _DIGEST, "n": _COUNT})
_MACHINE = {"cpu": _TEXT, "cores": _COUNT, "gpu": _MAYBE_TEXT}
_METRICS = _object(
    {"n": _COUNT, "accuracy": _SHARE, "source": _TEXT, "fingerprint": _DIGEST},
    {
        "interval": {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2},
        "top5": {"anyOf": [_SHARE, {"type": "null"}]},
        "macro_f1": _SHARE,
        "loss": _POSITIVE,
        "ece": _SHARE,
        "classes": {"type": "array", "items": _TEXT},
        "confusion": {"type": "array", "items": {"type": "array", "items": _COUNT}},
        "per_class": {"type": "object"},
        "reliability": {"type": "object"},
        "heads": {"type": "object"},
        "scored": _MOMENT,
    },
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A training run of labkit",
    **_object(
        {
            "schema": {"const": VERSION},
            "name": {"type": "string", "pattern": "^[a-z0-9_]+/[A-Za-z0-9_.-]+$"},
            "key": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
            "status": {"enum": ["running", "done", "failed"]},
            "why": _MAYBE_TEXT,
            "command": _MAYBE_TEXT,
            "model": _object(
                {
                    "name": _TEXT,
                    "parameters": _object({"total": _COUNT, "trainable": _COUNT, "non_trainable": _COUNT}),
                    "macs": {"type": ["integer", "null"], "minimum": 0},
                    "initial_weights": _DIGEST,
                }
            ),
            "recipe": _object(
                {
                    "epochs": _COUNT,
                    "batch_size": _COUNT,
                    "optimizer": _TEXT,
                    "lr": _POSITIVE,
                    "precision": _TEXT,
                }
            ),
            "data": _object({"train": _IMAGES, "valid": {"anyOf": [_IMAGES, {"type": "null"}]}}),
            "seed": _COUNT,
            "backend": _TEXT,
            "devices": _COUNT,
            "hardware": _object(
                _MACHINE, {"vectors": _MAYBE_TEXT, "earlier": {"type": "array", "items": _object(_MACHINE)}}
            ),
            "versions": {"type": "object", "additionalProperties": _TEXT, "minProperties": 1},
            "git": {"anyOf": [_object({"commit": _TEXT, "changed": {"type": "boolean"}}), {"type": "null"}]},
            "source": _DIGEST,
            "history": _object({"epoch": _COLUMN, "loss": _COLUMN, "seconds": _COLUMN},
                               additionalProperties=_COLUMN),
            "best_epoch": {"type": ["integer", "null"], "minimum": 1},
            "stopped_early": {"type": "boolean"},
            "resumed": _COUNT,
            "seconds": _POSITIVE,
            "seconds_per_epoch": _POSITIVE,
            "images_per_second": _POSITIVE,
            "peak_memory_bytes": {"type": ["integer", "null"], "minimum": 0},
            "started": _MOMENT,
            "finished": {"anyOf": [_MOMENT, {"type": "null"}]},
            "metrics": {"type": "object", "additionalProperties": _METRICS},
        }
    ),
}  # fmt: skip
REQUIRED = tuple(SCHEMA["required"])

_PATH = re.compile(r"(^|[\s='\"])(/[\w.-]+/|~/|[A-Za-z]:[\\/])")


def validate(record: Mapping[str, Any], *, name: str = "the record") -> None:
    """Raise a RunError that lists everything wrong with a record."""
    from jsonschema import Draft202012Validator  # reading records does without it

    errors = sorted(Draft202012Validator(SCHEMA).iter_errors(record), key=lambda error: error.json_path)
    wrong = [f"{error.json_path.removeprefix('$.')}: {error.message[:200]}" for error in errors]
    wrong = wrong or [*_inner_contradictions(record), *_paths(record)]
    if wrong:
        raise RunError(
            f"{name} breaks the schema of records: {'; '.join(wrong)}.",
            expected=f"what labkit.runs.SCHEMA says, version {VERSION}",
        )


def _inner_contradictions(record: Mapping[str, Any]) -> Iterator[str]:
    """What a schema cannot say: columns of equal length, counts that add up, a best epoch that exists."""
    history = record["history"]
    lengths = {column: len(values) for column, values in history.items()}
    if len(set(lengths.values())) > 1:
        yield f"history: columns of different lengths {lengths}"
    if history["epoch"] != list(range(1, len(history["epoch"]) + 1)):
        yield "history.epoch: does not count from 1"
    if (record["best_epoch"] or 0) > len(history["epoch"]):
        yield f"best_epoch: {record['best_epoch']} of {len(history['epoch'])} epochs"
    if record["status"] == "failed" and not record["why"]:
        yield "why: empty for a failed run"
    for part, metrics in record["metrics"].items():
        for where, summary in [(part, metrics), *metrics.get("heads", {}).items()]:
            if "confusion" in summary:
                yield from _confusion_errors(where, summary)


def _confusion_errors(where: str, summary: Mapping[str, Any]) -> Iterator[str]:
    table = summary["confusion"]
    total, right = sum(map(sum, table)), sum(row[i] for i, row in enumerate(table) if i < len(row))
    if any(len(row) != len(table) for row in table) or len(table) != len(summary["classes"]):
        yield f"metrics {where}: the confusion matrix does not fit {len(summary['classes'])} classes"
    elif total != summary["n"] or abs(right / max(total, 1) - summary["accuracy"]) > 1e-6:
        yield f"metrics {where}: the confusion matrix does not give the accuracy and number of images"


def _paths(value: Any, where: str = "") -> Iterator[str]:
    """Places of a machine, which no record may hold."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _paths(item, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item, where)
    elif isinstance(value, str) and _PATH.search(value):
        yield f"{where}: holds a path of one machine"
