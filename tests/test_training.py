import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import h5py
import keras
import numpy as np
import pytest
from training_process import BASE, VARIANTS, outcome, tiny_images, tiny_model, train

from labkit import augment, data, evaluation, labels, models, runs, training
from labkit.book import score_page
from labkit.errors import DataError, ModelError, ParameterError, RecipeError, RunError
from labkit.recipes import PARTNERS, RECIPES, Recipe
from labkit.runs.record import LOCK, RECORD
from labkit.training import compiling, failures, fitting, folds, keys, machine, progress
from labkit.training.callbacks import seed_generators
from labkit.training.features import split_at_frozen

SCRIPT = Path(__file__).with_name("training_process.py")
QUICK = Recipe(epochs=2, batch_size=16, lr=1e-2)


@pytest.fixture
def images() -> tuple[data.ImageSet, data.ImageSet]:
    return tiny_images(72, 0), tiny_images(40, 1)


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def start(folder: Path, *arguments: str, backend: str = "tensorflow", **environment) -> subprocess.Popen:
    extra = [] if backend == "tensorflow" else ["--without-tensorflow"]
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder, *arguments, *extra],
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> dict:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def killed(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, error


def test_a_run_leaves_a_valid_record_and_the_best_weights(tmp_path, images):
    model = tiny_model()
    run = training.fit(model, *images, BASE.but(epochs=4), run="tests/tiny", runs=tmp_path)
    runs.validate(run.record)
    assert (run.status, run.epochs) == ("done", 4)
    history = run.history
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"} == set(history)
    assert history["val_accuracy"][run.best_epoch - 1] == history["val_accuracy"].max()
    right = model.predict(images[1].images, verbose=0).argmax(1) == images[1].labels
    assert right.mean() == pytest.approx(history["val_accuracy"].max())
    assert run.record["images_per_second"] > 0
    assert sorted(file.name for file in run.folder.iterdir()) == [LOCK, fitting.WEIGHTS, RECORD]


def test_a_last_epoch_that_is_best_is_neither_copied_nor_saved_as_a_state(tmp_path, images, monkeypatch):
    monkeypatch.setattr(training.callbacks.Closing, "save", lambda _: pytest.fail("saved a state"))
    monkeypatch.setattr(keras.Model, "set_weights", lambda *_: pytest.fail("set the weights it has"))
    model = tiny_model()
    run = training.fit(model, *images, BASE.but(epochs=1), run="tests/tiny", runs=tmp_path, save_every=0)
    assert run.best_epoch == 1
    right = model.predict(images[1].images, verbose=0).argmax(1) == images[1].labels
    assert right.mean() == pytest.approx(run.history["val_accuracy"][0])


def test_weights_are_kept_without_the_optimizer_and_fit_a_compiled_model(tmp_path, images):
    first, second = tiny_model(), tiny_model()
    run = training.fit(first, *images, QUICK, run="tests/tiny", runs=tmp_path)
    with h5py.File(run.folder / fitting.WEIGHTS) as file:
        assert "layers" in file and "optimizer" not in file
    second.compile("adam", "mse")
    optimizer = second.optimizer
    training.fit(second, *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert same(weights_of(first), weights_of(second))
    assert second.optimizer is optimizer and first.optimizer is not None


def test_runs_that_are_trained_or_loaded_are_listed_and_those_only_looked_at_are_not(
    tmp_path, images, monkeypatch
):
    def trained(epochs, used):
        monkeypatch.setenv("LABKIT_USED", str(tmp_path / used))
        run = training.fit(tiny_model(), *images, BASE.but(epochs=epochs), run="tests/tiny", runs=tmp_path)
        return str(run.folder / RECORD)

    def listed(used):
        return {*(tmp_path / used).read_text().splitlines()}

    first, second = trained(1, "first"), trained(2, "second")
    assert listed("second") == {second} and trained(1, "again") == first
    runs.load(second)
    assert listed("again") == {first}


def test_the_same_training_is_loaded_and_not_done_twice(tmp_path, images, monkeypatch):
    first = tiny_model()
    done = training.fit(first, *images, QUICK, run="tests/tiny", runs=tmp_path).score("valid", _Scores())
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained again"))
    second = tiny_model()
    again = training.fit(second, *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert again.record == done.record
    assert same(weights_of(first), weights_of(second))


class _Scores:
    def summary(self) -> dict:
        return {"n": 1, "accuracy": 1.0, "source": "none", "fingerprint": "0" * 64}


def test_the_key_names_everything_that_changes_a_result(images):
    train_set, valid = images

    untrained = QUICK.but(epochs=0)

    def key_of(model=None, train=train_set, valid=valid, recipe=untrained, **options):
        return training.fit(model or tiny_model(), train, valid, recipe, **options).key

    frozen = tiny_model()
    frozen.layers[3].trainable = False
    even = np.full((len(train_set), len(train_set.classes)), 0.1)
    others = [
        key_of(model=tiny_model(seed=2)),
        key_of(model=tiny_model(dropout=0.4)),
        key_of(model=frozen),
        key_of(train=train_set.relabel(np.roll(train_set.labels, 1))),
        key_of(valid=valid.take(slice(20))),
        key_of(valid=None, recipe=QUICK.but(epochs=0, restore_best=False)),
        key_of(recipe=QUICK.but(epochs=0, seed=1)),
        key_of(recipe=QUICK.but(epochs=0, lr=1e-3)),
        key_of(targets=even),
    ]
    assert len({key_of(), *others}) == len(others) + 1
    keras.layers.Dense(1)  # the names of layers count on
    assert key_of() == key_of(save_every=9, command="another")
    assert key_of(model=head_on_frozen()) != key_of(model=head_on_frozen(), frozen_once=True)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("source_digest", lambda: "other code"),
        ("libraries", lambda: {"keras": "0.1"}),
        ("accelerators", lambda: ["a GPU"]),
    ],
)
def test_the_key_names_the_code_the_libraries_and_what_computes(images, monkeypatch, what, other):
    def key():
        return training.fit(tiny_model(), *images, QUICK.but(epochs=0)).key

    before = key()
    assert key() == before
    monkeypatch.setattr(keys, what, other)
    assert key() != before


@pytest.mark.parametrize("change", ["import os\nx = 2\n", "x = 3\n"])
def test_the_source_digest_sees_code_and_no_comments(tmp_path, monkeypatch, change):
    def digest(source: str) -> str:
        (tmp_path / "code.py").write_text(source)
        keys.source_digest.cache_clear()
        return keys.source_digest()

    monkeypatch.setattr(keys, "_PACKAGE", tmp_path)
    monkeypatch.setattr(keys, "_SOURCES", ("code.py",))
    before = digest('"""Says."""\nx = 2\n')
    assert digest('"""Says more."""\n\n# why\nx = 2  # so\n') == before
    assert digest(change) != before
    keys.source_digest.cache_clear()


def test_the_source_digest_is_of_the_code_that_was_loaded():
    code = "from labkit.training import keys; assert keys.source_digest.cache_info().currsize == 1"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_that_makes_batches_is_part_of_the_source_digest():
    modules = {value.__module__ for value in vars(augment).values() if callable(value)}
    own = {name for name in modules if name.startswith("labkit.")} - {"labkit.errors"}
    files = {name.removeprefix("labkit.").replace(".", "/") + ".py" for name in own}
    assert files <= set(keys._SOURCES)


@pytest.mark.parametrize("name", ["cnn2", "resnet8", "cct", "fmp3"])
def test_the_digest_of_an_architecture_ignores_the_names_of_layers(name):
    first = keys.architecture_digest(models.build(name))
    assert keys.architecture_digest(models.build(name)) == first


def test_the_digest_of_an_architecture_sees_its_options():
    assert keys.architecture_digest(tiny_model()) != keys.architecture_digest(tiny_model(dropout=0.5))


def test_training_depends_on_no_global_generator(images):
    outcomes = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the generator that must not matter)
        keras.utils.set_random_seed(seed)
        model = tiny_model()
        outcomes.append(outcome(model, training.fit(model, *images, BASE.but(epochs=2))))
    assert outcomes[0] == outcomes[1]


