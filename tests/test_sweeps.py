"""Sweeps: what a declaration may say, what a cell asks for, and a sweep that fails, is killed and goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from labkit import chapters, costs, experiments, scoreboard
from labkit.book import execute
from labkit.errors import ParameterError, RunError
from labkit.runs.record import RECORD, read
from labkit.runs.record import write as write_record
from labkit.sweeps import cell as one_cell
from labkit.sweeps import declared, needs, outcome
from labkit.sweeps.cell import _chapter
from labkit.training.callbacks import Diverged

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / "workflow.yaml").read_text(encoding="utf-8"))
COMMAND = [sys.executable, "-m", "labkit.sweeps", "run", "--cores", "2", "--name"]

# Experiments that take no time, and end in every way that one can end.
TOYS = """
import json, os, signal, time
from pathlib import Path
from labkit.experiments.registry import REGISTRY, Experiment, get, names, register, run
from labkit.runs import Run


def finished(settings, name):
    with open("finished", "a") as log:
        log.write(f"{name} {settings.seed}\\n")
    record = json.loads(Path("results/cifar100/mlp-seed0.json").read_text())
    record["name"], record["metrics"]["test"] = f"cifar100/{name}", {"accuracy": 0.5 + settings.seed / 10}
    return Run(record["name"], record["key"], None, record)


def steady(settings):
    return finished(settings, "steady")


def broken(settings):
    with open("tried", "a") as log:
        log.write("broken\\n")
    if not Path("luck").exists():
        raise ValueError("no luck today")
    return finished(settings, "broken")


def dies(settings):
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return finished(settings, "dies")


def stopped(settings):
    if not Path("luck").exists():
        os.kill(os.getpid(), signal.SIGTERM)
    return finished(settings, "stopped")


def waits(settings):
    while settings.seed and not Path("go").exists():
        time.sleep(0.1)
    return finished(settings, "waits")


for toy in (steady, broken, dies, stopped, waits):
    register(f"cifar100/{toy.__name__}", "A toy.", toy)
"""

NEEDS = """
def of(cell):
    return {"cores": 1, "mem_mb": 500, "minutes": 1, "gpus": 0, "gpu_minutes": 1}
