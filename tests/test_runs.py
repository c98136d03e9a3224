import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labkit import chapters, experiments, runs
from labkit.__main__ import main
from labkit.book import verify
from labkit.errors import RunError
from labkit.predictions import Predictions
from labkit.runs.record import RECORD, dumps, write
from labkit.runs.table import row

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted((ROOT / "results").rglob("*.json"))
DIGEST = "0123456789abcdef" * 4


def images(n: int) -> dict:
    return {"source": "synthetic, seed 0", "fingerprint": DIGEST, "n": n}


def record(**changes) -> dict:
    """A record of a finished run of three epochs."""
    made = {
        "schema": runs.VERSION,
        "name": "noisy_cifar/vgg",
        "key": "0123456789abcdef",
        "status": "done",
        "why": None,
        "command": "python -m labkit run noisy_cifar/vgg --profile full --data noisy_cifar --seed 0",
        "model": {
            "name": "vgg",
            "parameters": {"total": 12, "trainable": 10, "non_trainable": 2},
            "macs": 1000,
            "initial_weights": DIGEST,
        },
        "recipe": {
            "epochs": 5,
            "batch_size": 8,
            "optimizer": "adam",
            "lr": 1e-3,
            "schedule": "constant",
            "precision": "float32",
        },
        "data": {"train": images(100), "valid": images(20)},
        "seed": 0,
        "backend": "tensorflow",
        "devices": 1,
        "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
        "versions": {"keras": "3.15.1"},
        "git": {"commit": "abc", "changed": False},
        "source": DIGEST,
        "history": {
            "epoch": [1, 2, 3],
            "loss": [2.0, 1.5, 1.0],
            "accuracy": [0.2, 0.4, 0.6],
            "val_loss": [2.0, 1.6, 1.7],
            "val_accuracy": [0.2, 0.35, 0.3],
            "lr": [1e-3, 1e-3, 1e-9],
            "seconds": [1.0, 1.0, 1.5],
        },
        "best_epoch": 2,
        "stopped_early": True,
        "resumed": 0,
        "seconds": 3.5,
        "seconds_per_epoch": 1.0,
        "images_per_second": 100.0,
        "peak_memory_bytes": 10**9,
        "started": "2025-01-01T00:00:00Z",
        "finished": "2025-01-01T00:00:04Z",
        "metrics": {},
    }
    return made | changes


def predictions(accuracy: float = 0.5, n: int = 20) -> Predictions:
    labels = np.arange(n) % 2
    chosen = np.where(np.arange(n) < accuracy * n, labels, 1 - labels)
    return Predictions(np.eye(2)[chosen] * 0.8 + 0.1, labels, ("cat", "dog"), "synthetic, seed 0", DIGEST)


def kept(folder: Path, **changes) -> runs.Run:
    made = record(**changes)
    place = folder / f"{made['name']}-{made['key']}"
    write(place / RECORD, made)
    return runs.load(place)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_published_record_fits_the_schema_and_its_place(file):
    published = json.loads(file.read_text())
    runs.validate(published, name=file.name)
    assert published["status"] == "done"
    chapter, name = published["name"].split("/")
    assert file.parent.name == chapter
    assert re.fullmatch(rf"{re.escape(name)}-seed{published['seed']}(-\w+)?", file.stem)
    experiment, given = verify.command(published)
    assert experiment in experiments.names(f"{chapter}/*")
    places = {"data", "runs", "weights"} & given.keys()  # of the machine that it was made on
    chapters.checked(chapter, {name: value for name, value in given.items() if name not in places})


def test_a_whole_record_is_valid():
    runs.validate(record())


BREAKS = {
    "status": lambda r: r.update(status="finished"),
    "name": lambda r: r.update(name="vgg"),
    "key": lambda r: r.update(key="short"),
    "schema": lambda r: r.update(schema=99),
    "recipe": lambda r: r["recipe"].pop("lr"),
    "seed": lambda r: r.update(seed=-1),
    "started": lambda r: r.update(started="yesterday"),
    "fingerprint": lambda r: r["data"]["train"].update(fingerprint="abc"),
    "parameters": lambda r: r["model"]["parameters"].update(total="many"),
    "history.seconds": lambda r: r["history"].update(seconds=["fast"] * 3),
    "different lengths": lambda r: r["history"]["loss"].pop(),
    "count from 1": lambda r: r["history"].update(epoch=[0, 1, 2]),
    "best_epoch": lambda r: r.update(best_epoch=4),
    "why": lambda r: r.update(status="failed"),
    "path of one machine": lambda r: r.update(command="labkit run x --data /data/me/cifar"),
    "data.train.source": lambda r: r["data"]["train"].update(source="folder C:\\data"),
    "accuracy": lambda r: r["metrics"].update(test={**predictions().summary(), "accuracy": 1.5}),
    "does not give the accuracy": lambda r: r["metrics"].update(
        test={**predictions().summary(), "accuracy": 0.55}
    ),
    "does not fit": lambda r: r["metrics"].update(test={**predictions().summary(), "classes": ["cat"]}),
}


