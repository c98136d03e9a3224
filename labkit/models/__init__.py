"""Every architecture of the five reports, and one of our own, by name: `build("vgg")`."""

from labkit.models import (  # noqa: F401  (each enters its models in the register)
    allconv,
    backbones,
    cct,
    cleaner,
    fractional,
    inception,
    plain,
    residual,
    vgg,
    whitened,
)
from labkit.models.backbones import refreeze
from labkit.models.counting import counts, macs
from labkit.models.layers import FractionalMaxPooling2D
from labkit.models.registry import Card, Counts, Form, build, card, cards, names, overview, spec
from labkit.models.statistics import adapt

__all__ = [
    "Card",
    "Counts",
    "Form",
    "FractionalMaxPooling2D",
    "adapt",
    "build",
    "card",
    "cards",
    "counts",
    "macs",
    "names",
    "overview",
    "refreeze",
    "spec",
]