def test_each_epoch_draws_its_own_dropout(images):
    model = tiny_model()
    states = []
    for epoch in (0, 1, 0):
        seed_generators(model, 5, epoch)
        states.append([v for v in weights_of(model) if v.shape == (2,) and v.dtype.kind in "iu"])
    assert len(states[0]) == 2
    assert same(states[0], states[2])
    assert not same(states[0], states[1])
    assert not np.array_equal(states[0][0], states[0][1])


@pytest.mark.parametrize("variant", ["stopping", "ema"])
def test_a_run_in_pieces_equals_one_in_one_piece(tmp_path, variant):
    whole = outcome(*train(tmp_path / "whole", variant))
    for until in (1, 4):
        _, run = train(tmp_path / "pieces", variant, until=until)
        assert run.status == "running"
    model, run = train(tmp_path / "pieces", variant)
    assert outcome(model, run) == whole
    assert (run.status, run.record["resumed"]) == ("done", 2)


def test_the_stopping_variant_stops_early_and_drops_its_rate(tmp_path):
    """Else the tests of resumption would prove little."""
    _, run = train(tmp_path, "stopping")
    assert run.record["stopped_early"]
    assert 5 <= run.epochs < VARIANTS["stopping"].epochs
    assert run.history["lr"].nunique() >= 3


def test_a_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    whole = outcome(*train(tmp_path / "whole", "stopping"))
    for epoch in (1, 4):
        killed(start(tmp_path / "killed", "--kill", str(epoch)))
    (folder,) = (tmp_path / "killed" / "tests").iterdir()
    assert runs.load(folder).epochs == 3
    model, run = train(tmp_path / "killed", "stopping")
    assert outcome(model, run) == whole
    assert run.record["resumed"] == 1


def test_a_killed_run_goes_on_under_jax_where_tensorflow_is_missing(tmp_path):
    killed(start(tmp_path / "killed", "--kill", "6", backend="jax"))
    resumed, whole = (start(tmp_path / name, backend="jax") for name in ("killed", "whole"))
    resumed, whole = finish(resumed), finish(whole)
    assert whole["stopping"]["stopped_early"]
    assert resumed == whole
    assert (whole["backend"], whole["tensorflow"]) == ("jax", False)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_run_may_be_killed_in_any_epoch_of_any_recipe(tmp_path, backend):
    names = ",".join(VARIANTS)
    whole = finish(start(tmp_path / "whole", "--variants", names, backend=backend))
    for epoch in range(1, max(len(whole[name]["history"]["epoch"]) for name in VARIANTS) + 1):
        reached = [name for name in VARIANTS if epoch <= len(whole[name]["history"]["epoch"])]
        for name in reached:
            folder = tmp_path / f"killed{epoch}"
            killed(start(folder, "--variants", name, "--kill", str(epoch), backend=backend))
        resumed = finish(start(folder, "--variants", ",".join(reached), backend=backend))
        assert {name: resumed[name] == whole[name] for name in reached} == dict.fromkeys(reached, True), epoch


