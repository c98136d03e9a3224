"""Every image set of the book in one shape, read, downloaded or drawn."""

from labkit.data.histograms import histograms
from labkit.data.image_set import HEADS, ImageSet, join
from labkit.data.names import (
    ANIMALS,
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    FINE_TO_COARSE,
    SUPERCLASSES,
)
from labkit.data.pairs import PairStream, average, mix_pairs, pair_groups
from labkit.data.sets import animals, cifar10, cifar100, coarse, noisy_cifar, noisy_cifar_test
from labkit.data.synthetic import synthetic

__all__ = [
    "ANIMALS",
    "CIFAR10_CLASSES",
    "CIFAR100_CLASSES",
    "FINE_TO_COARSE",
    "HEADS",
    "SUPERCLASSES",
    "ImageSet",
    "PairStream",
    "animals",
    "average",
    "cifar10",
    "cifar100",
    "coarse",
    "histograms",
    "join",
    "mix_pairs",
    "noisy_cifar",
    "noisy_cifar_test",
    "pair_groups",
    "synthetic",
]
