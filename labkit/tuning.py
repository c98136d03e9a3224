"""Search for hyperparameters with Keras Tuner; every trial is a training run of its own.

A search that is killed goes on where it stopped, its running trial included. A finished one returns at once.

Several processes share a search through Keras Tuner's own chief and workers. Each runs the same program with
its own `member`: one "chief@127.0.0.1:8470", which hands out trials and trains nothing, the others any other
name at the same address. The environment variables KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and
KERASTUNER_ORACLE_PORT say the same. All need the same folder of runs, code, libraries, backend and devices:
with another of these a search is another one. A worker that died must come back under its old name: the chief
waits for it. The connection is neither encrypted nor checked, so it belongs on one machine or a trusted
network.
"""

import contextlib
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd
from filelock import FileLock

from labkit import models, training
from labkit.errors import LabkitError, ParameterError, RunError, nearest
from labkit.recipes import Recipe
from labkit.runs import default_folder
from labkit.runs.record import RECORD, used
from labkit.training.devices import asked
from labkit.training.keys import architecture_digest, circumstances
from labkit.training.progress import say

if TYPE_CHECKING:
    import keras_tuner

    from labkit.data import ImageSet, PairStream

    Space = Callable[["keras_tuner.HyperParameters", Recipe], tuple[keras.Model, Recipe]]

TUNERS = ("random", "bayesian", "hyperband")
FINISHED = "finished.json"
TRAINED = "trained.txt"  # beside a trial, the folder of its run
PATIENCE = 600  # seconds that a worker waits for its chief


@dataclass(frozen=True, eq=False)
class Search:
    """A finished search: the table of its trials, and what builds any of them again."""

    name: str
    trials: (
        pd.DataFrame
    )  # one row a trial; its hyperparameters, score, epochs, seconds, and the run it trained
    space: "Space"
    recipe: Recipe
    folder: Path

    @property
    def parameters(self) -> list[str]:
        """The names of what was searched."""
        return list(self.trials.attrs["parameters"])

    @property
    def best(self) -> pd.Series:
        """The row of the trial with the best score."""
        done = self.trials.dropna(subset=["score"])
        return done.loc[done["score"].idxmax() if self.recipe.mode == "max" else done["score"].idxmin()]

    def build(self, trial: str | None = None) -> tuple[keras.Model, Recipe]:
        """A fresh model and the recipe of a trial, by default the best, for `training.fit`."""
        import keras_tuner

        trial = self.best["trial"] if trial is None else trial
        state = _read(self.folder / f"trial_{trial}" / "trial.json")
        return self.space(keras_tuner.HyperParameters.from_config(state["hyperparameters"]), self.recipe)


def search(
    space: "Space",
    train: "ImageSet | PairStream",
    valid: "ImageSet",
    recipe: Recipe,
    *,
    run: str,
    trials: int,
    tuner: str = "random",
    seed: int = 0,
    runs: str | os.PathLike | None = None,
    member: str | None = None,
) -> Search:
    """Train up to `trials` models from a space and tell which scored best by the recipe's monitored number.

    - `space`: function of hyperparameters and the recipe; returns a model and the recipe to train it by.
    - `run`: name of the search, such as "cifar100/tuned"; its trials are runs "cifar100/tuned.trial00" ...
    - `tuner`: "random"; "bayesian", which learns from earlier trials; or "hyperband", which starts many short
      trials and goes on with the best of them.
    - `member`: this process's part in a search of several: "chief@host:port" or "any-other-name@host:port";
      $LABKIT_MEMBER by default.
    """
    _check(tuner, trials, run)
    runs = Path(runs or default_folder())
    folder = runs / f"{run}.search-{_key(space, train, valid, recipe, tuner, seed)}"
    with _joined(member or os.environ.get("LABKIT_MEMBER")) as role:
        if not _finished(folder, trials):
            _run(_Job(space, train, valid, recipe, run, runs, folder), tuner, trials, seed, role)
    for file in folder.glob(f"trial_*/{TRAINED}"):
        used(folder.with_name(file.read_text(encoding="utf-8")) / RECORD)
    table = _table(folder, run)
    if tuner != "hyperband":  # whose trials build on each other
        table = table.iloc[:trials]  # the folder may hold a longer search
    return Search(run, table, space, recipe, folder)