def test_a_second_process_waits_and_takes_over_when_the_first_dies(tmp_path, monkeypatch, capsys):
    whole = outcome(*train(tmp_path / "whole", "stopping"))
    first = start(tmp_path / "runs", "--stall", "3")
    waits = threading.Event()
    monkeypatch.setattr(fitting, "say", lambda line: waits.set() if "waits" in line else None)
    while not list((tmp_path / "runs").rglob("state.npz")):
        assert first.poll() is None, first.communicate()[1]
        threading.Event().wait(0.1)

    def kill_once_waited_for():
        waits.wait(120)
        first.kill()

    killer = threading.Thread(target=kill_once_waited_for)
    killer.start()
    model, run = train(tmp_path / "runs", "stopping")
    killer.join()
    killed(first)
    assert waits.is_set()
    assert outcome(model, run) == whole
    assert run.record["resumed"] == 1


@pytest.mark.long
def test_of_two_processes_on_one_key_one_trains(tmp_path):
    both = [start(tmp_path) for _ in range(2)]
    first, second = map(finish, both)
    assert first == second
    (folder,) = (tmp_path / "tests").iterdir()
    assert runs.load(folder).record["resumed"] == 0


def test_a_run_that_goes_on_elsewhere_names_every_machine_once(tmp_path, monkeypatch):
    for until, cpu in ((1, "slow"), (2, "fast"), (3, "slow"), (None, "fast")):
        here = {"cpu": cpu, "vectors": None, "cores": 2, "gpu": None}
        monkeypatch.setattr(machine, "hardware", lambda here=here: here)
        _, run = train(tmp_path, "last", until=until)
        runs.validate(run.record)
    hardware = run.record["hardware"]
    assert (hardware["cpu"], [found["cpu"] for found in hardware["earlier"]]) == ("fast", ["slow"])
    assert score_page.hardware(run) == "fast, 2 cores, before on slow, 2 cores"


def test_a_run_that_goes_on_keeps_the_moment_it_first_started(tmp_path, monkeypatch):
    for until, now in ((1, "2026-01-01T00:00:00Z"), (None, "2026-01-02T00:00:00Z")):
        monkeypatch.setattr(fitting, "_now", lambda now=now: now)
        _, run = train(tmp_path, "last", until=until)
    assert (run.record["started"], run.record["finished"]) == ("2026-01-01T00:00:00Z", now)


def test_a_record_cut_short_is_set_aside_and_training_goes_on(tmp_path):
    _, run = train(tmp_path, "last", until=3)
    file = run.folder / RECORD
    file.write_text(file.read_text()[:100])
    with pytest.raises(RunError, match="cut short"):
        train(tmp_path, "last")
    (aside,) = run.folder.glob(f"{RECORD}.damaged-*")
    assert len(aside.read_text()) == 100
    model, again = train(tmp_path, "last")
    assert again.record["resumed"] == 1
    assert outcome(model, again) == outcome(*train(tmp_path / "whole", "last"))


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("state.npz", lambda content: len(content) // 2),
        ("best", lambda content: len(content) // 2),
        ("state.npz", lambda content: content.index(b"PK\1\2") + 10),  # by which method it is compressed
    ],
)
def test_a_damaged_state_is_reported_set_aside_and_not_used(tmp_path, damage, place, capsys):
    _, run = train(tmp_path, "cosine", until=2)
    (file,) = run.folder.glob(f"{damage}*")
    content = bytearray(file.read_bytes())
    content[place(content)] ^= 0xFF
    file.write_bytes(content)
    files = {file.name: file.read_bytes() for file in run.folder.glob("*.npz")}
    model, again = train(tmp_path, "cosine")
    assert "damaged" in capsys.readouterr().err
    assert again.record["resumed"] == 0
    aside = {file.name.split(".damaged-")[0]: file.read_bytes() for file in run.folder.glob("*.damaged-*")}
    assert aside == files
    assert outcome(model, again) == outcome(*train(tmp_path / "whole", "cosine"))


def test_a_state_that_cannot_be_read_for_a_moment_stops_the_run_and_is_kept(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    _, run = train(tmp_path, "cosine", until=2)
    files = {file.name: file.read_bytes() for file in run.folder.glob("*.npz")}
    with monkeypatch.context() as patched:
        patched.setattr(np, "load", broken)
        with pytest.raises(RunError, match=r"state\.npz in .* cannot be read \(Input/output error\)"):
            train(tmp_path, "cosine")
    assert {file.name: file.read_bytes() for file in run.folder.glob("*.npz*")} == files
    model, again = train(tmp_path, "cosine")
    assert again.record["resumed"] == 1
    assert outcome(model, again) == outcome(*train(tmp_path / "whole", "cosine"))


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"short")])
def test_weights_that_are_not_those_of_the_record_are_not_trusted(tmp_path, images, damage):
    run = training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    damage(run.folder / fitting.WEIGHTS)
    with pytest.raises(RunError, match="weights of tests/tiny are missing or not those"):
        training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    again = training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert again.history["loss"].tolist() == run.history["loss"].tolist()


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path, images):
    recipe = QUICK.but(optimizer="sgd", lr=1e30)
    for says in (r"epoch 1[\s\S]*lower rate", r"failed before[\s\S]*change the recipe"):
        with pytest.raises(RunError, match=says):
            training.fit(tiny_model(), *images, recipe, run="tests/tiny", runs=tmp_path)
    (folder,) = (tmp_path / "tests").iterdir()
    run = runs.load(folder)
    runs.validate(run.record)
    assert run.status == "failed"
    assert "NaN or infinite" in run.record["why"]


