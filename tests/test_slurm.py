"""Sweeps on SLURM: the same tables as without it, and complete ones after a failing node and a time limit."""

import shutil
import subprocess
import sys
import time
from datetime import datetime
from statistics import median

import pandas as pd
import pytest
import yaml
from slurm_node import Node, jobs, missing, until
from test_sweeps import NEEDS, TOYS, write

pytestmark = pytest.mark.slurm

SMALL = {"slurm-no-account": True, "slurm-status-command": "squeue"}  # no accounting on a node of its own
SOON = {"slurm-init-seconds-before-status-checks": 2, "seconds-between-status-checks": 2, "latency-wait": 5}
TIMES = ["seconds", "hardware"]

OVERTIME = """

def overtime(settings):
    with open("overtime", "a") as log:
        log.write("started\\n")
    while len(Path("overtime").read_text().splitlines()) < 2:
        time.sleep(0.1)
    return finished(settings, "overtime")


register("cifar100/overtime", "A toy that ends in its second attempt.", overtime)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if lacking := missing():
        pytest.fail(lacking)  # who asks for these tests is not told that all is well
    running = Node(tmp_path_factory.mktemp("slurm"))
    yield running
    running.stop()


@pytest.fixture
def small(project):
    """The project's own profile, with what a node without accounting needs."""
    file = project / "profiles" / "slurm" / "config.yaml"
    profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(profile | SMALL | SOON), encoding="utf-8")
    return project


def start(project, name, profile="", **options):
    command = [sys.executable, "-m", "labkit.sweeps", "run", "--name", name, "--profile", profile]
    return subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True, **options)


def finish(running, limit=1500):
    _, said = running.communicate(timeout=limit)
    assert running.returncode == 0, said
    return said


def table(project, name):
    return pd.read_csv(project / "_build" / "sweeps" / name / "results.csv").drop(columns=TIMES)


def seconds(job):
    times = [datetime.fromisoformat(job[name]) for name in ("SubmitTime", "StartTime", "EndTime")]
    return (times[1] - times[0]).total_seconds(), (times[2] - times[1]).total_seconds()


def test_the_same_sweep_gives_the_same_table_here_and_on_slurm(small, node, capsys):
    walls, tables, took = {}, {}, {}
    for profile in ("", "slurm"):
        started = time.monotonic()
        finish(start(small, "trial", profile))
        walls[profile] = time.monotonic() - started
        tables[profile] = table(small, "trial")
        cells = (small / "_build" / "sweeps" / "trial" / "cells").glob("*.json")
        took[profile] = median(yaml.safe_load(file.read_text())["seconds"] for file in cells)
        shutil.rmtree(small / "_build")
    pd.testing.assert_frame_equal(tables[""], tables["slurm"])
    assert len(tables["slurm"]) == 12 and set(tables["slurm"]["status"]) == {"done"}
    done = [job for job in jobs() if job["JobState"] == "COMPLETED"]
    assert len(done) == 12
    assert {(job["NumCPUs"], job["TimeLimit"]) for job in done} == {("1", "00:06:00")}
    waited, ran = (median(values) for values in zip(*map(seconds, done), strict=True))
    with capsys.disabled():
        print(
            f"\n12 cells here: {walls['']:.0f} s, a cell {took['']:.1f} s; "
            f"on SLURM: {walls['slurm']:.0f} s, a cell {took['slurm']:.1f} s in a job of {ran:.0f} s "
            f"that waited {waited:.0f} s: {ran - took['slurm']:.1f} s more a job"
        )


def test_a_failing_node_and_a_time_limit_cost_no_cell(small, node):
    (small / "labkit" / "experiments" / "__init__.py").write_text(TOYS + OVERTIME)
    (small / "labkit" / "sweeps" / "needs.py").write_text(NEEDS)
    write(small, toy={"run": [f"cifar100/{name}" for name in ("waits", "overtime")], "grid": {"seed": [1]}})
    running = start(small, "toy", "slurm")
    try:
        note = small / "_build" / "sweeps" / "toy" / "unfinished" / "cifar100.waits-seed_1.json"
        until(lambda: note.exists() and (small / "overtime").exists(), 200, "the jobs do not start")
        node.fail()
        until(lambda: node.state().startswith("down"), 120, "the failure is not noticed")
        (small / "overtime").unlink()  # so that its next attempt is a first one, which its time limit ends
        (small / "go").touch()
        node.mend()
        finish(running)
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait()
    found = table(small, "toy")
    assert list(found["status"]) == ["done", "done"]
    assert (small / "overtime").read_text().splitlines() == ["started"] * 2
    mine = [job for job in jobs() if job["WorkDir"] == str(small)]
    assert max(int(job["Restarts"]) for job in mine) >= 1  # SLURM put them back in the queue
    assert [job["TimeLimit"] for job in mine if job["JobState"] == "TIMEOUT"] == ["00:01:00"]
    assert "00:02:00" in {job["TimeLimit"] for job in mine if job["JobState"] == "COMPLETED"}
