"""The table of results over run folders and published records."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from labkit.errors import RunError
from labkit.runs.record import RECORD, Run, default_folder, load

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

DAMAGED = "damaged"


def published_folder() -> Path:
    """The committed records: `results` of the project around the working folder, or else of the package's."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2]):
        if (folder / "results").is_dir() and (folder / "pyproject.toml").is_file():
            return folder / "results"
    return Path("results")


def results(pattern: str = "*", *, folders: Iterable[str | Path] | None = None) -> pd.DataFrame:
    """One row a run whose name matches; a published record and its run folder count once.

    Losses and accuracies are those of the epoch kept, times those of the fastest; `gap` is how far training
    accuracy is above validation.
    """
    if folders is None:
        folders = (published_folder(), default_folder())
    rows, seen = [], set()
    for folder in map(Path, folders):
        for file in _files(folder):
            found = _row(file)
            identity = (found["name"], found["key"])
            if fnmatch(found["name"], pattern) and (found["status"] == DAMAGED or identity not in seen):
                rows.append(found)
                seen.add(identity)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.sort_values(["name", "seed"], ignore_index=True)


def _files(folder: Path) -> Iterator[Path]:
    """Run folders hold a run.json; every other JSON file counts where there is none, as in `results`."""
    kept = sorted(folder.rglob(RECORD))
    yield from kept or sorted(folder.rglob("*.json"))


def _row(file: Path) -> dict[str, Any]:
    try:
        run = load(file)
    except RunError:
        place = file.parent if file.name == RECORD else file
        return {"name": f"{place.parent.name}/{place.stem}", "key": None, "status": DAMAGED}
    return row(run)


def row(run: Run) -> dict[str, Any]:
    """The figures of one run by the names that the columns of `results` have."""
    return {column: value(run) for column, value in _COLUMNS.items()}


def _gap(run: Run) -> float | None:
    train, valid = run.kept("accuracy"), run.validated
    return None if train is None or valid is None else train - valid


def _metric(run: Run, name: str) -> float | None:
    return run.metrics.get("test", {}).get(name)


def _fastest(run: Run) -> float | None:
    return run.fastest_epoch if run.epochs else None


def _hardware(record: Mapping[str, Any]) -> str:
    return record["hardware"]["gpu"] or record["hardware"]["cpu"]


_COLUMNS = {
    "name": lambda run: run.name,
    "model": lambda run: run.record["model"]["name"],
    "seed": lambda run: run.seed,
    "status": lambda run: run.status,
    "epochs": lambda run: run.epochs,
    "best_epoch": lambda run: run.best_epoch,
    "batch_size": lambda run: run.record["recipe"]["batch_size"],
    "loss": lambda run: run.kept("loss"),
    "accuracy": lambda run: run.kept("accuracy"),
    "val_loss": lambda run: run.kept("val_loss"),
    "val_accuracy": lambda run: run.validated,
    "gap": _gap,
    "test_accuracy": lambda run: _metric(run, "accuracy"),
    "test_top5": lambda run: _metric(run, "top5"),
    "test_macro_f1": lambda run: _metric(run, "macro_f1"),
    "seconds": lambda run: run.seconds,
    "seconds_per_epoch": lambda run: _fastest(run),
    "images_per_second": lambda run: _fastest(run) and run.record["data"]["train"]["n"] / _fastest(run),
    "parameters": lambda run: run.record["model"]["parameters"]["total"],
    "macs": lambda run: run.record["model"]["macs"],
    "data": lambda run: run.record["data"]["train"]["source"],
    "backend": lambda run: run.record["backend"],
    "hardware": lambda run: _hardware(run.record),
    "finished": lambda run: run.record["finished"],
    "published": lambda run: run.folder is None,
    "key": lambda run: run.key,
}

_FORMATS = {
    **dict.fromkeys(("loss", "val_loss"), "{:.3f}"),
    **dict.fromkeys(
        ("accuracy", "val_accuracy", "gap", "test_accuracy", "test_top5", "test_macro_f1"), "{:.2%}"
    ),
    **dict.fromkeys(("seconds", "images_per_second", "parameters", "macs"), "{:,.0f}"),
    "seconds_per_epoch": "{:.1f}",
    **dict.fromkeys(("epochs", "best_epoch", "batch_size", "seed"), "{:.0f}"),
}


def styled(table: pd.DataFrame, *, columns: Iterable[str] | None = None) -> "Styler":
    """A table of results for a page: numbers in their units, the best test accuracy in bold."""
    chosen = table[list(columns)] if columns is not None else table.drop(columns=["key", "published"])
    formats = {name: text for name, text in _FORMATS.items() if name in chosen}
    styler = chosen.style.format(formats, na_rep="–").hide(axis="index")
    scores = [name for name in ("test_accuracy", "val_accuracy") if name in chosen]
    return styler.highlight_max(subset=scores[:1], props="font-weight: bold") if scores else styler