@pytest.fixture
def spoil(monkeypatch):
    """Let the validation loss be NaN after some epochs, counted from 1."""
    complete = training.callbacks.Opening.on_epoch_end

    def start(*epochs):
        def spoilt(self, epoch, logs):
            complete(self, epoch, logs)
            if epoch + 1 in epochs:
                logs["val_loss"] = float("nan")

        monkeypatch.setattr(training.callbacks.Opening, "on_epoch_end", spoilt)

    return start


BY_LOSS = QUICK.but(epochs=3, monitor="val_loss", patience=1, schedule="plateau", plateau_patience=1)


def test_a_number_that_is_nan_is_never_the_best(tmp_path, images, spoil):
    spoil(1)
    training.fit(tiny_model(), *images, BY_LOSS, run="tests/tiny", runs=tmp_path, until=1)
    run = training.fit(tiny_model(), *images, BY_LOSS, run="tests/tiny", runs=tmp_path)
    runs.validate(run.record)
    assert run.epochs == 3 and run.best_epoch > 1


def test_a_run_without_any_best_epoch_fails(tmp_path, images, spoil):
    spoil(1, 2, 3)
    for says in (r"val_loss was NaN or infinite after every epoch[\s\S]*lower rate", "failed before"):
        with pytest.raises(RunError, match=says):
            training.fit(tiny_model(), *images, BY_LOSS, run="tests/tiny", runs=tmp_path)
    last = BY_LOSS.but(restore_best=False)
    assert training.fit(tiny_model(), *images, last).best_epoch is None


def test_memory_that_runs_out_names_the_batch_and_the_next_lower(tmp_path, images, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", full)
        with pytest.raises(training.OutOfMemory, match=r"batches of 16[\s\S]*batch_size=8"):
            training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    (folder,) = (tmp_path / "tests").iterdir()
    assert runs.load(folder).status == "failed"
    again = training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert again.status == "done"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(MemoryError(), True), (RuntimeError("CUDA out of memory"), True), (ValueError("shapes"), False)],
)
def test_only_a_lack_of_memory_is_taken_for_one(error, expected):
    assert failures.ran_out(error) is expected
    assert (failures.explained(error, QUICK) is error) is not expected


def test_an_error_of_another_kind_passes_and_is_recorded(tmp_path, images, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a shape")

    monkeypatch.setattr(keras.Model, "fit", broken)
    with pytest.raises(ValueError, match="a shape"):
        training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path)
    (folder,) = (tmp_path / "tests").iterdir()
    assert "a shape" in runs.load(folder).record["why"]


def test_no_epochs_leave_the_model_as_it_is(tmp_path, images):
    model = tiny_model()
    before = model.get_weights()
    run = training.fit(model, *images, QUICK.but(epochs=0), run="tests/tiny", runs=tmp_path)
    assert (run.status, run.epochs, run.best_epoch) == ("done", 0, None)
    runs.validate(run.record)
    assert same(before, model.get_weights())


def two_headed(seed: int = 0) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    heads = {
        head: keras.layers.Dense(5, kernel_initializer=keras.initializers.GlorotUniform(seed), name=head)(x)
        for head in data.HEADS
    }
    return keras.Model(inputs, heads)


@pytest.mark.parametrize(("keep", "best"), [(None, 1), ("val_accuracy", 3)])
def test_weights_are_kept_by_one_number_while_another_is_watched(images, monkeypatch, keep, best):
    """The losses and accuracies of validation are put in place of the measured ones, so that they part."""
    measured = training.callbacks.Opening.on_epoch_end

    def told(self, epoch, logs):
        measured(self, epoch, logs)
        logs.update(val_loss=[1.0, 2.0, 3.0][epoch], val_accuracy=[0.1, 0.2, 0.3][epoch])

    monkeypatch.setattr(training.callbacks.Opening, "on_epoch_end", told)
    run = training.fit(tiny_model(), *images, QUICK.but(epochs=3, monitor="val_loss", keep=keep))
    assert list(run.history["val_loss"]) == [1.0, 2.0, 3.0]
    assert run.best_epoch == best


def test_two_heads_are_watched_by_their_mean_accuracy(tmp_path, images):
    parts = data.pair_groups(images[0])
    stream = data.PairStream(*parts, n=60, seed=1)
    valid = data.mix_pairs(*parts, n=40, seed=2)
    recipe = QUICK.but(epochs=4, patience=2, lr=3e-2)
    whole = training.fit(two_headed(), stream, valid, recipe)
    history = whole.history
    for part in ("", "val_"):
        means = (history[f"{part}first_accuracy"] + history[f"{part}second_accuracy"]) / 2
        assert np.allclose(history[f"{part}accuracy"], means)
    assert history["val_accuracy"][whole.best_epoch - 1] == history["val_accuracy"].max()
    training.fit(two_headed(), stream, valid, recipe, run="tests/two", runs=tmp_path, until=2)
    resumed = training.fit(two_headed(), stream, valid, recipe, run="tests/two", runs=tmp_path)
    assert resumed.history.drop(columns="seconds").equals(history.drop(columns="seconds"))
    runs.validate(resumed.record)


