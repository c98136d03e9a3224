"""What training costs in time: multiply-adds from the models' cards, speed from the committed records.

An image costs a machine a fixed time, which small models are made of, and a time for each multiply-add. Both
are fitted to the records made on that machine. A family of models whose records deviate has its own factor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from statistics import median

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from labkit import scoreboard
from labkit.runs import Run
from labkit.scoreboard import PASSES, THROUGHPUT, Work

CORES, GPU = "2 cores", "one H200"
MACHINES = (CORES, GPU)
TOLERANCE = 0.3


@dataclass(frozen=True)
class Sample:
    """One measured run: what an image cost it."""

    name: str
    family: str
    macs: float  # of training on one image
    seconds: float  # for one image


@dataclass(frozen=True)
class Speed:
    """How fast a machine trains."""

    start: float  # seconds an image, whatever the model
    a_mac: float  # seconds a multiply-add
    factors: Mapping[str, float]  # of families that were measured

    def seconds(self, macs: float, family: str) -> float:
        """The time that one image takes."""
        return (self.start + self.a_mac * macs) * self.factors.get(family, 1.0)


def samples(machine: str, families: Mapping[str, str], runs: Iterable[Run] | None = None) -> list[Sample]:
    """The records that were made on a machine and trained a model whose multiply-adds are known."""
    found = scoreboard.recorded() if runs is None else runs
    return [
        Sample(run.name, families.get(run.record["model"]["name"], ""), _macs(run), 1 / speed)
        for run in found
        if (speed := run.record["images_per_second"]) and _macs(run) and _machine(run) == machine
    ]


def _macs(run: Run) -> int:
    return (run.record["model"]["macs"] or 0) * (1 if run.name.endswith("_transfer") else PASSES)


def _machine(run: Run) -> str | None:
    hardware, devices = run.record["hardware"], run.record["devices"]
    if hardware["gpu"]:
        return GPU if "H200" in hardware["gpu"] and devices == 1 else None
    return CORES if hardware["cores"] == 2 else None


def fitted(measured: Sequence[Sample], machine: str) -> Speed | None:
    """The speed that explains the samples best, by relative error; None where nothing was measured."""
    rows = [(1 / sample.seconds, sample.macs / sample.seconds) for sample in measured]
    if machine == CORES:
        rows.append((0.0, THROUGHPUT))  # plain convolutions large enough that nothing else counts
    if not rows:
        return None
    table = np.array(rows)
    scale = table.max(axis=0) + (table.max(axis=0) == 0)
    fit = LinearRegression(fit_intercept=False, positive=True).fit(table / scale, np.ones(len(table)))
    start, a_mac = fit.coef_ / scale
    ratios: dict[str, list[float]] = {}
    for sample in measured:
        ratios.setdefault(sample.family, []).append(sample.seconds / (start + a_mac * sample.macs))
    return Speed(float(start), float(a_mac), {family: median(values) for family, values in ratios.items()})


def checked(machine: str, families: Mapping[str, str], runs: Iterable[Run] | None = None) -> pd.DataFrame:
    """Every record beside what the other records alone predict for it."""
    measured = samples(machine, families, runs)
    rows = []
    for place, sample in enumerate(measured):
        speed = fitted([*measured[:place], *measured[place + 1 :]], machine)
        predicted = speed.seconds(sample.macs, sample.family) if speed else np.nan
        rows.append(
            {
                "run": sample.name,
                "family": sample.family,
                "measured": sample.seconds,
                "predicted": predicted,
                "ratio": predicted / sample.seconds,
            }
        )
    return pd.DataFrame(rows, columns=["run", "family", "measured", "predicted", "ratio"])


def seconds(
    work: Work, machine: str, families: Mapping[str, str], runs: Iterable[Run] | None = None
) -> float:
    """How long a machine takes for an experiment; infinite where nothing was measured on that machine."""
    speed = fitted(samples(machine, families, runs), machine)
    return speed.seconds(work.macs, families.get(work.model, "")) * work.images if speed else inf


@cache
def model_families() -> Mapping[str, str]:
    """The family of every model; Keras is loaded for it."""
    from labkit import models

    return {name: models.card(name).builder.__module__.rpartition(".")[2] for name in models.names()}