@pytest.mark.parametrize("word", BREAKS)
def test_a_broken_record_is_refused_by_name(word):
    broken = copy.deepcopy(record())
    BREAKS[word](broken)
    with pytest.raises(RunError, match=word):
        runs.validate(broken)


@pytest.mark.parametrize("field", runs.SCHEMA["required"])
def test_a_record_without_a_field_is_refused(field, tmp_path):
    broken = record()
    del broken[field]
    with pytest.raises(RunError, match=field):
        runs.validate(broken)
    write(tmp_path / RECORD, broken)
    with pytest.raises(RunError, match=field):
        runs.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 200, -3])
def test_a_record_cut_short_is_reported_and_left_where_it_is(tmp_path, keep):
    run = kept(tmp_path)
    file = run.folder / RECORD
    file.write_text(file.read_text()[:keep])
    with pytest.raises(RunError, match=r"cut short or damaged[\s\S]*train again"):
        runs.load(run.folder)
    assert file.exists()
    table = runs.results(folders=[tmp_path])
    assert table["status"].tolist() == ["damaged"]


def test_a_missing_record_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"no record run\.json"):
        runs.load(tmp_path)


def test_scores_are_stored_in_the_record(tmp_path):
    run = kept(tmp_path).score("test", predictions(0.75))
    again = runs.load(run.folder)
    assert again.metrics["test"]["accuracy"] == 0.75
    assert again.metrics["test"]["confusion"] == [[8, 2], [3, 7]]
    runs.validate(again.record)
    assert "test accuracy 0.7500" in str(again)


def test_scores_of_another_process_are_kept(tmp_path):
    first = kept(tmp_path)
    runs.load(first.folder).score("valid", predictions())
    assert set(first.score("test", predictions()).metrics) == {"valid", "test"}


def test_a_run_that_is_not_kept_can_be_scored():
    run = runs.Run("noisy_cifar/vgg", "0" * 16, None, record())
    assert run.score("test", predictions()).metrics["test"]["n"] == 20
    assert not run.metrics


def test_history_is_a_table_with_one_row_an_epoch(tmp_path):
    history = kept(tmp_path).history
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["val_accuracy"].max() == 0.35


def test_what_is_no_number_is_written_as_null_and_read_as_nan(tmp_path):
    history = record()["history"] | {"loss": [1.0, float("nan"), float("inf")]}
    run = kept(tmp_path, history=history)
    assert run.record["history"]["loss"] == [1.0, None, None]
    assert run.history["loss"].isna().tolist() == [False, True, True]


def test_lists_of_numbers_take_one_line_each():
    text = dumps({"a": [1, 2], "b": [[1, 2], [3, 4]], "c": "[\n1]", "d": [], "e": ["x, y", "z"]})
    assert "[1, 2]" in text
    assert "[3, 4]" in text
    assert json.loads(text) == {"a": [1, 2], "b": [[1, 2], [3, 4]], "c": "[\n1]", "d": [], "e": ["x, y", "z"]}


def test_publishing_writes_a_valid_record_without_weights(tmp_path):
    run = kept(tmp_path / "runs", weights=DIGEST).score("test", predictions())
    file = runs.publish(run, tmp_path / "results")
    assert file == tmp_path / "results" / "noisy_cifar" / "vgg-seed0.json"
    published = json.loads(file.read_text())
    runs.validate(published)
    assert "weights" not in published
    assert published["history"]["lr"][-1] == 1e-9
    assert runs.publish(run, tmp_path / "results", variant="jax").stem == "vgg-seed0-jax"
    images = run.record["data"]["train"]
    images["fingerprint"] = "f" * 64
    with pytest.raises(RunError, match=r"this one was given 5 epochs .*, other images\."):
        runs.publish(run, tmp_path / "results")
    images["fingerprint"] = DIGEST
    run.record["recipe"]["epochs"] = 2
    with pytest.raises(
        RunError, match=r"given 5 epochs of 100 images \(.*\) in float32; this one was given 2"
    ):
        runs.publish(run, tmp_path / "results")
    run.record["recipe"] |= {"epochs": 5, "precision": "mixed_bfloat16"}
    with pytest.raises(RunError, match=r"in float32; this one .* in mixed_bfloat16"):
        runs.publish(run, tmp_path / "results")


@pytest.mark.parametrize("status", ["running", "failed"])
def test_only_a_finished_run_is_published(tmp_path, status):
    with pytest.raises(RunError, match=status):
        runs.publish(kept(tmp_path, status=status, why="it diverged"), tmp_path)