def test_a_label_beside_the_image_reaches_the_model(images):
    classifier = models.build("cnn1", input_shape=(8, 8, 3))
    judge = models.build("label_cleaner", classifier=classifier)
    train_set, valid = (part.with_hints() for part in images)
    run = training.fit(judge, train_set, valid, QUICK.but(epochs=1))
    assert np.isfinite(run.history["loss"]).all()
    with pytest.raises(DataError, match="without hints"):
        training.fit(judge, *images, QUICK)


def test_images_without_validation_train_by_a_recipe_that_needs_none(images):
    with pytest.raises(RecipeError, match=r"no validation images[\s\S]*monitor='accuracy'"):
        training.fit(tiny_model(), images[0], None, QUICK)
    run = training.fit(tiny_model(), images[0], None, RECIPES["report001_cnn"].but(epochs=1))
    assert set(run.history) == {"epoch", "loss", "accuracy", "lr", "seconds"}
    assert run.record["data"]["valid"] is None
    best = training.fit(tiny_model(), images[0], None, QUICK.but(monitor="accuracy"))
    assert best.best_epoch is not None


def test_targets_teach_in_the_place_of_labels(images):
    train_set, valid = images
    one_hot, moved = np.eye(10)[train_set.labels], np.roll(train_set.labels, 1)
    taught = [
        list(
            training.fit(tiny_model(), train_set.relabel(named), valid, QUICK, targets=targets).history[
                "loss"
            ]
        )
        for named, targets in ((train_set.labels, None), (moved, one_hot), (moved, None))
    ]
    assert taught[0] == taught[1] != taught[2]


def test_validation_by_other_classes_or_in_another_order_is_refused(images):
    train, valid = images
    turned = data.ImageSet(valid.images, valid.labels, valid.classes[::-1], valid.source)
    with pytest.raises(DataError, match="same classes in the same order"):
        training.fit(tiny_model(), train, turned, QUICK)


@pytest.mark.parametrize("targets", [np.ones(72), np.ones((3, 10)), -np.ones((72, 10)), np.zeros((72, 10))])
def test_targets_are_a_row_of_classes_an_image(images, targets):
    with pytest.raises(DataError, match="Targets of shape"):
        training.fit(tiny_model(), *images, QUICK, targets=targets)


def test_statistics_of_the_training_images_come_before_training(images):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Normalization()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    training.fit(model, *images, QUICK.but(epochs=0))
    mean = np.ravel(model.layers[1].mean)
    assert np.allclose(mean, images[0].images.mean(axis=(0, 1, 2)), rtol=1e-3)


def test_whitening_and_every_head_keep_thirty_two_bits_while_training():
    model = models.build("whitened", classes={"first": 5, "second": 5}, joint=(5, 5))
    with compiling.precision(model, "mixed_bfloat16"):
        exact = {layer.name for layer in model.layers if layer.compute_dtype == "float32"}
        fewer = {layer.name for layer in model.layers if layer.compute_dtype == "bfloat16"}
    assert exact == {"whiten", "logits", "first", "second"}
    assert len(fewer) > 10
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_bfloat16_is_for_training_only(images):
    model = tiny_model()
    dtypes = []
    layer = model.layers[3]
    call = layer.call
    layer.call = lambda inputs: dtypes.append(keras.backend.standardize_dtype(inputs.dtype)) or call(inputs)
    run = training.fit(model, *images, QUICK.but(precision="mixed_bfloat16"))
    assert "bfloat16" in dtypes
    assert np.isfinite(run.history["val_loss"]).all()
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights} == {"float32"}
    dtypes.clear()
    model.predict(images[1].images, verbose=0)
    assert set(dtypes) == {"float32"}


