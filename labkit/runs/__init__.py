"""Trained models as build products: folders, records and the table of results. Needs no Keras."""

from labkit.runs.publishing import Verdict, publish, verify
from labkit.runs.record import Run, default_folder, load
from labkit.runs.schema import SCHEMA, VERSION, validate
from labkit.runs.table import results, styled

__all__ = [
    "SCHEMA",
    "VERSION",
    "Run",
    "Verdict",
    "default_folder",
    "load",
    "publish",
    "results",
    "styled",
    "validate",
    "verify",
]