def report004(
    hp: "keras_tuner.HyperParameters",
    recipe: Recipe,
    *,
    model: str = "custom_vgg16",
    classes: int = 100,
    as_run: bool = False,
) -> tuple[keras.Model, Recipe]:
    """Report 004's space: weight decay and learning rate by their logarithm.

    As run, the decay reaches the dense layer of `custom_vgg16` alone; as meant,
    the convolutions too.
    """
    decay = hp.Float("weight_decay", 3e-4, 1e-2, sampling="log")
    rate = hp.Float("lr", 1e-3, 1e-1, sampling="log")
    penalty = {"dense_l2": decay} if as_run else {"l2": decay}
    built = models.build(model, classes=classes, seed=recipe.seed, **penalty)
    return built, recipe.but(lr=rate)


@dataclass(frozen=True, eq=False)
class _Job:
    """What every trial of a search has in common."""

    space: "Space"
    train: "ImageSet | PairStream"
    valid: "ImageSet"
    recipe: Recipe
    run: str
    runs: Path
    folder: Path

    def train_trial(self, hp: "keras_tuner.HyperParameters", trial: str) -> dict[str, float]:
        """Train one trial, or go on with it, and return its numbers."""
        model, recipe = self.space(hp, self.recipe)
        until = hp.values.get("tuner/epochs")  # Hyperband's budget for this round
        run = training.fit(
            model, self.train, self.valid, recipe, run=f"{self.run}.trial{trial}", runs=self.runs, until=until
        )
        (self.folder / f"trial_{trial}" / TRAINED).write_text(run.folder.name, encoding="utf-8")
        return {
            recipe.monitor: run.kept(recipe.monitor),
            "epochs": run.epochs,
            "best_epoch": run.kept_epoch,
            "seconds": run.seconds,
        }


