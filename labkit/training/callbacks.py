"""What happens around the epochs of Keras' own fit: seeds, means over heads, best weights, resume state."""

import errno
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from labkit.augment import Batches
from labkit.errors import RunError
from labkit.recipes import Recipe, mode
from labkit.training.progress import say

STATE = "state.npz"
_AFTER_TRAINING = 2**31 - 1  # the "epoch" of the dropout states that a finished model is left with


def logged(number: str, two_headed: bool) -> str:
    """The name of a monitored number in Keras' logs."""
    if two_headed and number.endswith("accuracy"):
        return number.replace("accuracy", "mean_accuracy")
    return number


def seed_generators(model: keras.Model, seed: int, epoch: int = _AFTER_TRAINING) -> None:
    """Make every dropout and augmentation inside the model a function of seed and epoch."""
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for place, state in enumerate(states):
        start = np.random.SeedSequence((seed, epoch, place)).generate_state(1)[0] >> 1
        state.assign(np.array([start, 0], "int64"))


class Opening(keras.callbacks.Callback):
    """Comes first: seeds each epoch, adds the rate and the means over heads to its numbers, refuses NaN."""

    def __init__(self, recipe: Recipe, batches: Batches, heads: tuple[str, ...]):
        """Remember what an epoch is a function of."""
        super().__init__()
        self.recipe, self.batches, self.heads = recipe, batches, heads
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Set order, augmentation and dropout for this epoch, whatever came before."""
        self.batches.epoch = epoch
        seed_generators(self.model, self.recipe.seed, epoch)
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Complete the epoch's numbers for the callbacks that follow."""
        logs["lr"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = time.perf_counter() - self.began
        for part in ("", "val_"):
            scores = [logs[name] for head in self.heads if (name := f"{part}{head}_accuracy") in logs]
            if scores:
                logs[f"{part}mean_accuracy"] = sum(scores) / len(scores)
        if not math.isfinite(logs["loss"]):
            raise _diverged(f"The loss became NaN or infinite in epoch {epoch + 1}", logs["lr"])


class Diverged(RunError):
    """A loss that is no number any more."""


def _diverged(happened: str, lr: float) -> Diverged:
    return Diverged(
        f"{happened}, at a learning rate of {lr:g}.",
        expected="a finite loss",
        mend="train at a lower rate (training.find_lr suggests one), with a warm-up, or in float32",
    )


@dataclass
class Progress:
    """Where a training run stands, apart from the weights."""

    rows: list[dict[str, float]] = field(default_factory=list)  # one an epoch
    best: float | None = None
    best_epoch: int | None = None  # counted from 1
    stopped: bool = False
    resumed: int = 0
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.rows)

    def finished(self, recipe: Recipe) -> bool:
        """Whether nothing is left to train."""
        return self.stopped or self.epoch >= recipe.epochs


