"""Chapter 3's experiments: names, pairs, and what is read off a trained network."""

from dataclasses import replace

import numpy as np
import pytest

from labkit import chapters, evaluation, models, scoreboard
from labkit.experiments import dual_cifar, names
from labkit.runs import Run


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs"))
    return chapters.settings("dual_cifar", {"profile": "smoke", "runs": folder})


@pytest.fixture(scope="module")
def parts(settings):
    return dual_cifar.split(settings)


@pytest.fixture(scope="module")
def linear(settings, parts):
    return dual_cifar.chance(settings, parts)


def test_every_row_of_the_report_and_of_the_ablation_is_an_experiment():
    known = names("dual_cifar/*")
    for name in ("dual_linear", *dual_cifar.REPORTED, *(change.name for change in dual_cifar.ABLATION)):
        assert f"dual_cifar/{name}" in known


@pytest.mark.parametrize("change", dual_cifar.ABLATION, ids=lambda change: change.name)
def test_each_change_builds_the_same_network_but_for_itself(change, parts):
    model = models.build("accn", **dual_cifar._shape(parts, change.options))
    kernels = [layer.kernel.shape for layer in model.layers if layer.name.startswith("conv")]
    plain = models.build("accn")
    assert kernels == [layer.kernel.shape for layer in plain.layers if layer.name.startswith("conv")]
    has = {
        "accn_leaky": model.get_layer("relu1").negative_slope > 0,
        "accn_flip": any(layer.name == "flip" for layer in model.layers),
        "accn_joint": any(type(layer).__name__ == "Marginal" for layer in model.layers),
        "accn_l2": bool(model.losses),
    }
    assert [name for name, found in has.items() if found] == ([change.name] if change.name in has else [])


def test_a_run_that_changes_the_task_says_so_in_its_name(settings):
    task = {**settings.own, "weight": 0.3, "groups": ((0, 1), (2, 3)), "augment": "basic"}
    name = dual_cifar._name(replace(settings, own=task), dual_cifar.Change("accn", ""))
    assert name == "dual_cifar/accn-weight0.3-groups01_23-basic"


def test_an_untrained_network_scores_near_chance_and_knows_which_images_recur(linear, parts):
    test = linear[1].metrics["test"]
    assert abs(test["accuracy"] - 0.2) < 0.1
    assert test["interval_clustered"] is True
    assert test["n"] == len(parts.test)


def test_a_scored_run_is_not_scored_again(linear, parts, monkeypatch):
    monkeypatch.setattr(evaluation, "predict", lambda *a, **k: pytest.fail("scored again"))
    assert dual_cifar.scored(linear[1], linear[0], parts) is linear[1]


def test_equal_weights_give_the_fixed_test_pairs(linear, parts):
    table = dual_cifar.by_weight(linear[0], parts, (0.5,))
    assert table.loc[0.5, "mean"] == pytest.approx(linear[1].metrics["test"]["accuracy"])


def test_hiding_maps_find_the_patch_that_decides():
    import keras

    images = keras.Input((32, 32, 3))
    corner = keras.layers.Cropping2D(((0, 24), (0, 24)))(keras.layers.Rescaling(1 / 255)(images))
    mean = keras.layers.GlobalAveragePooling2D()(corner)
    weights = [np.array([[0.3, -0.3]] * 3), np.zeros(2)]
    head = keras.layers.Dense(2, name="first")
    model = keras.Model(images, {"first": head(mean)})
    head.set_weights(weights)
    bright = np.full((1, 32, 32, 3), 255, np.uint8)
    maps = dual_cifar.hiding_maps(model, bright, {"first": np.array([0])})["first"][0]
    assert maps[:4, :4].min() > 0
    assert maps[12:, 12:].max() == 0


def test_best_is_by_validation_and_leaves_the_largest_aside():
    class Ran:
        def __init__(self, value):
            self.history = {"val_accuracy": np.array([value])}

    trained = {"accn": (None, Ran(0.4)), "fmp3": (None, Ran(0.5)), "lacnn": (None, Ran(0.9))}
    assert dual_cifar.best(trained) == "fmp3"
    assert dual_cifar.best({}) is None


def test_curves_by_pairs_hold_what_the_report_prints_and_every_record():
    curves = dual_cifar.by_pairs()
    printed = curves["accnl, report"]
    assert printed[dual_cifar.PAIRS].max() == pytest.approx(67 * 703 * 64 / 1e6)
    assert printed["val_accuracy"].is_monotonic_increasing
    recorded = [run for run in scoreboard.recorded("dual_cifar/*") if run.epochs]
    assert len(curves) == len(recorded) + 2
    for run in recorded:
        curve = curves[f"{run.name.removeprefix('dual_cifar/')}, seed {run.seed}"]
        assert curve[dual_cifar.PAIRS].iloc[-1] == pytest.approx(
            run.epochs * run.record["data"]["train"]["n"] / 1e6
        )


def test_the_recorded_ablation_compares_runs_that_had_as_much_time(monkeypatch):
    def recorded(name, epochs, accuracy):
        record = {
            "recipe": {"epochs": epochs},
            "data": {"train": {"n": 500_000}},
            "history": {"epoch": list(range(1, epochs + 1))},
            "metrics": {"test": {"accuracy": accuracy}},
        }
        return Run(f"dual_cifar/{name}", "", None, record)

    found = [recorded("accn", 4, 0.6), recorded("accn", 4, 0.7), recorded("accn", 9, 0.9)]
    found += [recorded("accn_leaky", 4, 0.5), recorded("accn_flip", 9, 0.9)]
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [run for run in found if run.name == name])
    table = dual_cifar.recorded_ablation()
    assert table.loc["the report's recipe", "mean"].startswith("0.65")
    assert table.loc["leaky ReLUs", "mean"].startswith("0.5")
    assert table.loc["random flips of the average", "mean"] == "not run yet"
    assert set(table[dual_cifar.PAIRS]) == {"2.00", ""}


def test_the_summary_leaves_out_a_network_that_was_tested_on_a_handful_of_pairs():
    def tested(name, n, accuracy):
        return Run(f"dual_cifar/{name}", "", None, {"metrics": {"test": {
            "n": n, "accuracy": accuracy, "source": "pairs",
        }}})  # fmt: skip

    said = dual_cifar.summary([tested("accn", 400, 0.3), tested("fmp3", 400, 0.2), tested("lacnn", 2, 0.5)])
    assert "best mean accuracy is 0.300, of accn" in said