def test_the_command_publishes_what_has_ended_and_names_what_has_not(tmp_path, monkeypatch, capsys):
    below = a_project(tmp_path, monkeypatch)
    ended, running = kept(tmp_path / "a"), kept(tmp_path / "b", status="running")
    assert main(["publish", str(running.folder), str(ended.folder), "--variant", "short"]) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/results/noisy_cifar/vgg-seed0-short.json\n"
    assert said.err.startswith("labkit: ") and "is running" in said.err
    assert main(["publish", str(ended.folder)]) == 0 and not [*below.iterdir()]


def a_project(folder, monkeypatch):
    """Work in a folder of a project other than this one."""
    (folder / "results").mkdir()
    (folder / "pyproject.toml").touch()
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    return folder / "below"


def test_a_pattern_of_folders_passes_over_locks_and_searches(tmp_path, monkeypatch, capsys):
    a_project(tmp_path, monkeypatch)
    ended = kept(tmp_path / "a")
    lock, search = tmp_path / "a/tuned.search-0123.lock", tmp_path / "a/tuned.search-0123"
    lock.touch(), search.mkdir()
    assert main(["publish", str(ended.folder), str(lock), str(search)]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["publish", str(search)]) == 2


def test_the_end_of_a_records_name_is_one_word(tmp_path):
    with pytest.raises(RunError, match="one word"):
        runs.publish(kept(tmp_path), tmp_path / "results", variant="../../elsewhere")
    assert not (tmp_path / "results").exists()


def test_the_kept_epoch_is_the_last_where_the_best_is_not_restored(tmp_path):
    best, last = kept(tmp_path / "a"), kept(tmp_path / "b")
    last.record["recipe"]["restore_best"] = False
    assert (best.kept_epoch, best.kept("val_accuracy")) == (2, 0.35)
    assert (last.kept_epoch, last.kept("val_accuracy")) == (3, 0.3)
    assert row(last)["accuracy"] == 0.6 and last.kept("val_top5") is None


