"""What training costs in time: multiply-adds from the models' cards, speed from the committed records.

An image costs a machine a fixed time, which small models are made of, and a time for each multiply-add. Both
are fitted to the records made on that machine. A family of models whose records deviate has its own factor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import nan
from operator import attrgetter
from statistics import median

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from labkit.runs import Run

CORES, GPU = "2 cores", "one H200"
MACHINES = (CORES, GPU)
WIDE = "AVX-512"  # what the two cores compute with, those of records that do not say included
NARROW = "2 cores without AVX-512"  # known by a few records, and by how much slower they are
TOLERANCE = 0.3
PASSES = 3  # a training step costs about three forward passes
THROUGHPUT = 85e9  # multiply-adds a second in training, measured on two cores with plain convolutions
# Multiply-adds a second, for where none were measured: NVIDIA's data sheet has them for dense bfloat16.
AT_BEST = {GPU: 989e12 / 2}


@dataclass(frozen=True)
class Size:
    """What a model computes on one image, and the family whose speed it has."""

    macs: int
    family: str = ""


Sizes = Mapping[str, Size]  # by model


@dataclass(frozen=True)
class Work:
    """What training one experiment computes."""

    name: str
    model: str
    family: str
    macs: float  # of training on one image
    images: float  # over all epochs

    @property
    def total(self) -> float:
        """All multiply-adds."""
        return self.macs * self.images


@dataclass(frozen=True)
class Sample:
    """One measured run: what an image cost it."""

    name: str
    model: str
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


def samples(machine: str, sizes: Sizes, runs: Sequence[Run]) -> list[Sample]:
    """What a machine's records in thirty-two bits measured, of models whose multiply-adds are known.

    Of several records of one name the fastest counts: the machine may have had other work beside the others.
    """
    fastest: dict[str, Sample] = {}
    for run in runs:
        if run.epochs and _macs(run) and _tells_of(machine, run):
            model = run.record["model"]["name"]
            sample = Sample(run.name, model, sizes.get(model, Size(0)).family, _macs(run), _seconds(run))
            fastest[run.name] = min(fastest.get(run.name, sample), sample, key=attrgetter("seconds"))
    return list(fastest.values())


def _tells_of(machine: str, run: Run) -> bool:
    """Whether epochs were spent on a machine, in the usual bits, and passed through the whole network."""
    return _machine(run) == machine and not run.in_fewer_bits and not once(run.name)


def _seconds(run: Run) -> float:
    """Seconds an image in the fastest epoch.

    An image to validate on is passed forward only, which is a share of what an image to train on takes.
    """
    valid = run.record["data"]["valid"]
    images = run.record["data"]["train"]["n"] + (valid["n"] / PASSES if valid else 0)
    return run.fastest_epoch / images


def once(name: str) -> bool:
    """Whether an experiment passes each image through its network once, and trains the last layer alone."""
    return "_transfer" in name


def _macs(run: Run) -> int:
    """Multiply-adds of training on one image; a network that is mostly frozen is passed forward only."""
    model = run.record["model"]
    if not model["macs"]:
        return 0
    trains = 2 * model["parameters"]["trainable"] > model["parameters"]["total"]
    return model["macs"] * (PASSES if trains else 1)


def _machine(run: Run) -> str | None:
    hardware, devices = run.record["hardware"], run.record["devices"]
    if hardware.get("earlier"):
        return None  # which of them the fastest epoch is of, nobody knows
    if hardware["gpu"]:
        return GPU if "H200" in hardware["gpu"] and devices == 1 else None
    if hardware["cores"] != 2:
        return None
    return CORES if hardware.get("vectors", WIDE) == WIDE else NARROW


def narrow(sizes: Sizes, runs: Sequence[Run]) -> pd.Series:
    """How many times the estimate for two cores the records took that were made without wide vectors."""
    usual, found = speed(CORES, sizes, runs), samples(NARROW, sizes, runs)
    return pd.Series(
        [sample.seconds / usual.seconds(sample.macs, sample.family) for sample in found],
        index=[sample.name for sample in found],
        dtype=float,
    )


def speed(machine: str, sizes: Sizes, runs: Sequence[Run]) -> Speed | None:
    """How fast a machine trains by records; None where it has none."""
    return fitted(samples(machine, sizes, runs), machine)


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


def checked(machine: str, sizes: Sizes, runs: Sequence[Run]) -> pd.DataFrame:
    """Seconds an image of each experiment on record, as all foretell it, or those of other networks alone."""
    measured = samples(machine, sizes, runs)
    usual, rows = fitted(measured, machine), []
    for sample in measured:
        others = fitted([other for other in measured if other.model != sample.model], machine)
        rows.append(
            {
                "run": sample.name,
                "family": sample.family,
                "measured": sample.seconds,
                "estimated": usual.seconds(sample.macs, sample.family),
                "foretold": others.seconds(sample.macs, sample.family) if others else np.nan,
            }
        )
    return pd.DataFrame(rows, columns=["run", "family", "measured", "estimated", "foretold"])


def within(ratios: pd.Series) -> int:
    """How many ratios of an estimate to what was measured are near enough to one."""
    return int(((ratios - 1).abs() <= TOLERANCE).sum())


def side_by_side(times: Iterable[float], machines: int) -> float:
    """How long runs take that several machines share, the longest first; no run is cut in parts."""
    busy = [0.0] * machines
    for time in sorted(times, reverse=True):
        busy[busy.index(min(busy))] += time
    return max(busy)


def seconds(works: Iterable[Work], machines: int, speed: Speed | None) -> float:
    """How long several machines of one speed take for experiments; not a number where it was not measured."""
    if speed is None:
        return nan
    return side_by_side((speed.seconds(work.macs, work.family) * work.images for work in works), machines)


def spoken(seconds: float) -> str:
    """A time as people say it, roughly."""
    if seconds < 90:
        return f"about {seconds:.0f} s" if seconds >= 1 else "less than a second"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"about {hours:.0f} h" if hours < 100 else f"about {hours / 24:.0f} days"


@cache
def sizes() -> Sizes:
    """The size of every model; Keras is loaded for it."""
    from labkit import models

    cards = map(models.card, models.names())
    return {card.name: Size(card.macs, card.family) for card in cards}
