"""What a killed test of SLURM leaves is cleared away, and nothing else is."""

import subprocess
import sys

import pytest
import slurm_node


@pytest.fixture
def conf(tmp_path, monkeypatch):
    file = tmp_path / "slurm.conf"
    monkeypatch.setattr(slurm_node, "CONF", file)
    return file


@pytest.fixture
def daemon(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=place)
    yield running
    running.kill()
    running.wait()


def settings(place, process):
    values = {"host": "here", "ctld": 1, "node": 2, "cores": 2, "memory": 100}
    return slurm_node.SETTINGS.format(place=place, process=process, **values)


def test_what_a_killed_test_left_is_ended_and_taken_away(conf, daemon):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    conf.write_text(settings(conf.parent / "place", ended.pid))
    assert slurm_node._cleared()
    assert daemon.wait(10) < 0
    assert not conf.exists()


def test_a_node_of_a_living_test_stays(conf, daemon):
    conf.write_text(settings(conf.parent / "place", daemon.pid))
    assert not slurm_node._cleared()
    assert conf.exists() and daemon.poll() is None


def test_a_foreign_slurm_stays_and_is_named(conf, daemon):
    conf.write_text("ClusterName=ours\n" + settings(conf.parent / "place", 1).partition("\n")[2])
    assert slurm_node.missing() == f"{conf} is there already, and no test changes a SLURM that is in use"
    assert conf.exists() and daemon.poll() is None
