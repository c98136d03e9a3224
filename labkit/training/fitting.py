"""`fit`: train a model by a recipe once, resume it where it was killed, and load it ever after."""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
from filelock import FileLock, Timeout

from labkit import models
from labkit.augment import Batches
from labkit.data import ImageSet, PairStream
from labkit.errors import DataError, ModelError, ParameterError, RecipeError, RunError
from labkit.recipes import Recipe
from labkit.runs.record import LOCK, RECORD, Run, default_folder, read, write
from labkit.runs.schema import VERSION
from labkit.training import machine
from labkit.training.callbacks import Closing, Diverged, Opening, Progress, logged, seed_generators
from labkit.training.compiling import compile_model, precision
from labkit.training.devices import asked, check_devices, placed, shared
from labkit.training.failures import explained
from labkit.training.features import FeatureSet, features_of_each, split_at_frozen
from labkit.training.feeding import Feed, feed
from labkit.training.keys import array_digest, circumstances, key, model_record, source_digest
from labkit.training.progress import Report, say, style

WEIGHTS = "model.weights.h5"
_NAME = re.compile(r"[a-z0-9_]+/[A-Za-z0-9_.-]+")


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything that one training run is made of."""

    model: keras.Model
    train: ImageSet | PairStream
    valid: ImageSet | None
    recipe: Recipe
    devices: int
    targets: np.ndarray | None
    save_every: float
    until: int | None
    frozen_once: bool = False
    whole: keras.Model | None = None  # what is kept, where `model` is only its head

    @property
    def kept(self) -> keras.Model:
        return self.whole or self.model

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.model.output) if isinstance(self.model.output, dict) else ()

    @property
    def monitor(self) -> str:
        return logged(self.recipe.monitor, bool(self.heads))

    @property
    def kept_by(self) -> str:
        return logged(self.recipe.kept_by, bool(self.heads))


def fit(
    model: keras.Model,
    train: ImageSet | PairStream,
    valid: ImageSet | None,
    recipe: Recipe,
    *,
    run: str | None = None,
    runs: str | os.PathLike | None = None,
    devices: int | None = None,
    targets: np.ndarray | None = None,
    save_every: float = 2.0,
    until: int | None = None,
    frozen_once: bool = False,
    command: str | None = None,
) -> Run:
    """Train a model, or load it where the same training is done already; it then holds the weights to use.

    - `run`: the name, such as "noisy_cifar/vgg", under which the run is kept; None keeps nothing.
    - `runs`: the folder of all runs; $LABKIT_RUNS or _build/runs by default.
    - `devices`: how many devices share each batch; $LABKIT_DEVICES or 1 by default.
    - `targets`: what to learn of each training image, a row of classes, in place of its label.
    - `save_every`: least seconds between two saved states. A killed run loses those and the epoch it was in.
    - `until`: stop after this many epochs for now; the next call goes on.
    - `frozen_once`: compute what the frozen layers below the first trained one give once, not every epoch.
    - `command`: what makes this run again; $LABKIT_COMMAND by default.
    """
    devices = asked() if devices is None else devices
    job = _Job(model, train, valid, recipe, devices, targets, save_every, until, frozen_once)
    _check(job)
    adapt(model, train)
    name = _checked_name(run, model)
    identity = _identity(job)
    if run is None:
        return Run(
            name, identity["key"], None, _trained(job, _new_record(job, name, identity, command), None)
        )
    folder = Path(runs or default_folder()) / f"{run}-{identity['key']}"
    with _claimed(folder, run):
        record = _existing(folder)
        if record is not None and record["status"] == "done":
            _load(job, folder, record)
        else:
            new = _new_record(job, name, identity, command)
            if record is not None:
                new["hardware"] = _machines(new["hardware"], record["hardware"])
                new["started"] = record["started"]
            record = _trained(job, new, folder)
        return Run(run, identity["key"], folder, record)


def adapt(model: keras.Model, train: ImageSet | PairStream) -> None:
    """Fit the layers that take their numbers from training images to these."""
    if any(hasattr(layer, "adapt") for layer in model.layers):
        models.adapt(model, train.epoch(0).images if isinstance(train, PairStream) else train.images)


def batches_of(train: ImageSet | PairStream, recipe: Recipe, targets: np.ndarray | None) -> Batches:
    """The batches that a recipe makes of training images."""
    return Batches(
        train,
        recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        partners=recipe.partners,
        label_smoothing=recipe.label_smoothing,
        targets=targets,
    )


def _checked_name(run: str | None, model: keras.Model) -> str:
    if run is None:
        return f"unkept/{model.name}"
    if not _NAME.fullmatch(run):
        raise RunError(f"A run cannot be called {run!r}.", expected="chapter/name, such as 'noisy_cifar/vgg'")
    return run


def _check(job: _Job) -> None:
    """Refuse what cannot work before anything is computed."""
    check_devices(job.devices, job.recipe.batch_size)
    if job.until is not None and job.until < 1:
        raise ParameterError(
            f"until is {job.until!r}.", expected="1 epoch or more, or None for all that are left"
        )
    if job.valid is None and job.recipe.needs_validation:
        raise RecipeError(
            f"The recipe goes by {job.recipe.monitor}, and there are no validation images.",
            mend="give some, or use recipe.but(monitor='accuracy') or "
            "recipe.but(patience=None, restore_best=False)",
        )
    if job.frozen_once and (job.recipe.augment or isinstance(job.train, PairStream)):
        raise RecipeError(
            "Frozen layers see other images every epoch, so their output cannot be computed once.",
            mend="leave out the augmentation, or frozen_once",
        )
    if job.valid is not None and job.valid.classes != job.train.classes:
        raise DataError(
            "Training and validation images do not have the same classes in the same order.",
            mend="read both with one call, or split one set",
        )
    for part, images in (("training", job.train), ("validation", job.valid)):
        if images is not None:
            _check_fits(job.model, images, part)
    check_targets(job.model, job.train, job.recipe, job.targets)


def check_targets(
    model: keras.Model, train: ImageSet | PairStream, recipe: Recipe, targets: np.ndarray | None
) -> None:
    """Refuse targets that do not fit the images, and a loss that lacks them."""
    if targets is None:
        if recipe.loss == "forward":
            raise RecipeError(
                "The loss 'forward' has no targets.",
                mend="estimate the noise with labels.transition, and give targets=labels.likelihoods(...)",
            )
        return
    if isinstance(model.output, dict):
        raise RecipeError("Targets in place of labels are for models with one head.")
    fits = np.shape(targets) == (len(train), len(train.classes))
    if not fits or not np.isfinite(targets).all() or np.min(targets) < 0 or not np.any(targets, axis=1).all():
        raise DataError(
            f"Targets of shape {np.shape(targets)} came with {len(train)} images.",
            expected="one row an image of finite numbers from 0 up, one a class, not all of them 0",
        )


def _check_fits(model: keras.Model, images: ImageSet | PairStream, part: str) -> None:
    """Refuse images whose size, labels or hints are not what the model takes."""
    outputs = model.output if isinstance(model.output, dict) else {None: model.output}
    classes = images.classes if isinstance(images.classes, dict) else {None: images.classes}
    wanted = {head: output.shape[-1] for head, output in outputs.items()}
    given = {head: len(names) for head, names in classes.items()}
    if wanted != given:
        raise ModelError(
            f"The model tells {_numbers(wanted)} classes, the {part} images have {_numbers(given)}.",
            mend="build it with classes=len(images.classes)",
        )
    if not len(images):
        raise DataError(f"There are no {part} images.", expected="one or more")
    hinted = getattr(images, "hints", None) is not None
    if hinted != (len(model.inputs) > 1):
        raise DataError(
            f"The model takes {len(model.inputs)} input(s), the {part} images come "
            f"{'with' if hinted else 'without'} hints.",
            mend="images.with_hints(labels) shows the model a label beside each image",
        )
    shape = images.image_shape if isinstance(images, PairStream) else images.images.shape[1:]
    expected = [tensor.shape[1:] for tensor in model.inputs if len(tensor.shape) == 4]
    if not any(all(a in (None, b) for a, b in zip(sides, shape, strict=True)) for sides in expected):
        raise ModelError(
            f"The model takes images of {expected[0] if expected else None}, the {part} images are {shape}."
        )


def _numbers(counts: Mapping[str | None, int]) -> str:
    return " and ".join(map(str, counts.values()))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _identity(job: _Job) -> dict[str, Any]:
    """The key of a run, and the parts of its record that the key is made of."""
    model = model_record(job.model)
    sets = {"train": job.train, "valid": job.valid}
    data = {part: images and _images_record(images) for part, images in sets.items()}
    targets = None if job.targets is None else array_digest(job.targets)
    deciding = {
        "model": [model["architecture"], model["initial_weights"]],
        "recipe": job.recipe.as_dict(),
        "data": [*(images and images["fingerprint"] for images in data.values()), targets],
        "frozen_once": job.frozen_once,
        **circumstances(job.devices),
    }
    return {"key": key(deciding), "model": model, "data": data | {"targets": targets}}


def _new_record(job: _Job, name: str, identity: Mapping[str, Any], command: str | None) -> dict[str, Any]:
    """The record of a run about to start."""
    return {
        "schema": VERSION,
        "name": name,
        "key": identity["key"],
        "status": "running",
        "why": None,
        "command": without_paths(command or os.environ.get("LABKIT_COMMAND") or "") or None,
        "model": identity["model"],
        "recipe": job.recipe.as_dict(),
        "data": identity["data"],
        "seed": job.recipe.seed,
        "backend": keras.backend.backend(),
        "devices": job.devices,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "git": machine.commit(),
        "source": source_digest(),
        "started": _now(),
        "metrics": {},
        **_outcome(job, Progress()),
    }


def _machines(here: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The machine that goes on with a run, and under `earlier` the others that have trained it."""
    known = [*before.get("earlier", []), {name: before[name] for name in before if name != "earlier"}]
    others = [found for place, found in enumerate(known) if found != here and found not in known[:place]]
    return {**here, "earlier": others} if others else dict(here)


