"""What a cell asks of the machine it runs on, from the card of its model and what its parameters say.

An estimate: a cell that was stopped for time or memory is tried again with twice as much, and goes on where
it stopped.
"""

import math
from collections import Counter
from functools import cache
from typing import Any

from labkit import chapters, costs, experiments, models, scoreboard
from labkit.chapters import Settings
from labkit.costs import Work
from labkit.sweeps.declared import Cell

START_MINUTES = 5  # to load libraries and images, with room to spare
MARGIN = 2  # a slower or busier machine than the one measured
START_MB = 1500  # libraries, and what they keep for a first batch
IMAGES_MB = 1000  # in real sizes, with the copies that training makes
COPIES = 4  # of every parameter: itself, its gradient, two moments
MACS_A_VALUE = 1000  # multiply-adds behind one value of a layer's output: 3×3 kernels on a hundred channels
MACS_A_CORE = 25e6  # multiply-adds an image that keep one core more busy
MOST_CORES = 4
BATCH = 128
# What an experiment trains before its last stage, by the end of its name; {} is the name without that end.
# The network that a filter goes by counts as one that sees all images.
BEFORE = {
    "_cleaner": ("{}",),
    "_model2": ("{}", "{}_cleaner"),
    "_mixup": ("{}", "{}_cleaner"),
    "_uncorrected": ("{}",),
    "_filter": ("{}_filter",),
    "_finetune": ("{}_transfer",),
    "noisy_cifar/better": ("noisy_cifar/better_teacher",),
}
ON_GPU = "lacnn"  # which a chapter trains in full on a GPU alone; there the others leave it time enough
SEARCHES = ("search", "search_as_run", "final")  # experiments that train many models


def of(cell: Cell) -> dict[str, int]:
    """Cores, memory, and minutes on processor cores or on GPUs; GPUs only for what takes a while."""
    settings = chapters.checked(cell.chapter, cell.parameters)
    cards = {name: models.card(name) for name in models.names()}
    found = (
        scoreboard.work(name, costs.sizes(), images=settings.n, epochs=settings.epochs)
        for name in _trained(cell, settings)
    )
    works = [work for work in found if work is not None]
    largest = max((cards[work.model].macs for work in works), default=0)
    minutes, on_gpu = (_minutes(works, machine) for machine in costs.MACHINES)
    return {
        "cores": min(MOST_CORES, 1 + int(largest / MACS_A_CORE)),
        "mem_mb": START_MB + max((_megabytes(cards[work.model], settings) for work in works), default=0),
        "minutes": START_MINUTES + math.ceil(MARGIN * minutes),
        "gpus": cell.devices if minutes > START_MINUTES or cell.devices > 1 else 0,
        # As long as no record was made on a GPU, it is asked for as long as the cores would take.
        "gpu_minutes": START_MINUTES
        + math.ceil(MARGIN * (minutes if math.isnan(on_gpu) else on_gpu / cell.devices)),
    }


def _minutes(works: list[Work], machine: str) -> float:
    return costs.seconds(works, 1, _speed(machine)) / 60


@cache
def _speed(machine: str) -> costs.Speed | None:
    return costs.speed(machine, costs.sizes(), scoreboard.recorded())


def _trained(cell: Cell, settings: Settings) -> list[str]:
    """The stages of all its experiments; those that several of them share are trained once."""
    found = Counter()
    for name in _experiments(cell, settings):
        found |= Counter(_stages(name, settings))
    return list(found.elements())


def _experiments(cell: Cell, settings: Settings) -> list[str]:
    """The experiment itself; of a chapter, and of a search through it, all that its models take part in."""
    if cell.run.rpartition("/")[2] not in (*chapters.CHAPTERS, *SEARCHES):
        return [cell.run]
    chosen = set(settings.models)
    if settings.own.get("weights", "none") != "none":
        chosen |= set(settings.own.get("backbones", ()))
    named = {name: _named_after(name) for name in experiments.names(f"{cell.chapter}/*")}
    found = [name for name, model in named.items() if model in chosen]
    return [name for name in found if named[name] != ON_GPU] or found


def _named_after(experiment: str) -> str | None:
    """The model whose name an experiment begins with; of several the longest."""
    return max(filter(experiment.split("/")[1].startswith, models.names()), key=len, default=None)


def _stages(name: str, settings: Settings) -> list[str]:
    """All that an experiment trains, in the names of what takes as long."""
    if name.endswith("_confident"):
        return [name] * settings.folds  # each fold leaves its own part out, which makes one less of them
    plain = name.removesuffix("_as_run")
    before = ((plain.removesuffix(end), first) for end, first in BEFORE.items() if plain.endswith(end))
    return [stage.format(network) for network, first in before for stage in first] + [name]


def _megabytes(card: Any, settings: Settings) -> int:
    weights = 4 * COPIES * card.counts.total
    values = 4 * 3 * (settings.batch or BATCH) * card.macs / MACS_A_VALUE  # forward, gradient and workspace
    return round((weights + values) / 1e6) + (IMAGES_MB if settings.n is None else 0)
