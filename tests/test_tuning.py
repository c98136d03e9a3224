import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from labkit import tuning
from labkit.data import ImageSet
from labkit.errors import ParameterError, RunError
from labkit.recipes import RECIPES, Recipe
from labkit.runs import Run
from labkit.training import keys

RECIPE = Recipe(epochs=9, batch_size=16)


def shades(n=48, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    images = np.broadcast_to((80 * labels)[:, None, None, None], (n, 4, 4, 1)).astype(np.uint8)
    return ImageSet(images, labels, ("dark", "middle", "bright"), f"synthetic, seed {seed}")


def linear(seed=0):
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    start = keras.initializers.GlorotUniform(seed)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=start)(flat))


def space(hp, recipe):
    rate = hp.Float("lr", 1e-3, 1e-1, sampling="log")
    return linear(recipe.seed), recipe.but(lr=rate, optimizer=hp.Choice("optimizer", ["sgd", "adam"]))


def score_of(recipe):
    """The accuracy that the stand-in for training gives: best at a rate of 0.01."""
    return 1 / (1 + abs(np.log10(recipe.lr) + 2)) - 0.1 * (recipe.optimizer == "sgd")


@pytest.fixture
def trained(monkeypatch):
    """Training that takes no time; records which trials were asked for, as (name, epochs)."""
    calls = []

    def fit(model, train, valid, recipe, *, run, runs, until=None):
        epochs = until or recipe.epochs
        calls.append((run, epochs))
        rising = score_of(recipe) * np.arange(1, epochs + 1) / recipe.epochs
        folder = Path(runs) / f"{run}-key"
        return made(folder, best=epochs, seconds=1.5 * epochs, val_accuracy=rising.tolist())

    monkeypatch.setattr(tuning.training, "fit", fit)
    return calls


def made(folder: Path, best: int, seconds: float, **columns: list[float]) -> Run:
    (values,) = columns.values()
    history = {"epoch": list(range(1, len(values) + 1)), **columns}
    return Run("", "", folder, {"recipe": {}, "history": history, "best_epoch": best, "seconds": seconds})


def searched(folder, **changes):
    options = {"run": "test/tuned", "trials": 5, "runs": folder} | changes
    where = options.pop("space", space)
    return tuning.search(where, shades(), shades(24, 1), options.pop("recipe", RECIPE), **options)


def test_every_trial_is_a_row_and_a_run(tmp_path, trained):
    found = searched(tmp_path)
    assert [name for name, _ in trained] == [f"test/tuned.trial{number}" for number in range(5)]
    assert found.trials["run"].tolist() == [name for name, _ in trained]
    assert found.parameters == ["lr", "optimizer"]
    assert found.trials["status"].tolist() == ["completed"] * 5
    for row in found.trials.itertuples():
        assert row.score == pytest.approx(score_of(RECIPE.but(lr=row.lr, optimizer=row.optimizer)))
    assert found.trials["epochs"].tolist() == [9] * 5
    assert found.trials["lr"].between(1e-3, 1e-1).all()


def test_the_best_trial_is_built_again(tmp_path, trained):
    found = searched(tmp_path)
    assert found.best["score"] == found.trials["score"].max()
    model, recipe = found.build()
    assert recipe == RECIPE.but(lr=found.best["lr"], optimizer=found.best["optimizer"])
    assert model.output_shape == (None, 3)
    assert found.build("3")[1].lr == found.trials.loc[3, "lr"]


def test_the_lowest_loss_is_best_where_the_recipe_watches_it(tmp_path, monkeypatch):
    def fit(model, train, valid, recipe, **options):
        return made(tmp_path, best=1, seconds=1.0, val_loss=[recipe.lr, 9.0])

    monkeypatch.setattr(tuning.training, "fit", fit)
    found = searched(tmp_path, recipe=RECIPE.but(monitor="val_loss"))
    assert found.best["lr"] == found.trials["lr"].min()


def test_a_finished_search_trains_nothing(tmp_path, trained):
    first = searched(tmp_path)
    again = searched(tmp_path)
    assert len(trained) == 5
    pd.testing.assert_frame_equal(first.trials, again.trials)