_KEPT = {
    keras.callbacks.EarlyStopping: ("wait", "best", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


class Closing(keras.callbacks.Callback):
    """Comes last: keeps the history, the best weights and the state from which a killed run goes on."""

    def __init__(
        self,
        recipe: Recipe,
        kept_by: str,
        folder: Path | None,
        *,
        save_every: float,
        until: int | None,
        note: Callable[[Progress], Any],
    ):
        """Keep state in a folder, or nothing; `note` is told of every saved state."""
        super().__init__()
        self.recipe, self.kept_by, self.folder = recipe, kept_by, folder
        self.save_every, self.until, self.note = save_every, until, note
        self.others: list[keras.callbacks.Callback] = []  # whose counters belong to the state
        self.progress = Progress()
        self.best_weights: list[np.ndarray] | None = None
        self._saved_best: int | None = None
        self._saved_at = time.perf_counter()

    def on_train_begin(self, logs: Mapping | None = None) -> None:
        """Put the counters of the callbacks back, which each of them has just reset."""
        for callback in self.others:
            if hasattr(callback, "best"):  # else the first number is the best, even if it is NaN
                callback.best = -math.inf if callback.mode == "max" else math.inf
            for name, value in self.progress.callbacks.get(type(callback).__name__, {}).items():
                setattr(callback, name, value)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Take the epoch into the books, then to disk."""
        progress = self.progress
        progress.rows.append(
            {"epoch": epoch + 1} | {k: float(v) for k, v in logs.items() if k != "learning_rate"}
        )
        self._keep_best(logs)
        progress.stopped = bool(self.model.stop_training)
        progress.callbacks = {
            type(callback).__name__: {name: getattr(callback, name) for name in _KEPT[type(callback)]}
            for callback in self.others
            if type(callback) in _KEPT
        }
        if self.until is not None and progress.epoch >= self.until:
            self.model.stop_training = True
        due = self.model.stop_training or time.perf_counter() - self._saved_at >= self.save_every
        if self.folder is not None and due and not progress.finished(self.recipe):  # it is kept itself
            self.save()

    def _keep_best(self, logs: Mapping[str, float]) -> None:
        value = logs.get(self.kept_by)
        if value is None or not math.isfinite(value):
            return
        best = self.progress.best
        if best is None or (value > best if mode(self.recipe.kept_by) == "max" else value < best):
            self.progress.best, self.progress.best_epoch = float(value), self.progress.epoch
            if self.recipe.restore_best and not self._best_is_last():
                self.best_weights = self.model.get_weights()

    def _best_is_last(self) -> bool:
        """Whether the best weights are those that the recipe's last epoch leaves in the model."""
        return self.progress.best_epoch == self.recipe.epochs

    def save(self) -> None:
        """Write the state: the best weights first, then the file that names them."""
        progress = self.progress
        if self.best_weights is not None and progress.best_epoch != self._saved_best:
            _save_arrays(self.folder / _best_file(progress.best_epoch), _numbered("w", self.best_weights))
            self._saved_best = progress.best_epoch
        arrays = _numbered("w", self.model.get_weights())
        arrays |= _numbered("o", [keras.ops.convert_to_numpy(v) for v in self.model.optimizer.variables])
        arrays["progress"] = np.frombuffer(json.dumps(_as_json(progress)).encode(), np.uint8)
        _save_arrays(self.folder / STATE, arrays)
        for file in self.folder.glob("best-*.npz"):
            if file.name != _best_file(self._saved_best):
                file.unlink(missing_ok=True)
        self._saved_at = time.perf_counter()
        self.note(progress)

    def restore(self, model: keras.Model) -> bool:
        """Load what `save` wrote into model and optimizer; where it is damaged, training starts over."""
        if self.folder is None or not (self.folder / STATE).exists():
            return False
        state = _load_arrays(self.folder / STATE)
        if state is None:
            return self._start_over()
        progress = Progress(**json.loads(state["progress"].tobytes()))
        if self.recipe.restore_best and progress.best_epoch is not None:
            best = _load_arrays(self.folder / _best_file(progress.best_epoch))
            if best is None:
                return self._start_over()
            self.best_weights, self._saved_best = _listed("w", best), progress.best_epoch
        model.set_weights(_listed("w", state))
        for variable, value in zip(model.optimizer.variables, _listed("o", state), strict=True):
            variable.assign(value)
        progress.resumed += 1
        self.progress = progress
        return True

    def _start_over(self) -> bool:
        """Set a damaged state aside, all files of it, since the next one would replace them."""
        say(f"the saved state in {self.folder.name} is damaged: training starts over")
        now = time.time_ns()
        for file in [self.folder / STATE, *self.folder.glob("best-*.npz")]:
            file.replace(file.with_name(f"{file.name}.damaged-{now}"))
        return False

    def finish(self, model: keras.Model) -> None:
        """Leave the model with the weights that the recipe asks for."""
        self._refuse_none_best()
        if self.recipe.restore_best and self.best_weights is not None and not self._best_is_last():
            model.set_weights(self.best_weights)

    def _refuse_none_best(self) -> None:
        """A recipe that keeps the best epoch needs one whose number is finite."""
        progress = self.progress
        ended = progress.rows and progress.finished(self.recipe)
        if ended and self.recipe.restore_best and progress.best_epoch is None:
            raise _diverged(f"{self.kept_by} was NaN or infinite after every epoch", progress.rows[-1]["lr"])

    def clear(self) -> None:
        """Remove the state of a run that needs none any more."""
        for file in [self.folder / STATE, *self.folder.glob("best-*.npz"), *self.folder.glob("*.part")]:
            file.unlink(missing_ok=True)


def _best_file(epoch: int | None) -> str:
    return f"best-{epoch}.npz"


def _as_json(progress: Progress) -> dict[str, Any]:
    """Floats survive JSON exactly; NumPy's and Keras' own become Python's."""
    values = {name: dict(kept) for name, kept in progress.callbacks.items()}
    for kept in values.values():
        for name, value in kept.items():
            if not isinstance(value, bool | int | None):
                kept[name] = float(value)
    return vars(progress) | {"callbacks": values}


def _numbered(letter: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{letter}{place}": np.asarray(array) for place, array in enumerate(arrays)}


def _listed(letter: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    count = sum(name[0] == letter and name[1:].isdigit() for name in arrays)
    return [arrays[f"{letter}{place}"] for place in range(count)]


def _save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)
    part.replace(file)


def _load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """All arrays of a file, or None where it is missing or damaged (each array carries a checksum)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # damage leads to places that no file has
            return None
        raise RunError(
            f"{file.name} in {file.parent.name} cannot be read ({error.strerror}).",
            expected="the saved state of a run, which you may read",
            mend="check the disk and the file's permissions, and run this again to go on from that state",
        ) from error
    except MemoryError:
        raise
    except Exception:  # damage makes readers of .npz raise anything
        return None