def _run(job: _Job, tuner: str, trials: int, seed: int, role: str | None) -> None:
    """Take part in the search as the one process, its chief or a worker."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if role == "worker":
        _tuner(job, tuner, trials, seed).search(verbose=0)
        _await_others(job.folder)
        _refuse_if_all_failed(job)
        return
    with FileLock(job.folder.with_name(f"{job.folder.name}.lock")):
        if _finished(job.folder, trials):
            return
        if not _sound(job.folder):
            # Trained trials are kept as runs, so that a search started afresh repeats none of them.
            shutil.rmtree(job.folder)
            job.folder.mkdir()
        _tuner(job, tuner, trials, seed).search(verbose=0)
        _refuse_if_all_failed(job)
        part = job.folder / f"part.{FINISHED}"
        part.write_text(json.dumps({"trials": trials}), encoding="utf-8")
        part.replace(job.folder / FINISHED)


def _tuner(job: _Job, tuner: str, trials: int, seed: int) -> "keras_tuner.Tuner":
    """A Keras Tuner whose trials are training runs."""
    import keras_tuner
    from keras_tuner.errors import FailedTrialError

    class Tuner(keras_tuner.Tuner):
        def run_trial(self, trial: Any, *args: Any, **options: Any) -> dict[str, float]:
            first = trial
            while "tuner/trial_id" in first.hyperparameters.values:  # Hyperband goes on with an earlier trial
                first = self.oracle.get_trial(first.hyperparameters.values["tuner/trial_id"])
            try:
                return job.train_trial(trial.hyperparameters, first.trial_id)
            except LabkitError as error:
                raise FailedTrialError(error.happened) from error

        def on_trial_end(self, trial: Any) -> None:
            if trial.message:
                trial.message = trial.message.strip().splitlines()[-1]  # without the trace and its paths
            super().on_trial_end(trial)

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the folder
        return Tuner(
            _oracle(job, tuner, trials, seed),
            hypermodel=lambda hp: job.space(hp, job.recipe)[0],
            directory=str(job.folder.parent),
            project_name=job.folder.name,
        )


def _oracle(job: _Job, tuner: str, trials: int, seed: int) -> "keras_tuner.Oracle":
    """What chooses the next trial."""
    from keras_tuner import Objective, oracles

    options = {
        "objective": Objective(job.recipe.monitor, job.recipe.mode),
        "seed": seed + 1,  # 0 would mean: draw one
        "max_consecutive_failed_trials": trials + 1,  # a model too large is a row that says so
    }
    if tuner == "hyperband":
        oracle = oracles.HyperbandOracle(max_epochs=job.recipe.epochs, **options)
        oracle.max_trials = trials
        return oracle
    kinds = {"random": oracles.RandomSearchOracle, "bayesian": oracles.BayesianOptimizationOracle}
    return kinds[tuner](max_trials=trials, **options)


def _check(tuner: str, trials: int, run: str) -> None:
    if tuner not in TUNERS:
        raise ParameterError(
            f"There is no tuner {tuner!r}.", expected=", ".join(TUNERS), mend=nearest(tuner, TUNERS)
        )
    if trials < 1:
        raise ParameterError(f"A search of {trials} trials finds nothing.", expected="1 or more")
    if not re.fullmatch(r"[a-z0-9_]+/[A-Za-z0-9_.-]+", run):
        raise ParameterError(
            f"A search cannot be called {run!r}.", expected="chapter/name, such as 'cifar100/tuned'"
        )


def _key(
    space: "Space",
    train: "ImageSet | PairStream",
    valid: "ImageSet",
    recipe: Recipe,
    tuner: str,
    seed: int,
) -> str:
    """A digest of all that decides a search but its length: a longer one goes on with a shorter."""
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    built = space(hp, recipe)
    if not (isinstance(built, tuple) and len(built) == 2 and isinstance(built[1], Recipe)):
        raise ParameterError(f"The space returned {type(built).__name__}.", expected="a model and its recipe")
    model, changed = built
    if changed.monitor != recipe.monitor:
        raise ParameterError(
            f"The space watches {changed.monitor}, the search {recipe.monitor}.",
            expected="one number to compare by",
        )
    parts = {
        "hyperparameters": hp.get_config(),
        "code": _source(getattr(space, "func", space)),
        "model": [architecture_digest(model), getattr(model, "labkit_spec", None)],
        "recipe": [recipe.as_dict(), changed.as_dict()],
        "data": [train.fingerprint(), valid.fingerprint()],
        "tuner": [tuner, seed],
        **circumstances(asked()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _source(function: Callable) -> str:
    """The text of a function, since its values at one point do not tell how it uses them."""
    with contextlib.suppress(OSError):
        return inspect.getsource(function)
    return function.__qualname__  # typed where nothing keeps the text


def _finished(folder: Path, trials: int) -> bool:
    return (folder / FINISHED).exists() and _read(folder / FINISHED)["trials"] >= trials


def _sound(folder: Path) -> bool:
    """Whether Keras Tuner's files are whole, and no trial is running that it does not know of."""
    if not (folder / "oracle.json").exists():
        return not any(folder.iterdir())
    try:
        state = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))
        found = [json.loads(file.read_text(encoding="utf-8")) for file in _trial_files(folder)]
    except json.JSONDecodeError:
        return False
    known = {*state["ongoing_trials"].values(), *state["retry_queue"]}
    return all(trial["trial_id"] in known for trial in found if trial["status"] == "RUNNING")