def test_a_finished_search_counts_the_runs_of_its_trials_as_used(tmp_path, trained, monkeypatch):
    searched(tmp_path)
    monkeypatch.setenv("LABKIT_USED", str(tmp_path / "used"))
    searched(tmp_path)
    used = sorted((tmp_path / "used").read_text().splitlines())
    assert used == [f"{tmp_path}/test/tuned.trial{number}-key/run.json" for number in range(5)]


def test_more_trials_go_on_with_the_same_search(tmp_path, trained):
    few = searched(tmp_path)
    more = searched(tmp_path, trials=8)
    assert len(trained) == 8
    pd.testing.assert_frame_equal(more.trials.head(5), few.trials)


def test_a_shorter_search_is_the_beginning_of_a_longer_one(tmp_path, trained):
    few = searched(tmp_path / "a")
    searched(tmp_path / "b", trials=8)
    again = searched(tmp_path / "b")
    assert len(trained) == 5 + 8 and len(again.trials) == 5
    assert again.parameters == few.parameters and again.best["lr"] == few.best["lr"]


def test_a_search_depends_on_seed_data_recipe_and_space(tmp_path, trained):
    def wider(hp, recipe):
        return linear(recipe.seed), recipe.but(lr=hp.Float("lr", 1e-4, 1.0, sampling="log"))

    folders = {searched(tmp_path, trials=1).folder}
    folders.add(searched(tmp_path, trials=1, seed=1).folder)
    folders.add(searched(tmp_path, trials=1, recipe=RECIPE.but(batch_size=8)).folder)
    folders.add(searched(tmp_path, trials=1, space=wider).folder)
    folders.add(searched(tmp_path, trials=1, tuner="bayesian").folder)
    assert len(folders) == 5


@pytest.mark.parametrize("part", ["source_digest", "libraries", "accelerators", "LABKIT_DEVICES"])
def test_a_search_depends_on_what_computes_it(tmp_path, trained, monkeypatch, part):
    first = searched(tmp_path, trials=1).folder
    if part.isupper():
        monkeypatch.setenv(part, "2")
    else:
        others = {"accelerators": [] if keys.accelerators() else ["another"]}
        monkeypatch.setattr(keys, part, lambda: others.get(part, ["another"]))
    assert searched(tmp_path, trials=1).folder != first


def test_a_seed_gives_the_same_trials_again(tmp_path, trained):
    one = searched(tmp_path / "one", seed=3).trials
    two = searched(tmp_path / "two", seed=3).trials
    pd.testing.assert_frame_equal(one, two)
    assert not searched(tmp_path / "three", seed=4).trials["lr"].equals(one["lr"])


@pytest.mark.parametrize("stopped_at", [0, 2, 4])
def test_an_interrupted_search_goes_on_as_if_never_stopped(tmp_path, trained, monkeypatch, stopped_at):
    whole = searched(tmp_path / "whole").trials
    fit, done = tuning.training.fit, []

    def interrupted(*args, **options):
        if len(done) == stopped_at:
            done.append("stop")
            raise KeyboardInterrupt
        done.append("trial")
        return fit(*args, **options)

    monkeypatch.setattr(tuning.training, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "halted")
    pd.testing.assert_frame_equal(searched(tmp_path / "halted").trials, whole)


@pytest.mark.parametrize("damage", ["oracle cut short", "trial cut short", "trial unknown"])
def test_damaged_files_cost_no_trial(tmp_path, trained, damage):
    first = searched(tmp_path, trials=3)
    (first.folder / tuning.FINISHED).unlink()
    oracle, trial = first.folder / "oracle.json", first.folder / "trial_2" / "trial.json"
    if damage == "trial unknown":
        trial.write_text(json.dumps(json.loads(trial.read_text()) | {"status": "RUNNING"}))
    else:
        file = oracle if damage == "oracle cut short" else trial
        file.write_text(file.read_text()[:40])
    pd.testing.assert_frame_equal(searched(tmp_path, trials=3).trials, first.trials)


def test_bayesian_search_looks_where_scores_were_high(tmp_path, trained):
    def later(tuner):  # six trials are drawn at random before the first that is chosen
        found = [searched(tmp_path, tuner=tuner, trials=12, seed=seed).trials["score"] for seed in range(4)]
        return np.mean([scores[6:] for scores in found])

    assert later("bayesian") > later("random") + 0.1