def test_a_warm_start_is_a_run_of_its_own(tmp_path, images):
    model = tiny_model()
    first = training.fit(model, *images, QUICK, run="tests/tiny", runs=tmp_path)
    second = training.fit(model, *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert first.key != second.key
    warm = tiny_model()
    training.fit(warm, *images, QUICK, run="tests/tiny", runs=tmp_path)
    again = training.fit(warm, *images, QUICK, run="tests/tiny", runs=tmp_path)
    assert again.key == second.key
    assert same(weights_of(warm), weights_of(model))


def head_on_frozen(seed: int = 0) -> keras.Model:
    model = tiny_model(dropout=0, seed=seed)
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


def test_frozen_layers_may_be_computed_once(tmp_path, images):
    every, once = head_on_frozen(), head_on_frozen()
    before = once.get_weights()
    expected = training.fit(every, *images, QUICK)
    options = {"run": "tests/head", "runs": tmp_path, "frozen_once": True}
    run = training.fit(once, *images, QUICK, **options)
    assert np.allclose(run.history["loss"], expected.history["loss"], rtol=1e-4)
    for mine, theirs in zip(once.get_weights(), every.get_weights(), strict=True):
        assert np.allclose(mine, theirs, atol=1e-4)
    assert same(before[:-2], once.get_weights()[:-2])
    assert not np.array_equal(before[-2], once.get_weights()[-2])
    loaded = head_on_frozen()
    assert training.fit(loaded, *images, QUICK, **options).record == run.record
    assert same(once.get_weights(), loaded.get_weights())
    assert run.record["model"]["parameters"]["total"] == every.count_params()
    with pytest.raises(RecipeError, match="cannot be computed once"):
        training.fit(once, *images, QUICK.but(augment="basic"), frozen_once=True)
    with pytest.raises(ModelError, match="No layer"):
        training.fit(tiny_model(), *images, QUICK, frozen_once=True)


def test_features_are_kept_by_weights_and_images(tmp_path, images):
    model = head_on_frozen()
    first = training.features(model, images[0], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert np.array_equal(training.features(model, images[0], cache=tmp_path), first)
    assert file.stat().st_mtime_ns == written
    training.features(model, images[1], cache=tmp_path)
    training.features(head_on_frozen(seed=3), images[0], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert first.shape == (72, 6 * 6 * 8)
    named = training.features(model, images[0].images, model.layers[2].name)
    assert named.shape == (72, 6, 6, 8)
    cut = [images[0].take(slice(50)), images[0].take(slice(50, None))]
    kept = training.features_of_each(model, cut, cache=tmp_path)
    np.testing.assert_allclose(np.concatenate(kept), first, atol=1e-5)
    again = training.features_of_each(model, [*reversed(cut), images[0]], cache=tmp_path)
    assert [len(values) for values in again] == [len(cut[1]), 50, 72]
    assert len(list(tmp_path.iterdir())) == 5


def test_a_random_frozen_part_is_not_computed_once():
    model = tiny_model()
    for layer in model.layers[:-1]:
        layer.trainable = False
    with pytest.raises(ModelError, match="random in training"):
        split_at_frozen(model)


def test_every_image_is_judged_by_a_model_that_did_not_see_it(tmp_path, images, monkeypatch):
    seen = []
    fit = folds.fit
    monkeypatch.setattr(
        folds, "fit", lambda model, *parts, **kw: seen.append(parts) or fit(model, *parts, **kw)
    )
    numbered = images[0].take(np.arange(30))
    pixels = numbered.images.copy()
    pixels[:, 0, 0, 0] = np.arange(30)
    numbered = data.ImageSet(pixels, numbered.labels, numbered.classes, numbered.source)
    asked = []
    outputs = evaluation.outputs
    monkeypatch.setattr(evaluation, "outputs", lambda model, x: asked.append(x) or outputs(model, x))
    probabilities = training.out_of_fold(
        tiny_model, numbered, QUICK.but(epochs=1), folds=3, seed=1, run="tests/tiny", runs=tmp_path
    )
    assert probabilities.shape == (30, 10)
    assert np.allclose(probabilities.sum(1), 1)
    judged = []
    for (train_set, valid, _), x in zip(seen, asked, strict=True):
        inside = {*train_set.images[:, 0, 0, 0], *valid.images[:, 0, 0, 0]}
        judged += [*x[:, 0, 0, 0]]
        assert not inside & {*x[:, 0, 0, 0]}
        assert len(inside) == 20
    assert sorted(judged) == list(range(30))
    assert sorted(folder.name.split("-")[0] for folder in (tmp_path / "tests").iterdir()) == [
        "tiny_fold1of3",
        "tiny_fold2of3",
        "tiny_fold3of3",
    ]
    with pytest.raises(DataError, match="31 folds of 30"):
        training.out_of_fold(tiny_model, numbered, QUICK, folds=31, seed=1)


def test_a_recipes_smoothing_momentum_and_plateau_reach_training(images):
    smooth = fitting.batches_of(images[0], QUICK.but(label_smoothing=0.1), None)[0][1]
    classes = len(images[0].classes)
    assert smooth.max() == pytest.approx(0.9 + 0.1 / classes) and smooth.min() == pytest.approx(0.1 / classes)
    sgd = QUICK.but(optimizer="sgd", momentum=0.9)
    assert not compiling.optimizer(sgd, 4).nesterov
    assert compiling.optimizer(sgd.but(nesterov=True), 4).nesterov
    falling = {"plateau_factor": 0.3, "plateau_patience": 4, "plateau_min_delta": 0.01, "min_lr": 1e-5}
    recipe = QUICK.but(schedule="plateau", **falling)
    with pytest.MonkeyPatch.context() as patched:
        seen = []
        patched.setattr(keras.Model, "fit", lambda *_, callbacks, **__: seen.extend(callbacks) or stop())
        with pytest.raises(KeyboardInterrupt):
            training.fit(tiny_model(), *images, recipe)
    (plateau,) = [found for found in seen if isinstance(found, keras.callbacks.ReduceLROnPlateau)]
    assert (plateau.factor, plateau.patience, plateau.min_delta, plateau.min_lr) == (0.3, 4, 0.01, 1e-5)


def stop():
    raise KeyboardInterrupt


def test_the_rate_finder_leaves_the_model_as_it_was(images):
    model = tiny_model(dropout=0, normalization=False)
    before = model.get_weights()
    rates = training.find_lr(model, images[0], QUICK, low=1e-4, high=1e3, steps=90)
    assert same(before, model.get_weights())
    assert 3e-4 < rates.suggestion < 1
    means, mean = [], 0.0
    for step, loss in enumerate(rates.table["loss"], 1):
        mean = 0.8 * mean + 0.2 * loss
        means.append(mean / (1 - 0.8**step))
    np.testing.assert_allclose(rates.table["smooth"], means)
    assert 3 * rates.suggestion == pytest.approx(rates.table["lr"][int(np.argmin(means))])
    assert rates.table["lr"].is_monotonic_increasing
    assert len(rates.table) < 90, "a rate of 1000 should have ended the search"
    assert f"{rates.suggestion:.1e}" in str(rates)


@pytest.mark.parametrize("wrong", [{"low": 0}, {"low": 1.0, "high": 0.1}, {"steps": 0}])
def test_a_rate_finder_with_nothing_to_search_says_so(images, wrong):
    with pytest.raises(RunError, match="nothing to search"):
        training.find_lr(tiny_model(), images[0], QUICK, **wrong)


def losses_at_rates(model: keras.Model, train_set: data.ImageSet, recipe: Recipe = QUICK, **given) -> list:
    rates = training.find_lr(model, train_set, recipe, low=1e-5, high=1e-4, steps=3, **given)
    return rates.table["loss"].tolist()


def test_the_rate_finder_sees_images_as_training_does(images):
    train_set, _ = images
    fresh, adapted = (models.build("mlp", input_shape=(8, 8, 3), classes=10) for _ in range(2))
    models.adapt(adapted, train_set.images)
    before = adapted.get_weights()
    assert losses_at_rates(fresh, train_set) == losses_at_rates(adapted, train_set)
    assert same(before, fresh.get_weights())


def test_the_rate_finder_takes_partners_and_targets_as_training_does(images):
    train_set, _ = images
    mixed = QUICK.but(augment="mixup")
    near, far = (losses_at_rates(tiny_model(), train_set, mixed.but(partners=kind)) for kind in PARTNERS)
    assert near != far
    moved = train_set.relabel(np.roll(train_set.labels, 1))
    one_hot = np.eye(10)[train_set.labels]
    assert losses_at_rates(tiny_model(), moved, targets=one_hot) == losses_at_rates(tiny_model(), train_set)
    with pytest.raises(RecipeError, match="has no targets"):
        losses_at_rates(tiny_model(), train_set, QUICK.but(loss="forward"))


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_give_the_loss_curve_of_one(tmp_path, backend):
    flags = "--xla_force_host_platform_device_count=2"
    found = finish(start(tmp_path, "--devices", "2", backend=backend, XLA_FLAGS=flags))
    assert (len(found["1"]), found["places"]) == (9, 2)
    assert np.allclose(found["1"], found["2"], rtol=2e-3), found


@pytest.mark.parametrize(
    ("devices", "error", "says"),
    [(0, RecipeError, "1 or more"), (3, RecipeError, "multiple of 3"), (16, RunError, "16 devices")],
)
def test_devices_that_are_not_there_are_refused(images, devices, error, says):
    with pytest.raises(error, match=says):
        training.fit(tiny_model(), *images, QUICK, devices=devices)


def test_what_does_not_fit_is_refused_before_training(images):
    train_set, valid = images
    with pytest.raises(ModelError, match=r"tells 5 and 5 classes[\s\S]*have 10"):
        training.fit(two_headed(), train_set, valid, QUICK)
    with pytest.raises(ModelError, match=r"takes images of \(8, 8, 3\)"):
        big = data.synthetic("cifar10", 20, 0)
        training.fit(tiny_model(), big, valid, QUICK)
    with pytest.raises(DataError, match="no validation images"):
        training.fit(tiny_model(), train_set, valid.take([]), QUICK)
    with pytest.raises(RunError, match="chapter/name"):
        training.fit(tiny_model(), train_set, valid, QUICK, run="vgg")
    with pytest.raises(RecipeError, match="has no targets"):
        training.fit(tiny_model(), train_set, valid, QUICK.but(loss="forward"))


@pytest.mark.parametrize("until", [0, -1])
def test_a_run_until_before_its_first_epoch_is_refused(tmp_path, images, until):
    with pytest.raises(ParameterError, match=rf"until is {until}\.[\s\S]*1 epoch or more"):
        training.fit(tiny_model(), *images, QUICK, run="tests/tiny", runs=tmp_path, until=until)
    assert not list(tmp_path.iterdir())


def logits_and_labels(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6, 4)).astype("float32")
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return logits, p, np.eye(4, dtype="float32")[rng.integers(4, size=6)]


def test_generalised_cross_entropy_is_that_of_the_paper():
    logits, p, y = logits_and_labels()
    own = (p * y).sum(1)
    loss = compiling.loss(QUICK.but(loss="gce", loss_options={"q": 0.7}))
    assert float(loss(y, logits)) == pytest.approx(((1 - own**0.7) / 0.7).mean(), rel=1e-5)
    near_zero = compiling.GeneralizedCrossEntropy(1e-4)
    assert float(near_zero(y, logits)) == pytest.approx(-np.log(own).mean(), rel=1e-3)
    with pytest.raises(RecipeError, match="q is 0"):
        compiling.GeneralizedCrossEntropy(0)


def test_forward_correction_looks_through_the_noise():
    logits, p, y = logits_and_labels()
    matrix = np.full((4, 4), 0.1) + np.eye(4) * 0.6
    loss = compiling.loss(QUICK.but(loss="forward"))
    likely = labels.likelihoods(y.argmax(1), matrix)
    assert float(loss(likely, logits)) == pytest.approx(-np.log((p @ matrix * y).sum(1)).mean(), rel=1e-5)
    assert float(loss(y, logits)) == pytest.approx(float(compiling.loss(QUICK)(y, logits)), rel=1e-5)


def rates(recipe: Recipe, steps_per_epoch: int = 10) -> list[float]:
    schedule = compiling.rate(recipe, steps_per_epoch)
    return [float(schedule(step)) for step in range(recipe.epochs * steps_per_epoch + 1)]


def test_schedules_rise_and_fall_as_they_should():
    cosine = rates(QUICK.but(epochs=10, schedule="cosine", lr=0.1))
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[50] == pytest.approx(0.05, rel=1e-3)
    assert cosine[-1] == pytest.approx(0, abs=1e-8)
    warm = rates(QUICK.but(epochs=10, schedule="cosine", lr=0.1, warmup=2, min_lr=0.01))
    assert warm[0] == pytest.approx(0)
    assert np.argmax(warm) == 20
    assert warm[-1] == pytest.approx(0.01, rel=1e-3)
    cycle = rates(QUICK.but(epochs=10, schedule="onecycle", lr=0.1))
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert np.argmax(cycle) == 30
    steady = rates(QUICK.but(epochs=10, warmup=1, lr=0.1))
    assert steady[0] == pytest.approx(0.01)
    assert steady[10:] == pytest.approx([0.1] * 91)
    assert compiling.rate(QUICK, 10) == QUICK.lr


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_optimizers_take_what_the_recipe_says(name):
    decay = 0.02 if name != "adam" else 0.0
    momentum = 0.9 if name in ("sgd", "rmsprop") else 0.0
    made = compiling.optimizer(QUICK.but(optimizer=name, weight_decay=decay, momentum=momentum, ema=0.99), 10)
    assert made.__class__.__name__.lower() == name
    assert (made.weight_decay or 0) == decay
    assert getattr(made, "momentum", 0) == momentum
    assert (made.use_ema, made.ema_momentum) == (True, 0.99)


def test_decoupled_decay_is_the_learning_rate_times_the_decay():
    variable = keras.Variable(np.ones(3, "float32"))
    made = compiling.optimizer(QUICK.but(optimizer="adamw", lr=1e-3, weight_decay=0.1), 10)
    made.apply([keras.ops.zeros(3)], [variable])
    assert np.allclose(keras.ops.convert_to_numpy(variable), 1 - 1e-4)


@pytest.mark.parametrize(("asked", "lines"), [("log", 1), ("none", 0)])
def test_progress_is_quiet_outside_a_terminal(images, capsys, monkeypatch, asked, lines):
    monkeypatch.setenv("LABKIT_PROGRESS", asked)
    training.fit(tiny_model(), *images, QUICK)
    assert len(capsys.readouterr().out.splitlines()) == lines


def test_progress_follows_where_it_is_shown(monkeypatch):
    monkeypatch.delenv("LABKIT_PROGRESS", raising=False)
    assert progress.style() == "log"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert progress.style() == "bar"
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    assert progress.style() == "line"
    monkeypatch.setenv("LABKIT_PROGRESS", "loud")
    with pytest.raises(ParameterError, match="bar or line or log or none"):
        progress.style()


def test_a_notebook_keeps_one_line_that_is_rewritten(images, monkeypatch):
    shown, rewritten = [], []

    class Handle:
        def update(self, content, raw, metadata):
            rewritten.append(content["text/plain"])

    notebook = ModuleType("IPython.display")
    notebook.display = lambda content, **_: shown.append(content["text/plain"]) or Handle()
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setenv("LABKIT_PROGRESS", "line")
    training.fit(tiny_model(), *images, QUICK)
    assert [line.split(",")[0] for line in shown + rewritten] == [
        "unkept/tiny: epoch 1 of 2",
        "unkept/tiny: epoch 2 of 2",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run a/b --data /srv/me/cifar/ --seed 0", "run a/b --data cifar --seed 0"),
        ("--data=/srv/cifar --data ~/cifar", "--data=cifar --data cifar"),
        (r"--data C:\Users\me\cifar", "--data cifar"),
        (
            "no file '/a/b c.csv', see https://example.org/a/b",
            "no file 'b c.csv', see https://example.org/a/b",
        ),
        ("../x/y and ./z/w are relative", "../x/y and ./z/w are relative"),
    ],
)
def test_places_of_this_machine_are_left_out(text, says):
    assert fitting.without_paths(text) == says


def test_a_command_is_recorded_without_places_of_this_machine(images, monkeypatch):
    monkeypatch.setenv("LABKIT_COMMAND", "python -m labkit run tests/tiny --data /srv/me/cifar --seed 0")
    run = training.fit(tiny_model(), *images, QUICK.but(epochs=0))
    assert run.record["command"] == "python -m labkit run tests/tiny --data cifar --seed 0"


def test_the_widest_vectors_of_a_processor_are_recorded():
    assert machine._widest("fpu avx avx2 avx512f avx512_bf16") == "AVX-512"
    assert machine._widest("fpu avx avx2") == "AVX2"
    assert machine._widest("fpu sse2") is None and machine._widest("") is None
    assert machine.hardware()["vectors"] in (None, *machine.VECTORS.values())
