from dataclasses import replace

import numpy as np
import pytest

from labkit import chapters, experiments, training
from labkit.book import better_page
from labkit.experiments import better, noisy_cifar


def settings(chapter, **given):
    return chapters.checked(chapter, {"profile": "smoke", **given})


def test_true_labels_are_learnt_as_they_are_and_others_as_the_teacher_reads_them(tmp_path, monkeypatch):
    given, fit = [], training.fit

    def watched(*args, **named):
        given.append(named["targets"])
        return fit(*args, **named)

    monkeypatch.setattr(training, "fit", watched)
    told = settings("noisy_cifar", runs=str(tmp_path))
    better.noisy(told)
    parts = noisy_cifar.split(noisy_cifar.brief(told, better.NETWORK))
    likely, believed = given
    sure = np.eye(10)[parts.kept.labels]
    for targets in given:
        np.testing.assert_allclose(targets[: len(sure)], sure)
    matrix = noisy_cifar.noise_matrix(parts.judge_train)
    unsure = slice(len(sure), None)
    np.testing.assert_allclose(likely[unsure], matrix[:, parts.unsure.labels].T)
    opinion = believed[unsure] / likely[unsure]
    assert (opinion.std(axis=1) > 0).all() and (opinion.std(axis=0) > 0).all()  # neither even nor a constant


@pytest.mark.parametrize("chapter", better_page.GOALS)
def test_a_step_past_a_report_runs_is_scored_and_shown(chapter, tmp_path, monkeypatch):
    run = experiments.run(f"{chapter}/better", profile="smoke", runs=str(tmp_path))
    assert run.record["model"]["name"] == "whitened" and 0 <= run.metrics["test"]["accuracy"] <= 1
    again = experiments.run(f"{chapter}/better", profile="smoke", runs=str(tmp_path))
    assert again.metrics == run.metrics
    assert ("test_reasons" in run.metrics) == ("test_doubts" in run.metrics) == (chapter == "cifar100")
    monkeypatch.setattr(
        better_page.scoreboard, "recorded", lambda name: [run] * (name == f"{chapter}/better*")
    )
    page = better_page.full()
    assert f"{run.metrics['test']['accuracy']:.4f}" in page and page.count("not run yet") == 2


@pytest.mark.parametrize("protocol", ["honest", "report001"])
def test_no_test_image_reaches_the_students_training(protocol):
    parts = noisy_cifar.split(settings("noisy_cifar", protocol=protocol))
    tested = {image.tobytes() for part in (parts.test, parts.unseen) for image in part.images}
    for part in (parts.noisy, parts.valid, parts.unsure, parts.kept, parts.judge_train):
        assert part is None or not tested & {image.tobytes() for image in part.images}


def test_the_student_is_scored_on_images_that_no_protocol_touches(tmp_path):
    run = experiments.run("noisy_cifar/better", profile="smoke", runs=str(tmp_path))
    apart = noisy_cifar.unseen(noisy_cifar.brief(settings("noisy_cifar"), better.NETWORK))
    assert run.metrics["test"]["fingerprint"] == apart.fingerprint()


def test_the_page_has_a_line_for_the_runs_in_fewer_bits(monkeypatch):
    (wide, *_) = better_page.scoreboard.recorded("dual_cifar/better")
    recipe = wide.record["recipe"] | {"precision": "mixed_bfloat16"}
    narrow = replace(wide, record={**wide.record, "recipe": recipe, "seconds": 1200})
    monkeypatch.setattr(
        better_page.scoreboard, "recorded", lambda name: [wide, narrow] * name.startswith("dual_cifar")
    )
    reached = f"| {wide.metrics['test']['accuracy']:.4f} |"
    first, second = (line for line in better_page.full().splitlines() if line.startswith("| [Two images"))
    assert f"{reached} 32 |" in first
    assert f"{reached} 16 | 20 |" in second


def test_the_page_says_what_was_not_run(monkeypatch):
    monkeypatch.setattr(better_page.scoreboard, "recorded", lambda *_: [])
    assert better_page.full().count("not run yet") == len(better_page.GOALS)


def test_the_page_says_what_a_teacher_reaches_by_itself():
    teachers = better_page.scoreboard.recorded("noisy_cifar/better_teacher*")
    page = better_page.full()
    assert teachers and page.count("A teacher by itself") == len(teachers)
    for run in teachers:
        assert f"`{run.name}`, seed {run.seed}) reaches {run.metrics['test']['accuracy']:.4f}" in page


def test_a_change_is_judged_on_validation_images_and_never_tested(tmp_path, monkeypatch):
    (name,) = better_page.TRIED
    run = experiments.run(name, profile="smoke", runs=str(tmp_path))
    assert "test" not in run.metrics and run.record["recipe"]["augment"] == "basic_cutmix"
    base = experiments.run("cifar100/better", profile="smoke", runs=str(tmp_path))
    for same in ("model", "data", "seed"):
        assert run.record[same] == base.record[same]
    told = {"cifar100/better": [base], name: [run]}
    monkeypatch.setattr(better_page.scoreboard, "recorded", lambda name: told.get(name, []))
    reached, gained = run.record["history"]["val_accuracy"], base.record["history"]["val_accuracy"]
    page = better_page.tried()
    assert f"{reached[-1]:.4f}" in page and f"{100 * (reached[-1] - gained[-1]):+.1f}" in page
    assert f"`{name}`, seed 0" in page
    told.pop(name)
    assert better_page.tried().count("not run yet") == 1