def test_hyperband_goes_on_with_the_best_short_trials(tmp_path, trained):
    found = searched(tmp_path, tuner="hyperband", trials=30).trials
    started = dict(trained)
    assert {1, 3, 9} <= {epochs for _, epochs in trained}
    promoted = found[found["run"].duplicated()]
    assert len(promoted) > 0
    assert (promoted["epochs"] > 1).all()
    assert found.loc[found["score"].idxmax(), "epochs"] == 9
    assert len(started) < len(trained)  # a promoted trial goes on with its own run


def test_a_failed_trial_is_a_row_that_says_why(tmp_path, trained, monkeypatch):
    fit = tuning.training.fit

    def sometimes(model, train, valid, recipe, **options):
        if options["run"].endswith("1"):
            raise RunError("Out of memory at a batch of 16.", mend="try 8")
        return fit(model, train, valid, recipe, **options)

    monkeypatch.setattr(tuning.training, "fit", sometimes)
    found = searched(tmp_path)
    assert found.trials["status"].tolist() == ["completed", "failed", *["completed"] * 3]
    assert found.trials["why"][1].endswith("Out of memory at a batch of 16.")
    assert found.best["status"] == "completed"


def test_a_search_without_any_finished_trial_is_an_error(tmp_path, monkeypatch):
    def never(*args, **options):
        raise RunError("The loss is not a number.")

    monkeypatch.setattr(tuning.training, "fit", never)
    with pytest.raises(RunError, match=r"None of the 5 trials of test/tuned finished.*not a number"):
        searched(tmp_path)


def test_no_file_holds_a_path_of_the_machine(tmp_path, trained):
    found = searched(tmp_path)
    texts = [file.read_text() for file in found.folder.rglob("*.json")]
    assert len(texts) > 5
    assert not [text for text in texts if str(tmp_path) in text or tuning.__file__ in text]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tuner": "randon"}, "Did you mean 'random'"),
        ({"trials": 0}, "0 trials"),
        ({"run": "tuned"}, "chapter/name"),
        ({"space": lambda hp, recipe: linear()}, "a model and its recipe"),
        ({"space": lambda hp, recipe: (linear(), recipe.but(monitor="loss"))}, "one number to compare by"),
        ({"member": "chief"}, "name@host:port"),
    ],
)
def test_wrong_searches_are_refused_by_name(tmp_path, options, text):
    with pytest.raises(ParameterError, match=text):
        searched(tmp_path, **options)


def test_the_environment_may_name_the_member(tmp_path, trained, monkeypatch):
    monkeypatch.setenv("LABKIT_MEMBER", "nobody")
    with pytest.raises(ParameterError, match="A member cannot be 'nobody'"):
        searched(tmp_path)
    assert not trained


