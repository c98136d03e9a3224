"""Chapter 3's experiments: names, pairs, and what is read off a trained network."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from labkit import chapters, evaluation, models, plots, recipes, saliency, scoreboard
from labkit.experiments import dual_cifar, names
from labkit.experiments import dual_cifar_results as results
from labkit.models import allconv
from labkit.runs import Run, validate


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs"))
    return chapters.checked("dual_cifar", {"profile": "smoke", "runs": folder})


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


@pytest.mark.parametrize("change", dual_cifar.ABLATION, ids=lambda change: change.name)
def test_each_change_trains_by_the_same_recipe_but_for_itself(change, settings, parts, monkeypatch):
    fitted = {}

    def fit(model, stream, valid, recipe, *, run, runs):
        fitted.update(recipe=recipe, augment=stream.augment, run=run)

    monkeypatch.setattr(dual_cifar.training, "fit", fit)
    monkeypatch.setattr(dual_cifar, "scored", lambda run, model, parts: run)
    dual_cifar.train(settings, parts, "accn", change)
    own = {"accn_unsmoothed": {"label_smoothing": 0.0}}.get(change.name, {})
    assert fitted["recipe"] == settings.apply(recipes.RECIPES["report003_accn"]).but(**own)
    assert recipes.RECIPES["report003_accn"].label_smoothing == 0.1
    assert fitted["augment"] == ("basic" if change.name == "accn_parts" else None)
    assert fitted["run"] == f"dual_cifar/{change.name}"


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


def test_a_run_is_asked_in_other_ways_once(settings, linear, parts, monkeypatch):
    run = dual_cifar.with_shares(settings, *linear, parts)
    monkeypatch.setattr(evaluation, "predict", lambda *a, **k: pytest.fail("asked again"))
    assert dual_cifar.with_shares(settings, linear[0], run, parts) is run
    with pytest.raises(pytest.fail.Exception):  # other pairs are other questions
        dual_cifar.with_shares(settings, linear[0], run, replace(parts, test=parts.test.take(range(9))))


def test_equal_weights_give_the_fixed_test_pairs(settings, linear, parts):
    run = dual_cifar.with_shares(settings, *linear, parts)
    found = results.table(run.metrics["test_shares"]["ways"])
    assert found.loc["0.5", "mean"] == f"{run.metrics['test']['accuracy']:.4f}"
    assert sorted(map(float, found.index)) == list(dual_cifar.FEW_SHARES)
    validate(run.record)


def test_random_passes_come_with_the_fixed_grid_beside_them(settings, parts):
    model, run = dual_cifar.train(settings, parts, "fmp3")
    run = dual_cifar.with_passes(settings, model, run, parts)
    found = results.table(run.metrics["test_passes"]["ways"])
    assert list(found.index) == ["fixed grid", "1 random pass", "2 random passes"]
    assert found.loc["fixed grid", "mean"] == f"{run.metrics['test']['accuracy']:.4f}"
    validate(run.record)


def test_maps_of_either_way_are_drawn_and_compared(parts):
    looked = parts.test.take(range(8))
    asked = models.build("fmp3"), looked.images, looked.labels
    by_class, by_hiding = saliency.class_maps(*asked), saliency.hiding_maps(*asked)
    assert {found.shape for maps in (by_class, by_hiding) for found in maps.values()} == {(8, 32, 32)}
    axes = results.heat(looked, by_class, "accn").axes[0]
    assert axes.get_title("left").startswith("accn of this execution")
    under = [looked.classes[head][label] for head in ("first", "second") for label in looked.labels[head][:6]]
    assert [text.get_text() for text in axes.texts if text.get_text() in under] == under
    assert "Over the pixels of 8 images" in results.maps_agree(by_class, by_class)
    nothing = {head: np.zeros((8, 32, 32)) for head in by_class}
    assert "too little has been learnt" in results.maps_agree(by_class, nothing)


def test_best_is_by_validation_and_leaves_the_largest_aside():
    values = {"accn": 0.4, "fmp3": 0.5, "lacnn": 0.9, "lacnn_padded": 0.9}
    trained = {name: (None, SimpleNamespace(validated=value)) for name, value in values.items()}
    assert results.best(trained) == "fmp3"
    assert results.best({}) is None


def test_curves_by_pairs_hold_what_the_report_prints_and_the_longest_records():
    curves = results.by_pairs()
    printed = curves["accnl, report"]
    assert printed[results.PAIRS].max() == pytest.approx(67 * 703 * 64 / 1e3)
    assert printed["val_accuracy"].is_monotonic_increasing
    names = (*dual_cifar.REPORTED, "better")  # the ablation is a table
    recorded = [run for name in names for run in results._recorded(name)]
    assert len(curves) == len(recorded) + 2
    for run in recorded:
        curve = curves[f"{run.name.removeprefix('dual_cifar/')}, seed {run.seed}"]
        assert curve[results.PAIRS].iloc[-1] == pytest.approx(
            run.epochs * run.record["data"]["train"]["n"] / 1e3
        )


@pytest.fixture
def records(monkeypatch):
    """Stand-ins for committed records."""
    found = []
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [run for run in found if run.name == name])
    return found


def run_of(name, accuracy, *, epochs=4, seed=0, source="pairs of folder x", here=False):
    """A run as a record has it, of a network that was never trained."""
    test = {
        "accuracy": accuracy,
        "interval": (accuracy - 0.1, accuracy + 0.1),
        "both_right": accuracy**2,
        "macro_f1": accuracy,
        "heads": {head: {"accuracy": accuracy} for head in ("first", "second")},
    }
    record = {
        "seed": seed,
        "best_epoch": 1,
        "recipe": {"epochs": epochs, "precision": "float32"},
        "data": {"train": {"n": 500_000, "source": source}},
        "history": {"epoch": list(range(1, epochs + 1))}
        | {name: [accuracy] * epochs for name in ("accuracy", "val_accuracy", "loss", "val_loss")},
        "metrics": {
            "test": test,
            "test_shares": {"ways": {f"{share:g}": test for share in dual_cifar.SHARES}},
        },
    }
    return Run(f"dual_cifar/{name}", "", Path() if here else None, record)


def test_the_recorded_ablation_compares_runs_that_had_as_much_time(records):
    records += [run_of("accn", 0.6), run_of("accn", 0.7, seed=1), run_of("accn", 0.9, epochs=9)]
    records += [run_of("accn_leaky", 0.5), run_of("accn_flip", 0.9, epochs=9)]
    table = results.recorded_ablation()
    assert table.loc["the report's recipe", "mean"].startswith("0.65")
    assert table.loc["leaky ReLUs", "mean"].startswith("0.5")
    assert table.loc["random flips of the average", "mean"] == "not run yet"
    assert table.loc["leaky ReLUs", "both right"] == "0.2500"
    assert table.loc["random flips of the average", "both right"] == ""


def test_a_change_is_told_from_luck_by_the_spread_between_seeds(records):
    assert results.ablation_says() == "None of it is on record yet."
    assert "on record yet" in results.ablation_in_short()
    for seed, luck in enumerate((-0.01, 0, 0.01)):
        for name, mean in (("accn", 0.6), ("accn_parts", 0.65), ("accn_leaky", 0.59)):
            records.append(run_of(name, mean + luck, seed=seed))
    assert "given 2,000,000 pairs" in results.ablation_says()
    moved, still = results.ablation_says().split(" Not told from luck: ")
    assert moved.endswith("(3 seeds): flips and shifts of each image before averaging (+5.0 points).")
    told = 100 * 3 * 0.01 * (2 / 3) ** 0.5  # three standard errors of a difference of means over three seeds
    small = f"A gain of less than {told:.0f} points could not be told from luck in any row."
    assert still == f"leaky ReLUs (-1.0 points). {small}"
    short = "Of the 2 changes of the ablation, its few epochs tell from luck: flips and shifts"
    assert results.ablation_in_short().startswith(short)


def test_what_the_reports_code_built_is_drawn_in_its_place_where_it_ran_in_full(records):
    run = run_of("accn_l2", 0.7)
    run.record["command"] = "python -m labkit run dual_cifar/accn_l2 --profile full --epochs 3"
    records.append(run)
    assert results.to_show({}, ["accnrr"]) is None and "accn_l2, seed 0" not in results.by_pairs()
    run.record["command"] = "python -m labkit run dual_cifar/accn_l2 --profile full"
    assert results.to_show({}, ["accnrr"]) is run and "accn_l2, seed 0" in results.by_pairs()


def test_figures_are_drawn_of_records_where_this_execution_had_no_real_images(records):
    drawn = {"fmp3": (None, run_of("fmp3", 0.2, source="pairs of synthetic", here=True))}
    assert results.to_show(drawn, ["fmp3"]) == drawn["fmp3"][1]
    records += [run_of("fmp3", 0.5), run_of("accnl", 0.6, epochs=3)]
    assert results.to_show(drawn, ["fmp3"]) == records[0]
    assert results.to_show(drawn, dual_cifar.COMPARED) == records[1]
    assert (
        "accnl (recorded, seed 0: 1,500,000 pairs of folder x)"
        in results.ways(drawn, "test_shares").index.name
    )
    own = {"fmp3": (None, run_of("fmp3", 0.3, here=True))}
    assert results.to_show(own, dual_cifar.COMPARED) == own["fmp3"][1]
    assert "fmp3 (this execution" in results.curve("fmp3", own)._suptitle.get_text()
    assert results.curves(own).lines[0].get_label() == "fmp3 (this execution)"
    assert "fmp3 (this execution)" in results.shares(own).get_title(loc="left")


def test_the_largest_network_is_trained_in_full_only_on_a_gpu(settings, monkeypatch):
    quick, full = (replace(settings, profile=profile) for profile in ("quick", "full"))
    monkeypatch.setattr(dual_cifar.machine, "accelerators", list)
    assert dual_cifar.largest(settings) == (None,)
    assert dual_cifar.largest(quick) == (None, dual_cifar.PADDED)
    assert dual_cifar.largest(full) == ()
    monkeypatch.setattr(dual_cifar.machine, "accelerators", lambda: ["gpu:0"])
    assert dual_cifar.largest(full) == (None, dual_cifar.PADDED)


def test_padding_keeps_the_pixels_and_scaling_blends_them(parts):
    image = parts.test.images[:1].astype("float32")
    padded, scaled = (np.asarray(allconv.enlarged(image, padded=way)) for way in (True, False))
    assert padded.shape == scaled.shape == (1, 126, 126, 3)
    np.testing.assert_array_equal(padded[:, 47:79, 47:79], image)
    assert padded.sum() == image.sum()
    assert scaled.mean() == pytest.approx(image.mean(), rel=0.01)
    drawn = results.enlarged(parts.test.take(range(3)))
    assert plots.alt(drawn) == "Averages as lacnn sees them, pairs of synthetic, seed 0: padded, scaled."


def test_the_largest_network_says_an_accuracy_only_of_many_pairs():
    run = run_of("lacnn_padded", 0.7)
    run.metrics["test"]["n"] = 10_000
    assert results.large(run) == "`lacnn_padded` scores 0.7000 on 10,000 pairs."
    run.record["data"]["train"]["n"] = 2
    assert "trained on 2 pairs" in results.large(run) and "0.7" not in results.large(run)


def test_costs_are_those_of_the_cards():
    costs = results.costs()
    for name in ("fmp3", "accn", "lacnn"):
        millions = float(costs.loc[name, "million MACs an image"].replace(",", ""))
        assert millions == pytest.approx(models.card(name).macs / 1e6, abs=0.5)


def test_random_passes_are_judged_by_the_interval_of_the_fixed_grid(records):
    assert results.passes_say({}) == ""
    run = run_of("fmp3", 0.5)
    for gain, said in ((0.05, "+5.0 points, inside"), (0.2, "+20.0 points, outside")):
        test = run.metrics["test"]
        better = test | {"accuracy": 0.5 + gain}
        run.metrics["test_passes"] = {"ways": {"fixed grid": test, "100 random passes": better}}
        records[:] = [run]
        assert f"100 random passes change the mean by {said} its interval" in results.passes_say({})


def test_the_best_published_figure_stands_beside_the_step_past_the_reports(records):
    assert "0.798 ± 0.003" in results.best_known() and "`better`" not in results.best_known()
    run = run_of("better", 0.8)
    run.record["model"] = {"parameters": {"total": 2_000_000}}
    records.append(run)
    assert "2.0 M parameters and 2.00 M pairs, has 0.8000 (1 seed)" in results.best_known()


def test_runs_are_held_against_the_epochs_that_the_report_prints(records):
    assert results.at_printed_epochs().startswith("No recorded run")
    run = run_of("accnl", 0.7, epochs=20)
    run.record["data"]["train"]["n"] = dual_cifar.FULL_EPOCH
    run.record["history"]["lr"] = [1e-3] * 20
    records.append(run)
    assert results.at_printed_epochs() == (
        "After 19 epochs `accnl` validates at 0.73 in the report, and at 0.700 here, still at its first rate."
    )


def test_without_a_network_and_without_a_record_the_page_says_so(records):
    assert all(
        "none is on record" in shown.data or "not on record" in shown.data
        for shown in (
            results.curve("fmp3", {}),
            results.curves({}),
            results.shares({}),
            results.confusion({}, "first"),
        )
    )


def test_the_summary_leaves_out_a_network_that_was_tested_on_a_handful_of_pairs():
    def tested(name, n, accuracy):
        return Run(f"dual_cifar/{name}", "", None, {"metrics": {"test": {
            "n": n, "accuracy": accuracy, "source": "pairs",
        }}})  # fmt: skip

    said = results.summary([tested("accn", 400, 0.3)])
    assert "\n- `accnl`, cut short by `--epochs 20`: 0.6948, where the report has 0.7453.\n" in said
    said = results.summary([tested("accn", 400, 0.3), tested("fmp3", 400, 0.2), tested("lacnn", 2, 0.5)])
    assert "best mean accuracy is 0.300, of accn" in said
