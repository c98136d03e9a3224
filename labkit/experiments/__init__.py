"""Every experiment of the book by name: what a chapter shows, a sweep spreads out and a record reruns.

An experiment is a plain function of a chapter's settings that trains and scores. The chapters,
`python -m labkit run NAME` and the sweeps all call the same function, so they share one trained model.
"""

from labkit.experiments import noisy_cifar, animals, dual_cifar, cifar100, better  # isort: skip  (in the book's order)
from labkit.experiments.registry import REGISTRY, Experiment, get, names, run

__all__ = [
    "REGISTRY",
    "Experiment",
    "animals",
    "better",
    "cifar100",
    "dual_cifar",
    "get",
    "names",
    "noisy_cifar",
    "run",
]