def _images_record(images: ImageSet | PairStream) -> dict[str, Any]:
    return {"source": images.source, "fingerprint": images.fingerprint(), "n": len(images)}


_PATH = re.compile(r"(?<![\w.~/:])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"/\\=]+[/\\])*([^\s'\"/\\=]+)[/\\]?")


def without_paths(text: str) -> str:
    """A text as anyone may read it: places on this machine by their last names alone."""
    return _PATH.sub(r"\1", text)


def _outcome(job: _Job, progress: Progress) -> dict[str, Any]:
    """The part of a record that grows with the epochs."""
    rows = progress.rows
    seconds = [row["seconds"] for row in rows]
    typical = median(seconds) if seconds else None
    names = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    renamed = [
        {name.replace("mean_accuracy", "accuracy"): value for name, value in row.items()} for row in rows
    ]
    found = {name: None for row in renamed for name in row}
    columns = [name for name in names if name in found] + [name for name in found if name not in names]
    return {
        "history": {
            name: [row.get(name) for row in renamed]
            for name in columns or ("epoch", "loss", "seconds")
        },
        "best_epoch": progress.best_epoch,
        "stopped_early": progress.stopped,
        "resumed": progress.resumed,
        "seconds": sum(seconds),
        "seconds_per_epoch": typical,
        "images_per_second": len(job.train) / typical if typical else None,
        "peak_memory_bytes": machine.peak_memory(),
        "finished": None,
    }  # fmt: skip


@contextmanager
def _claimed(folder: Path, run: str) -> Iterator[None]:
    """Hold a run alone; the system frees the lock of a process that dies, so that the next one takes over."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process trains {run}; this one waits for it")
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _existing(folder: Path) -> dict[str, Any] | None:
    """The record of an earlier call; a damaged one is set aside and reported, one that diverged is final."""
    file = folder / RECORD
    if not file.exists():
        return None
    try:
        found = read(file)
    except RunError as error:
        aside = file.with_name(f"{RECORD}.damaged-{time.time_ns()}")
        file.replace(aside)
        raise RunError(
            error.happened,
            expected="a whole record",
            mend=f"run this again to go on from the last state; the file is kept as {aside.name}",
        ) from None
    if found["status"] == "failed":
        if found.get("failure") == Diverged.__name__:
            raise RunError(
                f"{found['name']} failed before: {found['why']}",
                mend=f"change the recipe, or delete {folder} to try the same again",
            )
        say(f"{found['name']} failed before and is tried again: {found['why'].splitlines()[0]}")
    return found


def _load(job: _Job, folder: Path, record: Mapping[str, Any]) -> None:
    """Put the weights of a finished run into the model, if they are what the record says."""
    file = folder / WEIGHTS
    if not file.exists() or _file_digest(file) != record["weights"]:
        aside = folder / f"{RECORD}.damaged-{time.time_ns()}"
        (folder / RECORD).replace(aside)
        raise RunError(
            f"The weights of {record['name']} are missing or not those that its record names.",
            expected=f"the file {file}",
            mend=f"run this again to train anew; the record is kept as {aside.name}",
        )
    with _weights_alone(job.model):
        job.model.load_weights(file)
    seed_generators(job.model, job.recipe.seed)


@contextmanager
def _weights_alone(model: keras.Model) -> Iterator[None]:
    """Hide a compiled model's optimizer, which Keras keeps beside the weights at up to twice their size."""
    optimizer, model.optimizer = getattr(model, "optimizer", None), None
    try:
        yield
    finally:
        model.optimizer = optimizer


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _trained(job: _Job, record: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Train, and return the finished record; in a folder, keep record, state and weights there."""

    def note(progress: Progress, **changes: Any) -> dict[str, Any]:
        noted = {**record, **_outcome(job, progress), **changes}
        if folder is not None:
            write(folder / RECORD, noted)
        return noted

    closing = Closing(job.recipe, job.kept_by, folder, save_every=job.save_every, until=job.until, note=note)
    try:
        note(closing.progress)
        if job.frozen_once:
            job = _on_features(job, None if folder is None else folder.parent / "features")
        with precision(job.model, job.recipe.precision), placed(job.model, job.devices) as model:
            _run_epochs(job, model, record["name"], closing)
    except Exception as error:
        raised = explained(error, job.recipe)
        kind = type(raised).__name__
        failure = {"why": without_paths(str(raised)) or kind, "failure": kind, "finished": _now()}
        note(closing.progress, status="failed", **failure)
        if raised is error:
            raise
        raise raised from error
    seed_generators(job.kept, job.recipe.seed)
    if not closing.progress.finished(job.recipe):
        return note(closing.progress)
    if folder is None:
        return note(closing.progress, status="done", finished=_now())
    part = folder / f"part.{WEIGHTS}"  # Keras insists on the ending
    with _weights_alone(job.kept):
        job.kept.save_weights(part)
    digest = _file_digest(part)
    part.replace(folder / WEIGHTS)
    noted = note(closing.progress, status="done", weights=digest, finished=_now())
    closing.clear()
    return noted


def _on_features(job: _Job, cache: Path | None) -> _Job:
    """The same job for the head alone, on what the frozen layers make of the images."""
    layer, head = split_at_frozen(job.model)
    parts = [images for images in (job.train, job.valid) if images is not None]
    frozen = features_of_each(job.model, parts, layer, cache=cache)
    train, *valid = (
        FeatureSet(values, images.labels, images.classes)
        for values, images in zip(frozen, parts, strict=True)
    )
    return replace(job, model=head, train=train, valid=valid[0] if valid else None, whole=job.model)


def _run_epochs(job: _Job, model: keras.Model, name: str, closing: Closing) -> None:
    """Go through the epochs that are left, by Keras' own fit, and leave the model with the weights to use."""
    recipe = job.recipe
    batches = batches_of(job.train, recipe, job.targets)
    dealt = shared(batches, job.devices)
    compile_model(model, recipe, len(dealt))
    model.optimizer.build(model.trainable_variables)
    if closing.restore(model):
        say(f"{name} goes on after epoch {closing.progress.epoch}")
    done, until = closing.progress, recipe.epochs if job.until is None else job.until
    if not done.finished(recipe) and done.epoch < until:
        model.fit(
            feed(dealt),
            validation_data=_validation(job),
            epochs=recipe.epochs,
            initial_epoch=done.epoch,
            shuffle=False,  # Keras would shuffle the batches by the global generator
            verbose=1 if style() == "bar" else 0,
            callbacks=_callbacks(job, batches, name, closing),
        )
    closing.finish(model)


def _validation(job: _Job) -> "Feed | None":
    if job.valid is None:
        return None
    return feed(shared(Batches(job.valid, job.recipe.batch_size, seed=0, shuffle=False), job.devices))


def _callbacks(job: _Job, batches: Batches, name: str, closing: Closing) -> list[keras.callbacks.Callback]:
    """The callbacks in the order in which they must see the end of an epoch."""
    recipe, watched = job.recipe, {"monitor": job.monitor, "mode": job.recipe.mode}
    callbacks: list[keras.callbacks.Callback] = [Opening(recipe, batches, job.heads)]
    if recipe.ema is not None:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if recipe.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                **watched,
                factor=recipe.plateau_factor,
                patience=recipe.plateau_patience,
                min_delta=recipe.plateau_min_delta,
                min_lr=recipe.min_lr,
            )
        )
    if recipe.patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping(**watched, patience=recipe.patience))
    if style() in ("line", "log"):
        callbacks.append(Report(name, recipe.epochs, job.monitor))
    closing.others = callbacks[1:]
    return [*callbacks, closing]