def test_a_worker_says_that_no_chief_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "PATIENCE", 1)
    monkeypatch.setenv("LABKIT_PROGRESS", "line")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, and not listening
        with pytest.raises(RunError, match=f"No chief answered at 127.0.0.1:{port}"):
            searched(tmp_path, member=f"one@127.0.0.1:{port}")
    assert "waiting for 1 seconds" in capsys.readouterr().err
    assert "KERASTUNER_TUNER_ID" not in os.environ


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of a search of several processes, in which one trial is still running."""
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    for number, status in enumerate(("COMPLETED", "RUNNING")):
        (tmp_path / f"trial_{number}").mkdir()
        (tmp_path / f"trial_{number}" / "trial.json").write_text(json.dumps({"status": status}))
    return tmp_path


def test_a_worker_waits_until_the_others_have_ended_their_trials(shared, monkeypatch):
    file, asked = shared / "trial_1" / "trial.json", []

    def answering(*_):
        asked.append("chief")
        file.write_text("{" if len(asked) == 1 else json.dumps({"status": "COMPLETED"}))
        return True

    monkeypatch.setattr(tuning, "_answers", answering)
    tuning._await_others(shared)
    assert len(asked) == 2  # neither a running trial nor a file cut short is an end


def test_a_worker_does_not_wait_for_a_trial_whose_chief_is_gone(shared, monkeypatch):
    monkeypatch.setattr(tuning, "_answers", lambda *_: False)
    with pytest.raises(RunError, match="ended while a trial was running"):
        tuning._await_others(shared)


def penalties(model):
    """The L2 penalty of each layer that has a kernel."""
    layers = [layer for layer in model.layers if getattr(layer, "kernel_regularizer", None)]
    return {layer.name: float(layer.kernel_regularizer.l2) for layer in layers}


def test_report_004_tuned_the_dense_layer_alone():
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    model, recipe = tuning.report004(hp, RECIPES["report004_tuned"], as_run=True)
    assert penalties(model)["dense"] == pytest.approx(3e-4)
    assert set(np.round([value for name, value in penalties(model).items() if name != "dense"], 9)) == {5e-4}
    assert recipe.lr == 1e-3
    assert recipe.schedule == "cosine"
    ranges = {item.name: (item.min_value, item.max_value, item.sampling) for item in hp.space}
    assert ranges == {"weight_decay": (3e-4, 1e-2, "log"), "lr": (1e-3, 1e-1, "log")}


def test_as_meant_the_decay_reaches_every_convolution():
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    hp.values = {"weight_decay": 2e-3, "lr": 0.05}
    model, recipe = partial(tuning.report004, classes=20)(hp, RECIPES["report004_tuned"])
    assert len(penalties(model)) == 14
    assert set(np.round(list(penalties(model).values()), 9)) == {2e-3}
    assert model.output_shape == (None, 20)
    assert recipe.lr == 0.05


def test_trials_are_trained_for_real(tmp_path):
    found = searched(tmp_path, trials=2, recipe=RECIPE.but(epochs=60))
    assert found.best["score"] > 0.5  # one class in three is right by chance
    assert len(list((tmp_path / "test").glob("tuned.trial*/run.json"))) == 2
    model, recipe = found.build()
    run = tuning.training.fit(model, shades(), shades(24, 1), recipe, run="test/again", runs=tmp_path)
    assert run.history["val_accuracy"].max() == pytest.approx(found.best["score"])


PROGRAM = """
import sys
from functools import partial
from test_tuning import RECIPE, searched, tuning
tuning.training.fit = partial(tuning.training.fit, save_every=0)  # every epoch leaves its mark
folder, trials, *member = sys.argv[1:]
recipe = RECIPE.but(epochs=80)
found = searched(folder, trials=int(trials), recipe=recipe, member=member[0] if member else None)
print(found.trials[["trial", "status", "score"]].to_json(orient="values"))
"""


def started(folder, trials, *member):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "LABKIT_PROGRESS": "none"}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(trials), *member]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows_of(process, timeout=900):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.strip().splitlines()[-1])


def killed_in_a_trial(process, folder, trial):
    """Kill a process as soon as it has trained an epoch of a trial."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for file in (folder / "test").glob(f"tuned.trial{trial}-*/run.json"):
            if '"status": "running"' in file.read_text():
                process.send_signal(signal.SIGKILL)
                process.communicate()
                return
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.02)
    raise AssertionError(f"trial {trial} never started")


@pytest.mark.long
def test_a_killed_search_loses_no_trial(tmp_path):
    whole = rows_of(started(tmp_path / "whole", 3))
    for trial in (0, 2):
        process = started(tmp_path / "killed", 3)
        killed_in_a_trial(process, tmp_path / "killed", trial)
    assert rows_of(started(tmp_path / "killed", 3)) == whole


@pytest.mark.long
def test_a_chief_and_two_workers_share_a_search_and_survive_a_kill(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    alone = rows_of(started(tmp_path / "alone", 4))
    folder = tmp_path / "shared"
    chief = started(folder, 4, f"chief@{address}")
    one, two = (started(folder, 4, f"{name}@{address}") for name in ("one", "two"))
    try:
        killed_in_a_trial(one, folder, "[0-9]")
        one = started(folder, 4, f"one@{address}")
        rows = rows_of(chief)
        assert [row[1] for row in rows] == ["completed"] * 4
        assert rows == alone  # random search: the same trials, whoever trains them
        assert rows_of(one) == rows_of(two) == alone
        names = [entry.name.split("-")[0] for entry in (folder / "test").glob("tuned.trial*")]
        assert sorted(names) == [f"tuned.trial{number}" for number in range(4)]
    finally:
        for process in (chief, one, two):
            if process.poll() is None:
                process.kill()
            process.communicate()