"""


def write(folder, **sweeps):
    file = folder / "workflow.yaml"
    file.write_text(yaml.safe_dump(WORKFLOW | {"sweeps": sweeps}, sort_keys=False), encoding="utf-8")
    return file


def test_a_sweep_has_a_cell_for_every_run_and_value(tmp_path):
    grid = {"weight": [0.3, 0.5], "seed": [0, 1, 2]}
    file = write(tmp_path, mix={"run": ["dual_cifar/accn", "dual_cifar/accn_l*"], "grid": grid})
    sweep = declared.read("mix", {"profile": "quick"}, file)
    assert len(sweep.cells) == len({cell.name for cell in sweep.cells}) == 3 * 2 * 3
    assert {cell.run for cell in sweep.cells} == {
        f"dual_cifar/{n}" for n in ("accn", "accn_leaky", "accn_l2")
    }
    first = sweep.cells[0]
    assert first.name == "dual_cifar.accn-weight_0.3-seed_0"
    assert first.parameters == {"profile": "quick", "data": "synthetic", "seed": 0, "weight": 0.3}
    file = write(tmp_path, both={"run": ["cifar100/mlp", "dual_cifar/accn"], "grid": {"seed": [0]}})
    given = {"data": "download", "dual_cifar.data": "synthetic"}
    assert [cell.parameters["data"] for cell in declared.read("both", given, file).cells] == [
        "download",
        "synthetic",
    ]


GOOD = {"run": ["cifar100/mlp"], "grid": {"seed": [0]}}


@pytest.mark.parametrize(
    ("name", "change", "given", "says"),
    [
        ("god", {}, {}, "Did you mean 'good'?"),
        ("", {}, {}, "NAME="),
        ("good", {"run": ["cifar100/mpl"]}, {}, "Did you mean 'cifar100/mlp'?"),
        ("good", {"run": []}, {}, "empty run"),
        ("good", {"grid": {}}, {}, "empty grid"),
        ("good", {"grid": {"seed": []}}, {}, "one value or more"),
        ("good", {"grid": {"seed": 3}}, {}, "one value or more"),
        ("good", {"grid": {"seed": [1, 1]}}, {}, "twice"),
        ("good", {"grid": {"sede": [0]}}, {}, "Did you mean 'seed'?"),
        ("good", {"grid": {"seed": ["one"]}}, {}, "whole number"),
        ("good", {"parameters": {"profil": "full"}}, {}, "Did you mean 'profile'?"),
        ("good", {"parmeters": {}}, {}, "Did you mean 'parameters'?"),
        ("good", {"devices": 0}, {}, "1 or more"),
        ("good", {"run": ["cifar100"], "devices": 2}, {}, "for the chapter cifar100"),
        ("good", {}, {"seed": 1}, "already varies seed"),
        ("good", {}, {"profile": "ful"}, "Did you mean 'full'?"),
        ("good", {}, {"cifar100.seed": 1}, "already varies seed"),
        ("good", {}, {"animals.epochs": 1}, "nothing of the chapter that 'animals.epochs' is for"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(tmp_path, name, change, given, says):
    with pytest.raises(ParameterError) as error:
        declared.read(name, given, write(tmp_path, good=GOOD | change))
    assert says in str(error.value)


@pytest.mark.parametrize("name", WORKFLOW["sweeps"])
def test_every_declared_sweep_can_run(name):
    sweep = declared.read(name, {}, ROOT / "workflow.yaml")
    assert sweep.cells and sweep.says
    for cell in sweep.cells:
        assert chapters.checked(cell.chapter, cell.parameters).seed == cell.varied["seed"]


def test_the_ablation_of_chapter_3_is_one_sweep():
    from labkit.experiments import dual_cifar

    sweep = declared.read("ablation", {}, ROOT / "workflow.yaml")
    wanted = {"accn", *(change.name for change in dual_cifar.ABLATION)}
    assert {cell.run.split("/")[1] for cell in sweep.cells} == wanted
    assert len(sweep.cells) == len(wanted) * 3


def test_the_page_shows_the_ablation_as_it_is_declared():
    page = (ROOT / "book" / "how_to_scale.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    name, entry = next(iter(yaml.safe_load(shown)["sweeps"].items()))
    assert entry == WORKFLOW["sweeps"][name]
    for line in re.findall(r"^make sweep NAME=(\w+)", page, re.M):
        assert line in WORKFLOW["sweeps"]


def of(run, devices=1, **parameters):
    return needs.of(declared.Cell("cell", run, {"profile": "full"} | parameters, {}, devices))


def test_a_larger_model_asks_for_more_of_everything():
    small, large, huge = of("cifar100/mlp"), of("dual_cifar/accn"), of("dual_cifar/lacnn")
    for need in ("mem_mb", "minutes", "gpu_minutes"):
        assert small[need] < large[need] < huge[need]
    assert small["cores"] == 1 < large["cores"] == huge["cores"] == needs.MOST_CORES
    assert of("dual_cifar/accn", epochs=1)["minutes"] < large["minutes"]
    smoke = of("cifar100/mlp", profile="smoke")
    assert (smoke["gpus"], large["gpus"], of("dual_cifar/accn", devices=4)["gpus"]) == (0, 1, 4)
    assert of("cifar100/mlp", devices=2, profile="smoke")["gpus"] == 2  # whoever asks for two needs two
    assert of("cifar100")["minutes"] > of("cifar100", models="mlp")["minutes"] > small["minutes"]


def test_what_would_come_again_is_not_tried_again(tmp_path):
    one = declared.Cell("cell", "cifar100/mlp", {}, {})
    may_pass = partial(one_cell._may_pass, one, tmp_path)
    again = [may_pass(error) for error in (RunError("the disk is full"), MemoryError())]
    never = [may_pass(error) for error in (Diverged("no number"), KeyError("a slip"))]
    assert (again, never) == ([True, True], [False, False])


def test_a_notebook_that_its_own_sweep_saw_fail_is_not_tried_again(tmp_path):
    one, error = declared.Cell("cell", "cifar100", {}, {}), RunError("a cell failed")
    report = tmp_path / "mine" / "failed" / "cell.txt"
    report.parent.mkdir(parents=True)
    report.write_text("a cell failed")
    again = [one_cell._may_pass(one, tmp_path / sweep, error) for sweep in ("mine", "another")]
    assert again == [False, True]


@pytest.mark.parametrize(
    ("run", "stages"),
    [
        ("resnet44_cleaner", ["resnet44", "resnet44_cleaner"]),
        ("resnet44_model2", ["resnet44", "resnet44_cleaner", "resnet44_model2"]),
        ("resnet44_mixup", ["resnet44", "resnet44_cleaner", "resnet44_mixup"]),
        ("resnet44_uncorrected", ["resnet44", "resnet44_uncorrected"]),
        ("cnn2_filter", ["cnn2_filter", "cnn2_filter"]),
        ("vgg_confident", ["vgg_confident"] * 4),
        ("better", ["better_teacher", "better"]),
    ],
)
def test_an_experiment_asks_for_the_time_of_all_that_it_trains(run, stages):
    works = [scoreboard.work(f"noisy_cifar/{stage}", costs.sizes()) for stage in stages]
    minutes = needs.MARGIN * needs._minutes(works, costs.CORES)
    assert of(f"noisy_cifar/{run}", folds=4)["minutes"] == pytest.approx(needs.START_MINUTES + minutes, abs=1)


def test_a_chapter_trains_once_what_its_experiments_share():
    found = declared.Cell("cell", "noisy_cifar", {"models": "vgg"}, {})
    names = needs._trained(found, chapters.checked("noisy_cifar", found.parameters))
    assert names.count("noisy_cifar/vgg") == names.count("noisy_cifar/vgg_cleaner") == 1


def test_every_experiment_has_work_by_its_name_or_is_known_to_train_many_models():
    unknown = [name for name in experiments.names() if scoreboard.work(name, costs.sizes()) is None]
    assert unknown == [f"cifar100/{name}" for name in needs.SEARCHES]


def finished(sweep, cell, **parts):
    """Leave a cell's result: a run for each part of its chapter, with its test accuracy or without."""
    record = json.loads((ROOT / "results/cifar100/mlp-seed0.json").read_text())
    records = [
        record | {"name": f"{cell.chapter}/{name}", "metrics": {"test": {"accuracy": score}} if score else {}}
        for name, score in parts.items()
    ]
    file = sweep.folder / "cells" / f"{cell.name}.json"
    write_record(file, {"cell": asdict(cell), "seconds": 1.0, "records": records})