def test_a_run_that_no_command_makes_again_is_not_published(tmp_path):
    with pytest.raises(RunError, match="does not say what makes it again"):
        runs.publish(kept(tmp_path, command=None), tmp_path / "results")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["publish", "a", "--varient", "bfloat16"], "Did you mean '--variant'?"),
        (["publish", "--varient=bfloat16", "a"], "Did you mean '--variant'?"),
        (["list", "noisy_cifar/*", "--seed", "3"], "Nothing is known of '--seed'"),
        (["list", "noisy_cifar/*", "animals/*"], "one pattern at most"),
        (["run", "--seed", "3", "noisy_cifar/vgg"], "such as run noisy_cifar/vgg --seed 3"),
        (["run", "cifar100/mlp", "---seed", "3"], "no parameter '_seed'.\nExpected: one of profile"),
        (["run", "cifar100/mlp", "--In", "3"], "no parameter 'In'"),
        (["run", "cifar100/mlp", "--name", "3"], "no parameter 'name'"),
        (["run", "cifar100/mlp", "--runs", __file__], "the path of a folder"),
        (["list", "nonsense*"], "No experiment matches 'nonsense*'"),
    ],
)
def test_the_command_refuses_what_it_would_not_heed(words, says, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert says in said.err and not said.out


def test_a_path_in_a_command_is_not_published(tmp_path):
    run = kept(tmp_path, command="python -m labkit run noisy_cifar/vgg --data /srv/cifar/")
    with pytest.raises(RunError, match="command: holds a path"):
        runs.publish(run, tmp_path / "results")


def test_the_table_counts_a_run_and_its_published_record_once(tmp_path):
    uneven = record()["history"] | {"seconds": [1.5, 0.8, 1.2]}
    run = kept(tmp_path / "runs", history=uneven).score("test", predictions(0.75))
    runs.publish(run, tmp_path / "results")
    kept(tmp_path / "runs", name="noisy_cifar/cct", key="f" * 16, seed=1)
    kept(tmp_path / "runs", name="animals/simple", key="e" * 16)
    table = runs.results("noisy_cifar/*", folders=[tmp_path / "results", tmp_path / "runs"])
    assert table["name"].tolist() == ["noisy_cifar/cct", "noisy_cifar/vgg"]
    assert table["published"].tolist() == [False, True]
    row = table.iloc[1]
    assert (row["loss"], row["val_accuracy"], row["test_accuracy"]) == (1.5, 0.35, 0.75)
    assert row["gap"] == pytest.approx(0.05)
    assert (row["parameters"], row["macs"]) == (12, 1000)
    assert (row["seconds_per_epoch"], row["images_per_second"]) == (0.8, 125)


def test_an_empty_table_has_all_columns(tmp_path):
    assert "test_accuracy" in runs.results(folders=[tmp_path]).columns


def test_the_styled_table_is_html_with_percent_and_the_best_in_bold(tmp_path):
    kept(tmp_path).score("test", predictions(0.75))
    kept(tmp_path, name="noisy_cifar/cct").score("test", predictions(0.5))
    html = runs.styled(runs.results(folders=[tmp_path])).to_html()
    assert "75.00%" in html
    assert html.count("font-weight: bold") == 1


def rerun(accuracy: float, epochs: int = 3, **changes) -> runs.Run:
    history = {name: values[:epochs] for name, values in record()["history"].items()}
    metrics = {"test": predictions(accuracy, 1000).summary()} if epochs == 3 else {}
    made = record(history=history, metrics=metrics, stopped_early=epochs == 3, **changes)
    return runs.Run(made["name"], made["key"], None, made)


@pytest.mark.parametrize(("accuracy", "agrees"), [(0.5, True), (0.53, True), (0.65, False), (0.3, False)])
def test_running_again_agrees_within_chance(accuracy, agrees):
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    verdict = runs.verify(recorded, lambda _: rerun(accuracy))
    assert verdict.agrees == agrees
    assert ("DISAGREES" in str(verdict)) != agrees


def seeds(*shares: float, **recipe) -> list[dict]:
    made = [record(metrics={"test": predictions(share, 1000).summary()}) for share in shares]
    return [one | {"recipe": one["recipe"] | {"seed": seed} | recipe} for seed, one in enumerate(made)]


def test_the_spread_over_seeds_says_what_is_allowed():
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    verdict = runs.verify(recorded, lambda _: rerun(0.55), seeds=seeds(0.46, 0.5, 0.54))
    assert verdict.allowed == pytest.approx(3 * math.sqrt(2) * 0.04 + 0.005)
    assert verdict.basis == "3 standard errors of 3 seeds, plus 0.005"
    assert runs.verify(recorded, lambda _: rerun(0.55), tolerance=0.06).agrees


def test_seeds_that_agree_leave_little_room():
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    close = seeds(0.5, 0.5, 0.501)
    assert runs.verify(recorded, lambda _: rerun(0.505), seeds=close).agrees
    assert not runs.verify(recorded, lambda _: rerun(0.51), seeds=close).agrees


def test_every_committed_record_of_three_seeds_is_verified_by_them():
    found = {}
    for file in sorted((Path(__file__).parents[1] / "results").rglob("*.json")):
        made = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault((made["name"], made["recipe"]["epochs"], made["recipe"]["precision"]), []).append(
            made
        )
    thrice = [records for records in found.values() if len(records) > 2 and records[0]["history"]["epoch"]]
    assert thrice
    for records in thrice:
        again = runs.Run(records[0]["name"], "", None, records[0])
        basis = runs.verify(records[0], lambda _, again=again: again, seeds=records).basis
        assert "seeds" in basis, records[0]["name"]


def test_a_field_that_an_older_record_lacks_makes_no_other_run_of_it():
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    newer = seeds(0.4, 0.5, 0.6, keep=None)
    assert runs.verify(recorded, lambda _: rerun(0.5), seeds=newer).basis.endswith("3 seeds, plus 0.005")


@pytest.mark.parametrize("recipe", [{"epochs": 20}, {"precision": "mixed_bfloat16"}])
def test_longer_runs_and_other_precisions_are_no_seeds_of_a_record(recipe):
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    others = seeds(0.45, 0.55) + seeds(0.2, **recipe)
    assert runs.verify(recorded, lambda _: rerun(0.5), seeds=others).basis.endswith("plus 0.02")


def test_a_part_of_a_run_is_compared_at_its_last_epoch():
    recorded = record(metrics={"test": predictions(0.5, 1000).summary()})
    verdict = runs.verify(recorded, lambda _: rerun(0.5, epochs=2), tolerance=0.0)
    assert (verdict.number, verdict.recorded, verdict.measured) == ("accuracy after 2 epochs", 0.35, 0.35)


def test_another_model_is_no_confirmation():
    other = {**record()["model"], "name": "cct"}
    with pytest.raises(RunError, match="cct"):
        runs.verify(record(), lambda _: rerun(0.5, model=other))


def test_records_are_read_without_keras(tmp_path):
    kept(tmp_path)
    code = (
        "import sys; from labkit import runs; "
        f"print(len(runs.results(folders=[{str(tmp_path)!r}])), 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_the_table_sorts_by_name_and_seed(tmp_path):
    for seed in (2, 0, 1):
        kept(tmp_path, seed=seed, key=f"{seed}" * 16)
    table = runs.results(folders=[tmp_path])
    assert isinstance(table, pd.DataFrame)
    assert table["seed"].tolist() == [0, 1, 2]
