"""What workflow.yaml declares under `sweeps`, as cells, and the refusal of what cannot run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from labkit import chapters
from labkit.book import sources
from labkit.errors import ParameterError, nearest

SWEEPS = Path("_build/sweeps")
KEYS = ("says", "run", "grid", "parameters", "devices")
REQUIRED = ("run", "grid")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: an experiment, or a whole chapter, with its parameters."""

    name: str  # of its files
    run: str  # "dual_cifar/accn", or "dual_cifar" for the chapter
    parameters: Mapping[str, Any]
    varied: Mapping[str, Any]  # the parameters that the grid gives
    devices: int = 1

    @property
    def chapter(self) -> str:
        """The chapter whose parameters it takes."""
        return self.run.split("/")[0]

    @property
    def is_chapter(self) -> bool:
        """Whether papermill runs it."""
        return "/" not in self.run


@dataclass(frozen=True)
class Sweep:
    """A named grid."""

    name: str
    says: str
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Where its cells and results are kept."""
        return SWEEPS / self.name


def read(name: str, given: Mapping[str, Any], file: Path = Path("workflow.yaml")) -> Sweep:
    """A sweep by name, all of it checked; `given` parameters replace those that it declares."""
    declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = declared.get("sweeps") or {}
    if name not in found:
        said = f"there is no sweep {name!r} in {file}." if name else "no sweep was named."
        mend = nearest(name, found) or "say which: make sweep NAME=..."
        raise ParameterError(said, expected=", ".join(found), mend=mend)
    entry = _entry(name, found[name])
    runs, grid = _runs(name, entry["run"]), _grid(name, entry["grid"])
    fixed = {**declared["parameters"], **(entry.get("parameters") or {}), **given}
    chosen = {run.partition("/")[0] for run in runs}
    if strays := [
        parameter for parameter in given if "." in parameter and parameter.partition(".")[0] not in chosen
    ]:
        raise ParameterError(
            f"the sweep {name!r} runs nothing of the chapter that {strays[0]!r} is for.",
            expected=f"parameters of {', '.join(sorted(chosen))}",
        )
    both = {parameter.rpartition(".")[2] for parameter in given} & set(grid)
    if both:
        raise ParameterError(
            f"the grid of the sweep {name!r} already varies {', '.join(sorted(both))}.",
            expected="a parameter outside the grid, or another list in workflow.yaml",
        )
    cells = tuple(_cells(runs, grid, fixed, _devices(name, entry.get("devices", 1))))
    _refuse_twins(name, cells)
    for cell in cells:
        _check(name, cell)
    return Sweep(name, str(entry.get("says", "")), cells)


def _entry(name: str, entry: Any) -> dict[str, Any]:
    if not re.fullmatch(r"\w+", str(name)):
        raise ParameterError(f"a sweep cannot be called {name!r}.", expected="letters, digits and _")
    if not isinstance(entry, dict):
        raise ParameterError(f"the sweep {name!r} is {entry!r}.", expected="run: ... and grid: ...")
    for key in entry:
        if key not in KEYS:
            mend = nearest(key, KEYS)
            raise ParameterError(f"the sweep {name!r} has no {key!r}.", expected=", ".join(KEYS), mend=mend)
    missing = [key for key in REQUIRED if not entry.get(key)]
    if missing:
        raise ParameterError(
            f"the sweep {name!r} has an empty {' and '.join(missing)}, so no cell.",
            expected="run: a list of experiments or chapters; grid: a parameter with a list of values",
        )
    return entry


def _runs(name: str, listed: Any) -> list[str]:
    """Experiments and chapters, shell patterns filled in."""
    from labkit import experiments  # loads Keras

    found = []
    for run in [listed] if isinstance(listed, str) else listed:
        matches = [run] if run in chapters.CHAPTERS else experiments.names(str(run))
        if not matches:
            known = (*chapters.CHAPTERS, *experiments.REGISTRY)
            raise ParameterError(
                f"the sweep {name!r} names {run!r}, which is no experiment and no chapter.",
                expected="a chapter, or one or more of those that `python -m labkit list` prints",
                mend=nearest(run, known),
            )
        found += matches
    return found


def _grid(name: str, grid: Any) -> dict[str, list]:
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ParameterError(
            f"the grid of the sweep {name!r} is {grid!r}.",
            expected="parameters, each with a list of one value or more, such as seed: [0, 1, 2]",
        )
    return grid


def _devices(name: str, devices: Any) -> int:
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ParameterError(f"the sweep {name!r} asks for {devices!r} devices.", expected="1 or more")
    return devices


def _cells(
    runs: list[str], grid: Mapping[str, list], fixed: Mapping[str, Any], devices: int
) -> Iterator[Cell]:
    for run in runs:
        for chosen in product(*grid.values()):
            varied = dict(zip(grid, chosen, strict=True))
            label = "-".join([run.replace("/", "."), *(f"{key}_{value}" for key, value in varied.items())])
            chapter = run.partition("/")[0]  # the grid goes before what is fixed for this chapter alone
            values = sources.of_chapter(fixed, chapter) | sources.of_chapter(varied, chapter)
            yield Cell(re.sub(r"[^\w.-]+", "_", label), run, values, varied, devices)


def _refuse_twins(name: str, cells: tuple[Cell, ...]) -> None:
    seen = set()
    for cell in cells:
        if cell.name in seen:
            raise ParameterError(
                f"the sweep {name!r} has the cell {cell.name} twice.", expected="every run and value once"
            )
        seen.add(cell.name)


def _check(name: str, cell: Cell) -> None:
    try:
        chapters.checked(cell.chapter, cell.parameters)
    except ParameterError as error:
        raise ParameterError(
            f"the sweep {name!r}, {cell.run}: {error.happened}", expected=error.expected, mend=error.mend
        ) from None
    if cell.is_chapter and cell.devices > 1:
        raise ParameterError(
            f"the sweep {name!r} asks for {cell.devices} devices for the chapter {cell.run}.",
            expected="experiments, where a batch is to be shared by several devices",
        )
