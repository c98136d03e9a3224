"""Experiments by name: that each can be called, and the options that are none of its chapter's parameters."""

import inspect
import json
import os
import subprocess
import sys

import pytest

from labkit import chapters, experiments
from labkit.__main__ import main
from labkit.errors import ParameterError, RecipeError
from labkit.experiments import registry


def test_devices_reach_the_training_of_an_experiment(tmp_path):
    command = [
        sys.executable,
        "-m",
        "labkit",
        "run",
        "cifar100/mlp",
        "--devices",
        "2",
        "--runs",
        str(tmp_path),
    ]
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    (file,) = tmp_path.glob("cifar100/mlp-*/run.json")
    record = json.loads(file.read_text())
    assert (record["devices"], record["status"], record["backend"]) == (2, "done", "jax")
    assert "--devices 2" in record["command"]
    assert record["history"]["loss"][0] < 6  # images were normalised on both devices


@pytest.mark.parametrize(
    ("devices", "says"), [(3, "multiple of 3"), (0, "1 or more"), ("two", "whole number")]
)
def test_devices_that_cannot_be_are_refused(tmp_path, devices, says):
    with pytest.raises(RecipeError, match=says):
        experiments.run("cifar100/mlp", devices=devices, runs=str(tmp_path))
    assert "LABKIT_DEVICES" not in os.environ


def test_options_last_as_long_as_the_experiment(monkeypatch):
    told = {}

    def toy(settings):
        told.update({name: os.environ.get(name) for name in ("LABKIT_DEVICES", "LABKIT_MEMBER")})
        raise KeyboardInterrupt

    monkeypatch.setitem(registry.REGISTRY, "cifar100/toy", registry.Experiment("cifar100/toy", "", toy))
    monkeypatch.setenv("LABKIT_DEVICES", "4")
    with pytest.raises(KeyboardInterrupt):
        experiments.run("cifar100/toy", devices=2, member="one@127.0.0.1:8470")
    assert told == {"LABKIT_DEVICES": "2", "LABKIT_MEMBER": "one@127.0.0.1:8470"}
    assert os.environ["LABKIT_DEVICES"] == "4" and "LABKIT_MEMBER" not in os.environ


def test_a_record_does_not_say_which_part_of_a_search_its_process_took(monkeypatch):
    def toy(settings):
        raise ParameterError(f"told {os.environ['LABKIT_COMMAND']}")

    monkeypatch.setitem(registry.REGISTRY, "cifar100/toy", registry.Experiment("cifar100/toy", "", toy))
    monkeypatch.setenv("LABKIT_COMMAND", "")
    words = ["run", "cifar100/toy", "--member", "one@127.0.0.1:8470", "--seed", "3"]
    with monkeypatch.context() as patched:
        said = []
        patched.setattr("sys.stderr.write", said.append)
        assert main(words) == 2
    assert "told python -m labkit run cifar100/toy --seed 3" in "".join(said)


def test_a_misspelt_option_names_the_right_ones():
    with pytest.raises(ParameterError, match="Did you mean 'devices'"):
        experiments.run("cifar100/mlp", device=2)


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_takes_its_chapters_settings_and_nothing_else(name):
    experiment = experiments.get(name)
    inspect.signature(experiment.function).bind(chapters.checked(experiment.chapter, {}))
    assert experiment.says.endswith(".")


@pytest.mark.parametrize(
    ("name", "made", "given"),
    [
        ("dual_cifar/accn_parts", "dual_cifar/accn_parts", {}),
        ("animals/simple_as_run", "animals/simple_as_run", {}),
        ("animals/mobilenetv2_transfer_as_run", "animals/mobilenetv2_transfer_as_run", {}),
        ("cifar100/search", "cifar100/custom_vgg_l2_search", {"models": "custom_vgg_l2", "trials": 1}),
    ],
)
def test_an_experiment_is_run_by_its_name(tmp_path, name, made, given):
    run = experiments.run(name, runs=str(tmp_path), **given)
    assert run.status == "done" and run.epochs >= 1
    assert run.name.startswith(made)
    kept = name != "animals/mobilenetv2_transfer_as_run"  # in smoke a check on a handful of photos
    assert (run.folder is not None and run.folder.is_relative_to(tmp_path)) == kept


def test_experiments_are_listed_by_a_pattern(capsys):
    assert main(["list", "dual_cifar/*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == experiments.names("dual_cifar/*")
    assert all(experiments.get(line.split()[0]).says in line for line in lines)


@pytest.mark.parametrize("words", [["--seed"], ["--seed=3"], ["seed", "3"]])
def test_words_that_are_no_pairs_are_refused(words, capsys):
    assert main(["run", "cifar100/mlp", *words]) == 2
    assert "are not pairs of a name and a value" in capsys.readouterr().err