def test_runs_without_a_test_score_stay_in_the_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(declared, "SWEEPS", tmp_path)
    grid = {"augmentations": [["none", "basic"], ["none"]], "seed": [0, 1]}
    sweep = declared.read("pages", {}, write(tmp_path, pages={"run": "cifar100", "grid": grid}))
    for cell in sweep.cells:
        finished(sweep, cell, tested=0.5, validated=None)
    found = outcome.over_seeds(outcome.table(sweep), list(grid))
    assert list(found["metric"]) == ["test accuracy", "val accuracy"] * 2
    assert found.index[0] == "cifar100/tested, augmentations none,basic" and list(found["runs"]) == [2] * 4
    outcome.write(sweep)
    assert "test accuracy or val accuracy" in (sweep.folder / "results.svg").read_text()


def test_a_sweep_over_epochs_groups_by_those_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(declared, "SWEEPS", tmp_path)
    grid = {"epochs": [30, 60], "seed": [0, 1]}
    sweep = declared.read("long", {}, write(tmp_path, long={"run": "cifar100/mlp", "grid": grid}))
    record = json.loads((ROOT / "results/cifar100/mlp-seed0.json").read_text())
    for cell in sweep.cells:
        write_record(
            tmp_path / "long" / "cells" / f"{cell.name}.json",
            {"cell": asdict(cell), "seconds": 1, "records": [record]},
        )
    found = outcome.table(sweep)
    assert found["epochs"].to_list() == [30, 30, 60, 60]
    assert set(found["epochs taken"]) == {len(record["history"]["epoch"])}
    assert [*outcome.over_seeds(found, list(grid))["runs"]] == [2, 2]


def test_the_grid_goes_before_what_is_fixed_for_one_chapter(tmp_path):
    sweeps = {"over": {"run": "animals", "parameters": {"animals.seed": 5}, "grid": {"seed": [0, 1]}}}
    cells = declared.read("over", {}, write(tmp_path, **sweeps)).cells
    assert [cell.parameters["seed"] for cell in cells] == [0, 1]


def test_a_chapters_cell_has_the_runs_of_this_execution_alone(tmp_path, monkeypatch):
    record = json.loads((ROOT / "results/cifar100/mlp-seed0.json").read_text())

    def executed(chapter, parameters, log, attempt, done, failed):
        assert failed == tmp_path / "failed"  # two sweeps may have cells of one name
        runs = Path(parameters["runs"]) / "cifar100"
        if parameters["epochs"] == 3:
            write_record(runs / "mlp-a" / RECORD, record | {"key": "a"})
            write_record(runs / "conv2d-b" / RECORD, record | {"key": "b"})
        else:
            read(runs / "mlp-a" / RECORD)  # goes on with one of them
            write_record(runs / "conv2d-c" / RECORD, record | {"key": "c"})

    monkeypatch.setattr(execute, "execute", executed)
    monkeypatch.setenv("LABKIT_USED", "")  # set back afterwards
    for epochs, keys in ((3, ["b", "a"]), (4, ["c", "a"])):
        found = _chapter(declared.Cell("cell", "cifar100", {"epochs": epochs}, {}), tmp_path, attempt=1)
        assert [run["key"] for run in found] == keys


