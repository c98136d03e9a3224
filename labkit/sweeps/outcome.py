"""What became of the cells of a sweep: the state of each, and a table and a figure of all."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from labkit import chapters, plots
from labkit.predictions import spread
from labkit.runs.record import Run
from labkit.runs.record import plain as as_json
from labkit.runs.table import row
from labkit.sweeps.declared import Cell, Sweep

NOT_STARTED = "It was not started."
SCORES = ("test_accuracy", "val_accuracy")
FIGURES = ("epochs", "best_epoch", "loss", "accuracy", "val_loss", "val_accuracy", "test_accuracy")
COSTS = ("seconds", "hardware")  # what another machine or another day changes


def done(sweep: Sweep, cell: Cell) -> bool:
    """Whether a cell has results, and by the parameters it has now."""
    return _result(sweep, cell) is not None


def forget(sweep: Sweep) -> None:
    """Remove results by other parameters, which Snakemake may take for those of the cells."""
    for cell in sweep.cells:
        if not done(sweep, cell):
            _place(sweep, cell).unlink(missing_ok=True)


def state(sweep: Sweep, cell: Cell) -> str | None:
    """What there is to tell of a cell: that it is done, or why an attempt ended; None before."""
    if result := _result(sweep, cell):
        return f"in {result['seconds']:.0f} s"
    note = _note(sweep, cell)
    return f"failed in attempt {note['attempt']}: {_first(note['why'])}" if note and note["ended"] else None


def failure(sweep: Sweep, cell: Cell) -> str | None:
    """Why a cell has no results; None where it has."""
    if done(sweep, cell):
        return None
    note = _note(sweep, cell)
    return note["why"] if note else NOT_STARTED


def table(sweep: Sweep) -> pd.DataFrame:
    """One row a run, and one for each cell that failed, in the order of the grid."""
    found = pd.DataFrame([line for cell in sweep.cells for line in _rows(sweep, cell)])
    return found.dropna(axis="columns", how="all")


def over_seeds(found: pd.DataFrame, varied: list[str]) -> pd.DataFrame:
    """The mean score of finished runs that differ in their seed alone; empty where none has a score."""
    scores = [name for name in SCORES if name in found]
    by = ["run", *(name for name in varied if name != "seed")]
    scored = found[found["status"].eq("done") & found[scores].notna().any(axis="columns")]
    rows = {}
    for group, part in scored.groupby(by, sort=False, dropna=False):
        score = max(scores, key=lambda name: part[name].count())  # the first of those that most runs have
        values = spread(part[score].dropna().to_list())
        given = (f"{name} {value}" for name, value in zip(by[1:], group[1:], strict=True))
        label = ", ".join([group[0], *given])
        rows[label] = {
            "metric": score.replace("_", " "),
            "mean": values.mean,
            "low": values.low,
            "high": values.high,
            "runs": values.seeds,
            "result": str(values),
        }
    return pd.DataFrame(rows).T


def write(sweep: Sweep) -> None:
    """Leave results.csv, results.md and results.svg in the folder of the sweep."""
    found = table(sweep)
    found.to_csv(sweep.folder / "results.csv", index=False)
    summary = over_seeds(found, list(sweep.cells[0].varied))
    parts = [f"# {sweep.name}\n", f"{sweep.says}\n", _count(sweep)]
    if len(summary):
        parts += [
            "## Over seeds\n",
            _markdown(summary[["metric", "result"]].rename_axis("run").reset_index()),
        ]
        axes = plots.scores(
            summary[["mean", "low", "high"]].astype(float),
            xlabel=" or ".join(summary["metric"].unique()),
            title=f"{sweep.name}: mean, lowest and highest",
        )
        (sweep.folder / "results.svg").write_text(plots.svg(axes), encoding="utf-8")
        parts.append(f"![{plots.alt(axes)}](results.svg)\n")
    parts += ["## Every run\n", _markdown(found)]
    (sweep.folder / "results.md").write_text("\n".join(parts), encoding="utf-8")


def _count(sweep: Sweep) -> str:
    failed = sum(failure(sweep, cell) is not None for cell in sweep.cells)
    first = sweep.cells[0].parameters
    common = {
        name: value
        for name, value in first.items()
        if all(cell.parameters.get(name) == value and name not in cell.varied for cell in sweep.cells)
    }
    given = ", ".join(f"{name} {value}" for name, value in common.items() if name not in ("data", "runs"))
    return f"{len(sweep.cells)} cells, {failed} failed; in all of them {given}.\n"


def _rows(sweep: Sweep, cell: Cell) -> list[dict[str, Any]]:
    varied = {
        name: chapters.spell(value) if isinstance(value, list) else value
        for name, value in cell.varied.items()
    }
    head = {"cell": cell.name, "run": cell.run, **varied}
    result = _result(sweep, cell)
    if result is None:
        return [{**head, "status": "failed", "why": failure(sweep, cell)}]
    return [head | _figures(cell, record) for record in result["records"]]


def _figures(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    found = row(Run(record["name"], record["key"], None, record))
    name = {"run": record["name"]} if cell.is_chapter else {}
    figures = {_beside(column, cell): found[column] for column in (*FIGURES, *COSTS)}
    return name | {"status": record["status"]} | figures


def _beside(column: str, cell: Cell) -> str:
    """A name for what came out that leaves the grid's own column alone: of `epochs` those that it took."""
    return f"{column} taken" if column in cell.varied else column


def _result(sweep: Sweep, cell: Cell) -> dict[str, Any] | None:
    found = _read(_place(sweep, cell))
    return found if found and found["cell"] == as_json(asdict(cell)) else None


def _place(sweep: Sweep, cell: Cell) -> Path:
    return sweep.folder / "cells" / f"{cell.name}.json"


def _note(sweep: Sweep, cell: Cell) -> dict[str, Any] | None:
    return _read(sweep.folder / "unfinished" / f"{cell.name}.json")


def _read(file: Any) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _first(text: str) -> str:
    return text.splitlines()[0]


def _markdown(found: pd.DataFrame) -> str:
    from labkit.book import markdown

    rows = found.astype(object).where(found.notna(), "–").itertuples(index=False)
    header = [str(name).replace("_", " ") for name in found]
    return markdown.table(header, [map(_short, line) for line in rows])


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and value != int(value) else str(value)