def _refuse_if_all_failed(job: _Job) -> None:
    states = [_read(file) for file in _trial_files(job.folder)]
    if not any(state["status"] == "COMPLETED" for state in states):
        why = next((state["message"] for state in states if state["message"]), "no trial was started")
        raise RunError(f"None of the {len(states)} trials of {job.run} finished. The first said: {why}")


def _table(folder: Path, run: str) -> pd.DataFrame:
    """One row a trial in the order they started, the same after any number of restarts."""
    rows, parameters = [], {}
    for state in sorted(map(_read, _trial_files(folder)), key=lambda state: int(state["trial_id"])):
        values = state["hyperparameters"]["values"]
        searched = {name: value for name, value in values.items() if not name.startswith("tuner/")}
        parameters |= searched
        numbers = {name: _last(metric) for name, metric in state["metrics"]["metrics"].items()}
        rows.append(
            {
                "trial": state["trial_id"],
                "status": state["status"].lower(),
                **searched,
                "score": state["score"],
            }
            | {name: numbers.get(name) for name in ("epochs", "best_epoch", "seconds")}
            | {"run": f"{run}.trial{_first(folder, state)}", "why": state["message"]}
        )
    table = pd.DataFrame(rows).astype(dict.fromkeys(("epochs", "best_epoch"), "Int64"))
    table.attrs["parameters"] = tuple(parameters)
    return table


def _first(folder: Path, state: Mapping[str, Any]) -> str:
    """The trial whose run a trial went on with, or its own."""
    earlier = state["hyperparameters"]["values"].get("tuner/trial_id")
    return _first(folder, _read(folder / f"trial_{earlier}" / "trial.json")) if earlier else state["trial_id"]


def _last(metric: Mapping[str, Any]) -> float | None:
    observations = metric["observations"]
    return observations[-1]["value"][-1] if observations else None


def _trial_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("trial_*/trial.json"))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _joined(member: str | None) -> Iterator[str | None]:
    """Set Keras Tuner's environment variables for a member; yields "chief", "worker" or None."""
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    before = {name: os.environ.get(name) for name in names}
    if member is not None:
        found = re.fullmatch(r"([\w.-]+)@([\w.-]+):(\d+)", member)
        if not found:
            raise ParameterError(
                f"A member cannot be {member!r}.", expected="name@host:port, such as chief@127.0.0.1:8470"
            )
        os.environ.update(zip(names, found.groups(), strict=True))
    try:
        if not all(os.environ.get(name) for name in names[1:]):
            yield None
        elif "chief" in os.environ[names[0]]:  # as Keras Tuner tells them apart
            yield "chief"
        else:
            _await_chief(os.environ[names[1]], int(os.environ[names[2]]))
            yield "worker"
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _await_chief(host: str, port: int) -> None:
    """Wait until the chief answers, and say so; Keras Tuner would wait in silence."""
    end, told = time.monotonic() + PATIENCE, False
    while time.monotonic() < end:
        if _answers(host, port):
            return
        if not told:
            say(f"no chief answers at {host}:{port} yet; waiting for {PATIENCE} seconds")
            told = True
        time.sleep(0.5)
    raise RunError(
        f"No chief answered at {host}:{port}.", mend="start the process whose member is chief@host:port"
    )


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def _await_others(folder: Path) -> None:
    """Wait until no trial is running: a worker that finds nothing left to start is done before the others."""
    host, port = os.environ["KERASTUNER_ORACLE_IP"], int(os.environ["KERASTUNER_ORACLE_PORT"])
    answered = True
    while _running(folder):
        if not answered:  # asked once more than needed, since the last trial may end in between
            raise RunError(
                f"The chief at {host}:{port} ended while a trial was running.",
                mend="start the chief and its workers again",
            )
        answered = _answers(host, port)
        time.sleep(0.5)


def _running(folder: Path) -> bool:
    """Whether a trial is running, by the files; one that is being written counts."""
    try:
        return any(_read(file)["status"] == "RUNNING" for file in _trial_files(folder))
    except json.JSONDecodeError:
        return True