@pytest.fixture
def toys(project):
    (project / "labkit" / "experiments" / "__init__.py").write_text(TOYS)
    (project / "labkit" / "sweeps" / "needs.py").write_text(NEEDS)  # no model, so no Keras to load
    return project


def sweep(project, status=0):
    shown = subprocess.run([*COMMAND, "toy"], cwd=project, capture_output=True, text=True, timeout=300)
    assert shown.returncode == status, shown.stderr
    return shown.stderr


def lines(file):
    return sorted(file.read_text().splitlines()) if file.exists() else []


def table(project):
    return pd.read_csv(project / "_build" / "sweeps" / "toy" / "results.csv").set_index("cell")


def test_a_failed_cell_is_a_row_that_says_why_and_the_sweep_goes_on(toys):
    runs = [f"cifar100/{name}" for name in ("steady", "broken", "dies", "stopped")]
    write(toys, toy={"run": runs, "grid": {"seed": [1]}})
    said = sweep(toys, status=1)
    found = table(toys)
    assert len(found) == 4 and "2 of 4 cells failed" in said and "Traceback" not in said
    done = found[found["status"] == "done"]
    assert set(done["run"]) == {"cifar100/steady", "cifar100/dies"}  # a killed cell was tried again
    assert found.loc["cifar100.steady-seed_1", "test_accuracy"] == pytest.approx(0.6)
    assert "no luck today" in found.loc["cifar100.broken-seed_1", "why"]
    assert "told to stop" in found.loc["cifar100.stopped-seed_1", "why"]
    assert lines(toys / "tried") == ["broken"]  # an error of its own is not tried again
    results = toys / "_build" / "sweeps" / "toy"
    assert "cifar100/steady | test accuracy | 0.6000 (1 seed)" in (results / "results.md").read_text()
    assert (results / "results.svg").read_text().startswith("<?xml")

    (toys / "luck").touch()
    assert "4 cells, 2 of them done before" in sweep(toys)
    assert set(table(toys)["status"]) == {"done"}
    assert lines(toys / "finished") == [f"{run.split('/')[1]} 1" for run in sorted(runs)]

    shutil.rmtree(toys / ".snakemake")  # which knew what the cells were made with
    write(toys, toy={"run": runs[0], "grid": {"seed": [1]}, "parameters": {"profile": "quick"}})
    assert "1 cells, 0 of them done before" in sweep(toys)
    assert lines(toys / "finished").count("steady 1") == 2


def kill_all(running):
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def tell_the_first(running):
    """What `kill`, a service or a scheduler does: one process hears of it."""
    running.terminate()
    assert running.wait(60) == 128 + signal.SIGTERM
    assert not members(running.pid)


def members(group):
    found = []
    for process in psutil.pids():
        with suppress(ProcessLookupError):
            found += [process] if os.getpgid(process) == group else []
    return found


@pytest.mark.long
@pytest.mark.parametrize("end", [kill_all, tell_the_first])
def test_a_stopped_sweep_goes_on_where_it_was(toys, end):
    write(toys, toy={"run": "cifar100/waits", "grid": {"seed": [0, 1, 2, 3]}})
    with (toys / "said").open("w") as said:
        running = subprocess.Popen([*COMMAND, "toy"], cwd=toys, stderr=said, start_new_session=True)
    cells = toys / "_build" / "sweeps" / "toy" / "cells"
    try:
        late = time.monotonic() + 200
        while not list(cells.glob("*.json")):
            assert running.poll() is None and time.monotonic() < late, (toys / "said").read_text()
            time.sleep(0.1)
        time.sleep(1)  # another cell has begun
        end(running)
    finally:
        if running.poll() is None:
            kill_all(running)
    first = (cells / "cifar100.waits-seed_0.json").stat().st_mtime_ns
    (toys / "go").touch()
    assert "4 cells, 1 of them done before" in sweep(toys)
    assert (cells / "cifar100.waits-seed_0.json").stat().st_mtime_ns == first
    assert lines(toys / "finished") == [f"waits {seed}" for seed in range(4)]
    assert list(table(toys)["status"]) == ["done"] * 4
    told = json.loads((cells / "cifar100.waits-seed_3.json").read_text())
    assert told["cell"]["parameters"]["seed"] == 3
