import json
from pathlib import Path

import pytest
from test_scoreboard import add, project, scores  # noqa: F401

from labkit import experiments
from labkit.book import verify
from labkit.book.__main__ import main
from labkit.errors import RunError
from labkit.runs import Run
from labkit.runs.record import RECORD, write


def test_the_cheapest_record_is_trained_again_by_its_own_command(project, monkeypatch):  # noqa: F811
    run = add(project, "noisy_cifar/vgg-honest", 0.66)
    asked = {}

    def again(name, **parameters):
        asked.update(parameters, name=name)
        return Run(run.name, run.key, None, json.loads(json.dumps(run.record)))

    monkeypatch.setattr(experiments, "run", again)
    verdict = verify.verify("noisy_cifar", data="elsewhere", epochs=3)
    assert verdict.agrees and verdict.recorded == verdict.measured == 0.66
    assert asked.pop("runs") not in ("", "_build/runs")
    assert asked == {
        "name": "noisy_cifar/vgg",
        "data": "elsewhere",
        "profile": "full",
        "seed": 0,
        "epochs": 3,
    }


def test_a_stage_is_compared_with_the_same_stage_made_again(project, monkeypatch):  # noqa: F811
    stage = add(project, "noisy_cifar/cnn2_stage1-report001", 0.53)

    def again(name, *, runs, **parameters):
        file = Path(runs) / f"{stage.name}-{stage.key}" / RECORD
        write(file, {**stage.record, "metrics": {"test": scores(0.52)}})
        return Run("noisy_cifar/cnn2_filter-report001", "", None, {"metrics": {"test": scores(0.57)}})

    monkeypatch.setattr(experiments, "run", again)
    assert verify.verify("noisy_cifar", data="elsewhere").measured == 0.52


def test_what_trains_nothing_is_verified_only_where_nothing_else_is(project, monkeypatch):  # noqa: F811
    run = add(project, "noisy_cifar/vgg-honest", 0.66)
    idle = add(project, "noisy_cifar/histogram_baseline-honest", 0.24)
    nothing = {"history": {name: [] for name in idle.record["history"]}, "best_epoch": None, "seconds": 0}
    write(project / "results" / f"{idle.name}-seed0.json", {**idle.record, **nothing})
    monkeypatch.setattr(verify, "_again", lambda record, _: Run(record["name"], "", None, record))
    assert verify.verify("noisy_cifar").name == run.name
    assert verify.verify("noisy_cifar", name="histogram*").name == idle.name
    slip = add(project, "cifar100/mlp_cutmix_as_run", 0.01)
    assert verify.verify("cifar100").name == slip.name
    write(project / "results" / f"{slip.name}-seed0.json", {**slip.record, "seconds": 0.1})
    assert add(project, "cifar100/mlp", 0.21).name == verify.verify("cifar100").name


def test_first_epochs_are_verified_only_where_a_shorter_training_begins_with_them(project, monkeypatch):  # noqa: F811
    first = add(project, "noisy_cifar/cnn2_stage1-honest", 0.53)
    after = add(project, "noisy_cifar/cnn2_filter-honest", 0.57)
    write(project / "results" / f"{after.name}-seed0.json", {**after.record, "seconds": 0.5})
    monkeypatch.setattr(verify, "_again", lambda record, _: Run(record["name"], "", None, record))
    assert verify.verify("noisy_cifar").name == after.name
    assert verify.verify("noisy_cifar", epochs=2).name == first.name
    with pytest.raises(RunError, match="the first epochs of noisy_cifar/cnn2_filter"):
        verify.verify("noisy_cifar", name="cnn2_filter*", epochs=2)
    planned = {**first.record, "recipe": first.record["recipe"] | {"schedule": "onecycle"}}
    write(project / "results" / f"{first.name}-seed0.json", planned)
    with pytest.raises(RunError, match="planned over all epochs"):
        verify.verify("noisy_cifar", epochs=2)


def test_a_chapter_without_records_says_so(project):  # noqa: F811
    with pytest.raises(RunError, match="no record of dual_cifar"):
        verify.verify("dual_cifar")


@pytest.mark.parametrize(("agrees", "status"), [(True, 0), (False, 1)])
def test_a_record_that_is_not_reproduced_is_a_failure(monkeypatch, capsys, agrees, status):
    verdict = type("Verdict", (), {"agrees": agrees, "__str__": lambda self: "0.66 beside 0.50"})()
    monkeypatch.setattr(verify, "verify", lambda *_, **__: verdict)
    assert main(["verify", "noisy_cifar"]) == status
    shown = capsys.readouterr()
    assert "0.66 beside 0.50" in shown.out and ("not reproduced" in shown.err) == (not agrees)
