import numpy as np
import pytest

from labkit import chapters, data, evaluation, experiments, recipes
from labkit.book import better_page
from labkit.experiments import better, noisy_cifar


def settings(chapter, **given):
    return chapters.settings(chapter, {"profile": "smoke", **given})


def test_a_label_is_weighed_by_what_the_teacher_thinks(monkeypatch):
    """Given labels are right seven times in ten; the teacher may be surer of another."""
    images = data.synthetic("cifar10", 3, 0)
    images = data.ImageSet(images.images, np.array([1, 1, 0]), ("a", "b"), images.source)
    opinion = np.array([[0.8, 0.2], [0.5, 0.5], [0.8, 0.2]])
    told = evaluation.Predictions(opinion, images.labels, images.classes, "", "")
    monkeypatch.setattr(evaluation, "predict", lambda *_, **__: told)
    believed, sure = better.labelled(None, images, np.array([[0.7, 0.3], [0.3, 0.7]]))
    assert believed.labels.tolist() == [0, 1, 0]
    assert sure == pytest.approx([0.24 / 0.38, 0.7, 0.56 / 0.62])


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


def test_no_test_image_reaches_the_students_training():
    parts = noisy_cifar.split(settings("noisy_cifar"))
    tested = {image.tobytes() for image in parts.test.images}
    for part in (parts.noisy, parts.valid, parts.unsure, parts.kept, parts.judge_train):
        assert not tested & {image.tobytes() for image in part.images}


def test_the_student_is_scored_on_images_that_no_protocol_touches(tmp_path):
    run = experiments.run("noisy_cifar/better", profile="smoke", runs=str(tmp_path))
    apart = noisy_cifar.unseen(noisy_cifar.brief(settings("noisy_cifar"), better.NETWORK))
    assert run.metrics["test"]["fingerprint"] == apart.fingerprint()


def test_the_runs_compute_in_32_bits_as_the_page_says():
    used = {name: recipe.precision for name, recipe in recipes.RECIPES.items() if name.startswith("better_")}
    assert len(used) == 4 and set(used.values()) == {"float32"}


def test_the_page_says_what_was_not_run(monkeypatch):
    monkeypatch.setattr(better_page.scoreboard, "recorded", lambda *_: [])
    assert better_page.full().count("not run yet") == len(better_page.GOALS)
