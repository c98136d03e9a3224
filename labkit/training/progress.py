"""What a person sees while a model trains: Keras' bar in a terminal, one line in a notebook or a log."""

import os
import sys
import time
from collections.abc import Callable, Mapping

import keras

from labkit.errors import ParameterError

STYLES = ("bar", "line", "log", "none")
_SECONDS_BETWEEN_LINES = 30
_NOTHING_TO_KEEP = {"labkit": "progress"}  # what a page leaves out


def style() -> str:
    """How to show progress here; $LABKIT_PROGRESS overrides.

    `bar` is Keras' own, for a terminal; `line` one line of a notebook's cell, rewritten in place, which the
    book leaves out; `log` a line now and then, for files; `none` nothing.
    """
    asked = os.environ.get("LABKIT_PROGRESS")
    if asked is not None:
        if asked not in STYLES:
            raise ParameterError(f"LABKIT_PROGRESS is {asked!r}.", expected=" or ".join(STYLES))
        return asked
    if _in_notebook():
        return "line"
    return "bar" if sys.stdout.isatty() else "log"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


class Report(keras.callbacks.Callback):
    """Shows one line about where training stands."""

    def __init__(self, name: str, epochs: int, monitor: str):
        """Name the run and the number to show."""
        super().__init__()
        self.name, self.epochs, self.monitor = name, epochs, monitor
        self._show = _rewriter() if style() == "line" else _logger()

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Show the epoch's number."""
        shown = self.monitor if self.monitor in logs else "loss"
        last = epoch + 1 == self.epochs or self.model.stop_training
        self._show(f"{self.name}: epoch {epoch + 1} of {self.epochs}, {shown} {logs[shown]:.4f}", last)


def _rewriter() -> Callable[[str, bool], None]:
    from IPython.display import display

    handle = None

    def show(line: str, last: bool) -> None:
        nonlocal handle
        content = {"text/plain": line}
        if handle is None:
            handle = display(content, raw=True, metadata=_NOTHING_TO_KEEP, display_id=True)
        else:
            handle.update(content, raw=True, metadata=_NOTHING_TO_KEEP)

    return show


def _logger() -> Callable[[str, bool], None]:
    written = time.monotonic()

    def show(line: str, last: bool) -> None:
        nonlocal written
        if last or time.monotonic() - written > _SECONDS_BETWEEN_LINES:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            written = time.monotonic()

    return show


def say(line: str) -> None:
    """Tell the person something that is no part of a page: that a run waits, or goes on."""
    if style() != "none":
        sys.stderr.write(f"labkit: {line}\n")
        sys.stderr.flush()
