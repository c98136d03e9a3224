"""Chapter 2's experiments, the tables and sentences made of records, and the notebook on odd photos."""

import math
import re
import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image

from labkit import chapters, costs, experiments, models, scoreboard, training
from labkit.data.names import ANIMALS
from labkit.errors import DataError, ModelError
from labkit.experiments import animals as lab
from labkit.experiments import animals_results as results
from labkit.experiments import animals_words as words
from labkit.runs import Run
from labkit.scoreboard import Side

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = ("ant", "bee", "wasp")


@pytest.fixture
def settings(tmp_path):
    return chapters.checked("animals", {"runs": str(tmp_path / "runs")})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The lightest backbone, as it is before training."""
    folder = str(tmp_path_factory.mktemp("runs"))
    return lab.begin(chapters.checked("animals", {"runs": folder}), "mobilenetv2")


def run_of(name: str, test: float, *, seed: int = 0, classes=STAND_IN, kept: bool = False, **changes) -> Run:
    """A run as a record has it, of a network that was never trained; of four epochs the second is best."""
    part = {"accuracy": test, "n": 600, "interval": (test - 0.02, test + 0.02), "classes": list(classes)}
    counts = [600 // len(classes)] * len(classes)
    part |= {"confusion": np.diag(counts).tolist(), "fingerprint": "insects"}
    history = {
        "epoch": [1, 2, 3, 4],
        "accuracy": [0.5, 0.7, 0.8, 0.9],
        "val_accuracy": [0.3, test, 0.4, test - 0.1],
        "val_loss": [1.5, 1.0, 1.2, 1.4],
        "seconds": [1_500.0, 600.0, 700.0, 800.0],
    }
    record = {
        "seed": seed,
        "history": history,
        "best_epoch": 2,
        "seconds": 3600.0,
        "recipe": {"restore_best": not name.endswith("_as_run"), "epochs": 4, "precision": "float32"},
        "hardware": {"cores": 2, "gpu": None},
        "model": {"name": name, "macs": None, "parameters": {"total": 1000, "trainable": 1000}},
        "data": {"train": {"source": "folder insects", "n": 2_000}, "valid": {"n": 300}},
        "metrics": {"test": {**part, "source": "folder insects"}},
    }
    return Run(f"animals/{name}", "0" * 16, Path() if kept else None, record | changes)


@pytest.fixture
def records(monkeypatch):
    """Stand-ins for committed records."""
    found = []
    monkeypatch.setattr(
        scoreboard, "recorded", lambda name="*": [run for run in found if fnmatchcase(run.name, name)]
    )
    return found


def drawn(n: int = 2_000) -> dict:
    """What a record says of synthetic training photos."""
    return {"train": {"source": "synthetic", "n": n}, "valid": {"n": 300}}


def three_seeds(name: str, *values: float) -> list[Run]:
    return [run_of(name, value, seed=seed) for seed, value in enumerate(values)]


# The experiments


def test_every_figure_of_the_report_can_be_run_by_name_as_meant_and_as_run():
    known = {name.split("/")[1] for name in experiments.names("animals/*")}
    for name in scoreboard.published("animals")["experiment"]:
        assert {name, f"{name}_as_run"} <= known


def test_photos_are_read_once_and_split_as_in_the_report(settings):
    train, valid, test = lab.split(settings)
    assert len(valid) == round(0.15 * (len(train) + len(valid))) and len(test)
    assert lab.split(settings)[0] is train


@pytest.mark.parametrize(
    ("given", "name", "count"),
    [
        ({}, "simple", None),
        ({}, "inception", 2),
        ({}, "xception", 2),
        ({"profile": "quick"}, "custom_resnet", None),
        ({"profile": "quick"}, "inception", 16),
        ({"profile": "full"}, "inception", None),
        ({"profile": "full"}, "xception", 16),
        ({"profile": "full", "weights": "imagenet"}, "xception", None),
    ],
)
def test_a_few_photos_do_where_a_step_is_all_that_is_shown(given, name, count):
    assert lab.few(chapters.checked("animals", given), name) == count


def test_a_run_on_a_few_photos_is_a_check_whatever_its_network(settings):
    few = {count for profile in lab.FEW.values() for count in profile.values()}
    assert max(few) <= lab.CHECKED
    made = {name: run_of(name, 0.2, data=drawn(lab.CHECKED)) for name in ("inception", "inception_as_run")}
    made["simple"] = run_of("simple", 0.5, data=drawn(lab.CHECKED + 1))
    assert list(results.results_only(made)) == ["simple"]


def test_few_photos_are_enough_for_every_part(settings):
    assert [len(part) for part in lab.photos(settings, "inception")] == [2, 2, 2]
    assert lab.photos(settings, "simple") is lab.split(settings)


def test_a_network_as_run_keeps_its_last_weights(settings):
    assert not lab._recipe(settings, "report002_mid", as_run=True).restore_best
    assert lab._recipe(settings, "report002_mid", as_run=False).restore_best


def test_a_trained_network_is_scored_once(settings, monkeypatch):
    _, run = lab.trained(settings, "simple")
    assert run.metrics["test"]["n"] == len(lab.split(settings)[2]) and run.epochs == 1
    monkeypatch.setattr(lab.evaluation, "predict", lambda *_: pytest.fail("scored again"))
    assert lab.trained(settings, "simple")[1].metrics == run.metrics


def test_the_modes_train_what_the_report_counts(start):
    built, printed = start.trainable(), results.printed_counts("mobilenetv2")
    assert built["transfer"] == printed["transfer"] == 20_486_005
    assert built["finetune"] == printed["finetune"] == 22_709_877
    assert built["partial"] == 21_218_485 != printed["partial"]
    assert built["finetune"] - built["partial"] + built["transfer"] == printed["partial"] == 21_977_397


def test_no_number_of_last_layers_gives_the_printed_count(start):
    tops = start.top_counts()
    assert len(tops) == 155 and tops[10] == start.trainable()["partial"]
    assert not (tops == results.printed_counts("mobilenetv2")["partial"]).any()
    page = results.last_ten({"mobilenetv2": start}).to_html()
    assert "732,480" in page and page.count("1,491,392") == 2


def test_the_counts_are_called_equal_only_at_the_reports_size(start, monkeypatch):
    table = results.counts_table({"mobilenetv2": start}, lab.MODES)
    assert table[""].tolist() == ["equal", "equal", "differs"]
    monkeypatch.setattr(results, "REPORTED_CLASSES", 4)
    assert set(results.counts_table({"mobilenetv2": start}, lab.MODES)[""]) == {"other size"}


def test_in_smoke_the_smallest_backbone_alone_takes_every_mode():
    def tried(**given):
        settings = chapters.checked("animals", given)
        return {name: lab.modes(settings, name) for name in settings.backbones}

    assert tried() == {
        "resnet50v2": ("transfer",),
        "mobilenetv2": tuple(lab.MODES),
        "xception": ("transfer",),
    }
    assert tried(backbones="resnet50v2", modes="finetune,partial") == {"resnet50v2": ("finetune", "partial")}
    assert all(modes == tuple(lab.MODES) for modes in tried(profile="quick").values())


def test_each_mode_starts_with_the_same_weights(start):
    model = start.again("all")
    model.set_weights([np.zeros_like(weight) for weight in start.weights])
    again = start.again("none")
    for kept, weight in zip(start.weights, again.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)
    assert models.spec(again)["options"]["freeze"] == "none"
    with pytest.raises(ModelError, match="Did you mean 'none'"):
        models.refreeze(model, "nome")


def test_fine_tuning_trains_the_head_first_and_then_everything_slowly(settings, start, monkeypatch):
    calls = []

    def fit(model, train, valid, recipe, *, run, runs, frozen_once):
        calls.append((models.counts(model).trainable, recipe.lr, frozen_once, run))
        return run_of("unkept", 0.5, metrics={})

    monkeypatch.setattr(training, "fit", fit)
    run = lab.pretrained(settings, "mobilenetv2", "finetune", start=start)
    assert calls == [(20_486_005, 1e-3, True, None), (22_709_877, 1e-5, False, None)]
    assert run.name == "animals/mobilenetv2_finetune" and not run.metrics
    real = replace(settings, profile="quick", own={**settings.own, "weights": "imagenet"})
    monkeypatch.setattr(lab, "photos", lambda *_: lab.split(settings))
    run = lab.pretrained(real, "mobilenetv2", "transfer", start=start)
    assert calls[-1] == (20_486_005, 1e-4, True, "animals/mobilenetv2_transfer")
    assert run.metrics["test"]["n"] == len(lab.split(settings)[2])


def test_weights_are_found_in_a_folder_by_the_backbones_name(settings, tmp_path):
    def given(weights):
        return replace(settings, own={**settings.own, "weights": str(weights)})

    for name in (
        "resnet50v2_weights_tf_notop.h5",
        "mobilenet_v2_weights_tf_1.0_224_no_top.h5",
        "xception.h5",
    ):
        (tmp_path / name).touch()
    assert lab.weights(given(tmp_path), "mobilenetv2").endswith("1.0_224_no_top.h5")
    assert lab.weights(given(tmp_path), "resnet50v2").endswith("resnet50v2_weights_tf_notop.h5")
    with pytest.raises(ModelError, match=r"holds no weights of xception[^$]*_notop\.h5[^$]*To mend it"):
        lab.weights(given(tmp_path), "xception")
    assert lab.weights(settings, "xception") is None and lab.weights(given("imagenet"), "x") == "imagenet"


def test_missing_weights_are_missed_before_anything_trains(settings, tmp_path, monkeypatch):
    given = replace(settings, own={**settings.own, "weights": str(tmp_path)})
    with pytest.raises(ModelError, match="holds no weights of resnet50v2"):
        lab.check_weights(given)
    (tmp_path / "resnet50v2_notop.h5").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="does not fit"):
        lab.check_weights(given)
    monkeypatch.setattr(lab, "build", lambda *_: pytest.fail("built without need"))
    lab.check_weights(settings)
    source = (ROOT / "notebooks" / "animals.md").read_text(encoding="utf-8")
    assert source.index("lab.check_weights(") < source.index("lab.train(")


def test_what_is_repeated_as_run_depends_on_the_profile():
    def names(profile, **given):
        return lab.slips(chapters.checked("animals", {"profile": profile, **given}))

    assert names("smoke") == ("simple", "custom_resnet")
    assert names("quick") == ("simple", "mid", "custom_resnet", "resnet_aug")
    assert names("full") == tuple(lab.SCRATCH)
    assert names("smoke", models="mid") == ()
    assert lab.pretrained_slips(chapters.checked("animals", {"profile": "full"})) == ()
    given = {"profile": "full", "weights": "imagenet", "backbones": "xception"}
    assert lab.pretrained_slips(chapters.checked("animals", given)) == ("xception",)


def test_dead_weights_are_those_that_never_move(settings):
    names = ("custom_resnet", "custom_resnet_as_run")
    networks = {
        name: lab.trained(settings, "custom_resnet", as_run=name.endswith("run"))[0] for name in names
    }
    table = results.untouched("custom_resnet", networks)
    assert table["never moved"].tolist() == ["0", "3,173,376"]
    assert results.untouched("custom_resnet", {}).empty


# Tables and sentences


def test_without_records_every_answer_says_so(records, settings):
    assert words.claims().data.count("not on record yet") == 4
    assert "not on record yet" in words.records_note().data
    assert "not on record yet" in words.to_expect().data
    assert "none yet" in words.pretrained_status({}, settings).data
    assert "Networks from scratch on record: none yet" in words.summary({}, settings).data
    assert results.for_the_reader().to_html().count("not on record yet") == 6
    assert "not asked for" in results.beside("mid", {}).data
    assert results.best_and_last({}).empty and results.as_run_beside({}).empty


def test_a_page_without_weights_says_that_its_rows_are_checks(settings):
    assert "architecture checks" in words.weights_note(settings).data
    assert "no results" in words.weights_note(settings).data
    real = replace(settings, profile="full", own={**settings.own, "weights": "imagenet"})
    assert "checks" not in words.weights_note(real).data


@pytest.mark.parametrize(
    ("plain", "augmented", "says"),
    [
        ((0.60, 0.61, 0.62), (0.66, 0.66, 0.67), "so these records cannot tell"),
        ((0.60, 0.60, 0.60), (0.67, 0.67, 0.67), "meant: +7.0 ± 5.5 points on test photos, +7.0 on valid"),
        ((0.60, 0.60, 0.60), (0.67, 0.67, 0.67), "so it holds"),
        ((0.60, 0.60, 0.60), (0.61, 0.61, 0.61), "so these records cannot tell"),
        ((0.66, 0.66, 0.66), (0.60, 0.60, 0.60), "does not hold: it is worth less"),
        ((0.60, 0.60, 0.60), (0.75, 0.75, 0.75), "does not hold: it is worth more"),
    ],
)
def test_the_worth_of_augmentation_is_judged_with_its_luck(records, plain, augmented, says):
    records += three_seeds("custom_resnet", *plain) + three_seeds("resnet_aug", *augmented)
    told = words.claims().data
    assert says in told.splitlines()[0]
    assert "Recorded as run: not on record yet" in told


@pytest.mark.parametrize(
    ("deep", "regularised", "says"),
    [
        (0.61, 0.70, "so it holds"),
        (0.65, 0.68, "so these records cannot tell"),  # the two deeper ones are too near to each other
        (0.70, 0.75, "does not hold: depth alone is enough"),
        (0.48, 0.50, "does not hold: depth with regularisation is worse"),
        (0.55, 0.58, "so these records cannot tell"),
    ],
)
def test_depth_is_judged_against_the_shallower_network(records, deep, regularised, says):
    records += three_seeds("mid", 0.6, 0.6, 0.6)
    for ending in ("", "_as_run"):  # mid as run is missing: its network is the same
        records += three_seeds(f"custom_resnet{ending}", deep, deep, deep)
        records += three_seeds(f"resnet_aug{ending}", regularised, regularised, regularised)
    for run in records:
        run.record["history"]["val_accuracy"] = [run.metrics["test"]["accuracy"]] * 4
    assert words.claims().data.splitlines()[1].count(says) == 2


def test_half_of_a_claim_is_told_and_left_open(records):
    records += three_seeds("mid", 0.6, 0.6, 0.6) + three_seeds("custom_resnet", 0.7, 0.7, 0.7)
    depth = words.claims().data.splitlines()[1]
    half = r"`custom_resnet` \+10.0 ± \S+ points on test .* photos; `resnet_aug` is not on record yet"
    assert re.search(half, depth)
    assert depth.endswith("Recorded as run: not on record yet.")


def test_a_gain_that_validation_photos_deny_is_not_told(records):
    records += three_seeds("custom_resnet", 0.6, 0.6, 0.6) + three_seeds("resnet_aug", 0.67, 0.67, 0.67)
    for run in records[3:]:
        run.record["history"]["val_accuracy"][1] = 0.59  # of the epoch that was tested
    said = "+7.0 ± 5.5 points on test photos, -1.0 on validation photos, so these records cannot tell"
    assert said in words.claims().data


def test_the_records_bear_out_what_the_cover_says_of_the_claims_and_of_luck():
    assert words.claims().data.count("so these records cannot tell") == 4
    slips = [
        results.difference(results.recorded(name), results.recorded(f"{name}_as_run"))
        for name in ("simple", "mid", "custom_resnet", "resnet_aug")
    ]
    assert [slip.points > 0 for slip in slips] == [True, True, False, False]
    assert all(abs(slip.points) < slip.luck for slip in slips)
    assert not any(results.recorded(name).values for name in results.PRETRAINED)


def test_luck_counts_seeds_and_photos():
    one, many = (
        Side("test_accuracy", tuple(three_seeds("x", *values))) for values in ((0.6,), (0.6, 0.6, 0.6))
    )
    photos = 2 * 0.6 * 0.4 / 600
    assert results.difference(many, many).luck == pytest.approx(200 * math.sqrt(photos))
    assert results.difference(one, one).luck == pytest.approx(200 * math.sqrt(photos + 2 * 0.01**2))
    assert results.difference(one, Side("test_accuracy", ())) is None


def test_records_of_other_photos_are_called_stand_ins(records):
    records += three_seeds("simple", 0.5, 0.6)
    told = words.records_note().data
    assert "stand-in photos and not the report's data set" in told and "may recognise a source" in told
    assert "2,000 training, 300 validation and 600 test photos of 3 classes" in told
    assert "ant 200, bee 200, wasp 200" in told
    assert "recorded on stand-in photos** 0.5500 ± 0.0707 (2 seeds)" in results.beside("simple", {}).data
    records[:] = [run_of("simple", 0.7, classes=ANIMALS)]
    assert "stand-in" not in words.records_note().data + results.beside("simple", {}).data


def test_a_line_has_the_report_the_record_and_this_execution(records):
    records += [run_of("simple", 0.5), run_of("simple_as_run", 0.4)]
    line = results.beside("simple", {"simple": run_of("simple", 0.25, kept=True)}).data
    for part in ("0.7695", "photos** 0.5000", "as the report ran** 0.4000", "0.2500 on 600 photos"):
        assert part in line
    assert "**report 002** not printed" in results.beside("xception_finetune", {}).data


def test_a_check_has_no_accuracy_and_no_curve(records):
    made = {"simple": run_of("simple", 0.25, kept=True, data=drawn(8))}
    line = results.beside("simple", made).data
    assert "own photos; not on record yet; **this execution** trained it on 8 photos" in line
    assert "0.25" not in line
    assert "too few photos for a curve, and it is not on record yet" in results.curves("simple", made).data
    assert "was not trained, and it is not on record yet" in results.curves("mid", made).data


def test_figures_are_drawn_of_records_where_this_execution_had_no_photos(records):
    made = {name: run_of(name, 0.2, kept=True, data=drawn()) for name in ("simple", "mid")}
    assert results.shown(lab.SCRATCH, made) == (made, "this execution, since none of them is on record yet")
    assert "this execution" in results.curves("simple", made)._suptitle.get_text()
    records.append(run_of("simple", 0.5))
    assert list(results.shown(lab.SCRATCH, made)[0]) == ["simple"]
    assert "recorded, seed 0" in results.curves("simple", made)._suptitle.get_text()
    own = {"simple": run_of("simple", 0.2, kept=True)}
    assert results.shown(lab.SCRATCH, own) == (own, "this execution")
    few = {"simple": run_of("simple", 0.2, kept=True, data={"train": {"source": "folder insects", "n": 16}})}
    assert list(results.shown(lab.SCRATCH, few)[0].values()) == records


def test_only_accuracies_on_enough_real_photos_share_an_axis(records):
    records.append(run_of("simple", 0.5))
    own = {"simple": run_of("simple", 0.2)}
    assert results.scores(lab.SCRATCH, own).loc["simple"].tolist() == [0.7695, 0.5, 0.2]
    few = {"train": {"source": "folder insects", "n": 16}}
    for others in (drawn(), few):
        table = results.scores(lab.SCRATCH, {"simple": run_of("simple", 0.2, data=others)})
        assert list(table.columns) == ["report 002, its photos", "recorded"]


def test_recorded_runs_are_the_longest_on_one_set_of_photos(records):
    records += three_seeds("simple", 0.5, 0.6, 0.7)
    records.append(run_of("simple", 0.1, recipe={"restore_best": True, "epochs": 2}))
    other = {"accuracy": 0.9, "n": 50, "classes": list(STAND_IN), "fingerprint": "other insects"}
    records.append(run_of("simple", 0.9, metrics={"test": other}))
    assert results.recorded("simple").values == (0.5, 0.6, 0.7)


def test_the_gap_is_that_of_the_weights_that_were_scored():
    runs = {name: run_of(name, 0.6) for name in ("simple", "simple_as_run")}
    assert results.by_size(runs)["accuracy"].tolist() == [0.7, 0.9]
    assert results.reported_by_size().loc["simple", "parameters"] == 726_277


def test_the_last_epoch_stands_beside_the_best(records):
    records.append(run_of("mid", 0.6))
    table = results.best_and_last({"simple_as_run": run_of("simple_as_run", 0.5, kept=True)})
    assert table.index.tolist() == ["simple_as_run, here", "mid, seed 0"]
    assert table.iloc[1].tolist() == ["2", "4", "0.6000", "0.5000", "+10.0", "1.000", "1.400"]


def test_every_recorded_seed_is_shown_unless_the_reader_has_real_photos(records):
    records += three_seeds("mid", 0.6, 0.7)
    synthetic = {"mid": run_of("mid", 0.2, kept=True, data=drawn())}
    assert results.best_and_last(synthetic).index.tolist() == [
        "mid, seed 0",
        "mid, seed 1",
    ]
    own = {"mid": run_of("mid", 0.2, kept=True)}
    assert results.best_and_last(own).index.tolist() == ["mid, here"]


def test_validation_of_the_tested_weights_stands_beside_the_test(records):
    records += [*three_seeds("mid", 0.6, 0.7), run_of("mid_as_run", 0.5)]
    table = results.recorded_validation_and_test()
    assert table.loc["mid"].tolist() == ["2", "0.6500", "0.6500", "+0.0"]
    assert table.loc["mid_as_run"].tolist() == ["1", "0.4000", "0.5000", "+10.0"]  # of the last epoch


def test_as_run_stands_beside_as_meant(records):
    records += three_seeds("simple", 0.6, 0.6, 0.6) + three_seeds("simple_as_run", 0.5, 0.5, 0.5)
    table = results.as_run_beside({"mid": run_of("mid", 0.3), "mid_as_run": run_of("mid_as_run", 0.2)})
    assert table.loc["simple", "meant − run"].startswith("+10.0 ± 5.7 points")
    assert table.loc["mid"].tolist()[2:] == ["–", "0.3000", "0.2000"]


def test_the_comparison_names_what_the_report_trained(records):
    table = results.pretrained_table({"simple": run_of("simple", 0.1)})
    assert "resnet50v2_partial, 52.9 M" in table.index and "simple, 0.7 M" in table.index
    assert list(table.columns) == ["report 002, its photos"] and len(table) == 13
    made = {name: run_of(name, 0.9) for name in ("resnet50v2_partial", "xception_transfer")}
    table = results.pretrained_table(made)
    assert table["this execution"].dropna().index.tolist() == [
        "resnet50v2_partial, 52.9 M (as meant 36.2 M)",
        "xception_transfer, 18.4 M",
    ]


def test_the_final_network_is_chosen_by_validation(records):
    made = {"simple": run_of("simple", 0.9, kept=True, data=drawn())}
    assert results.final(made) is made["simple"]
    records += [run_of("mid", 0.5), run_of("custom_resnet", 0.6)]
    assert results.final(made).name == "animals/custom_resnet"
    assert "names 60.0 % of 600 test photos rightly" in words.told(results.final(made)).data
    own = {"simple": run_of("simple", 0.2, kept=True), "mid": run_of("mid", 0.1, kept=True)}
    assert results.final(own) is own["simple"]


def test_a_check_without_a_score_is_not_the_final_network(records):
    made = {"simple": run_of("simple", 0.2, data=drawn(3))}
    made["xception_transfer"] = run_of("xception_transfer", 0.9, data=drawn(3), metrics={})
    assert results.final(made) is made["simple"]


def test_what_validates_best_is_the_epoch_that_was_kept(records):
    late = run_of("mid", 0.6)
    late.record["history"]["val_accuracy"][3] = 0.99  # an epoch whose weights nobody has
    made = {"mid": late, "simple": run_of("simple", 0.7), "inception": run_of("inception", 1, data=drawn(16))}
    assert results.final(made) is made["simple"]
    assert results.best_here(dict.fromkeys(made), made) == "simple"
    assert results.best_here({"inception": None}, made) is None


def test_the_summary_names_a_best_network_only_of_several(records):
    def told():
        return words.summary({}, chapters.checked("animals", {})).data

    records += three_seeds("simple", 0.5, 0.6)
    assert "on record: simple." in told() and "validates best" not in told()
    records.append(run_of("mid", 0.5))
    records[-1].record["history"]["val_accuracy"][1] = 0.8  # validates better than it tests
    assert "`mid` validates best; its test accuracy is 0.5000" in told()


def test_what_the_reader_pays_is_recorded_or_counted(records):
    page = results.for_the_reader().data.set_index("way")
    assert page.loc["mobilenetv2, frozen", "features, once"] == "about 2 s, foretold"
    assert page.loc["mobilenetv2, frozen", "each training"] == "about 22 s, foretold"  # of 20 million weights
    assert "foretold" in page.loc["mid from scratch", "each training"]
    records += [run_of("mid", 0.5), run_of("mid", 0.5, seed=1, hardware={"cores": 16, "gpu": "H200"})]
    records[-1].record["history"]["seconds"] = [1.0] * 4
    row = results.for_the_reader(1_000).data.set_index("way").loc["mid from scratch"]
    assert row["each training"] == "about 20 min, recorded"
    assert "from 2,000 photos" in row["recorded here"]


def test_costs_and_records_are_counted_alike(records):
    records += three_seeds("simple", 0.5) + three_seeds("simple_as_run", 0.5)
    assert "Runs on record: 2," in words.records_note().data
    assert "Recorded runs so far: 2, 1.3 h in all" in words.to_expect().data
    both, once = (words._training(profile, ["custom_resnet"]) for profile in ("quick", "smoke"))
    speed = costs.speed(costs.CORES, costs.sizes(), scoreboard.recorded())
    epoch = 1_000 * sum(speed.seconds(1e6 * macs * costs.PASSES, "residual") for macs in (474.18, 332.56))
    assert (both, once) == (costs.spoken(4 * epoch), costs.spoken(epoch))
    inception = 4_000 * speed.seconds(1e6 * 7_546.61 * costs.PASSES, "inception")
    assert words._training("quick", ["inception"]) == costs.spoken(inception)


def test_what_slips_cost_is_told_from_luck(records):
    assert "No network is on record both ways" in words.slips_cost().data
    records += [run_of("simple", 0.6), run_of("simple_as_run", 0.58), run_of("mid", 0.7)]
    assert "both ways: 1." in words.slips_cost().data and "none of them" in words.slips_cost().data
    records.append(run_of("mid_as_run", 0.8))
    assert "luck gives for `mid` -10.0 ±" in words.slips_cost().data


def test_sentences_that_compare_are_computed(records, start, monkeypatch):
    assert "+10.7 points in report 002; recorded: not on record yet" in words.step("mid", "simple").data
    records += three_seeds("mid", 0.7, 0.7, 0.7) + three_seeds("simple", 0.5, 0.5, 0.5)
    assert "recorded: +20.0 ±" in words.step("mid", "simple").data
    assert "could look at 16," in words.cost_beside("inception", "custom_resnet").data
    told = words.pretrained_in_report().data
    assert "8 pretrained" in told and "4 of its 5" in told and "xception with partial" in told
    table = pd.DataFrame({"parameters": [1, 3, 2], "accuracy": 0.9, "test_accuracy": [0.8, 0.6, 0.7]})
    assert "Size alone orders them" in words.gaps(table).data
    assert "does not order them" in words.gaps(table.assign(test_accuracy=[0.8, 0.6, 0.5])).data
    assert "takes two networks" in words.gaps(table[:1]).data
    told = words.counts_line({"mobilenetv2": start}, lab.MODES).data
    assert "`transfer`: equal; `finetune`: equal; `partial`: differs" in told
    monkeypatch.setattr(results, "REPORTED_CLASSES", 4)
    assert "cannot be compared" in words.counts_line({"mobilenetv2": start}, lab.MODES).data


def test_sizes_are_those_of_the_networks_at_hand(records):
    networks = {"simple": models.build("simple", input_shape=(80, 80, 3), classes=2)}
    counted = models.counts(networks["simple"]).total
    page = results.from_scratch({}, networks).data.set_index("network")
    assert page["parameters"].tolist() == [f"{counted:,}", "–", "–", "–", "–"] and counted != 188_677
    head = networks["simple"].layers[-1].count_params()
    assert f"{head:,} of its {counted:,} parameters" in words.last_layer(networks).data
    assert "not among the networks" in words.last_layer({}).data


def test_258_and_256_make_the_same_steps(settings):
    told = words.batches(lab.split(settings)[0]).data
    assert "258 makes 45 steps an epoch and 256 makes 45" in told and "changes by 0.4 in a hundred" in told
    assert f"in proportion to the photos, here {lab.LEAST}." in told


@pytest.mark.parametrize(
    ("photos", "batch"), [(11_453, 258), (50_000, 258), (2_686, 61), (100, lab.LEAST), (1, lab.LEAST)]
)
def test_a_batch_follows_the_photos_and_makes_the_reports_steps(photos, batch):
    assert lab.batch_in_proportion(258, photos) == batch
    if lab.LEAST < batch < 258 or photos == 11_453:
        assert math.ceil(photos / batch) == 45


def test_networks_with_batch_normalization_keep_the_steps_and_others_the_batch(settings, monkeypatch):
    full = chapters.checked("animals", {"profile": "full", "runs": str(settings.runs)})
    taken = {}
    monkeypatch.setattr(lab, "split", lambda _: lab._split("synthetic", 75, 0, 60))
    monkeypatch.setattr(
        training, "fit", lambda model, train, valid, recipe, run, **_: taken.update({run: recipe.batch_size})
    )
    monkeypatch.setattr(lab, "_scored", lambda run, model, test: run)
    for given in (full, settings):
        for name in ("simple", "mid", "custom_resnet"):
            lab.trained(given, name, as_run=name == "custom_resnet")
        wanted = (258, 258, lab.LEAST) if given is full else (settings.batch,) * 3
        assert tuple(taken.values()) == wanted
        taken.clear()


def test_noise_and_ranges_in_numbers(settings):
    table = results.noise(settings, {})
    assert table["deviation in grey levels"].tolist() == pytest.approx([2.55, 0.01])
    assert table.loc["as run", "share of pixels changed"] == 0
    table = results.ranges(lab.split(settings)[0])
    assert table.loc["as meant", "lowest"] < -0.5 and table.loc["as run", "lowest"] >= 0


def test_augmentation_shows_the_same_photo_in_other_ways(settings):
    photo = lab.split(settings)[0].images[0]
    seen = results.augmented(models.build("resnet_aug"), photo, 3)
    assert seen.shape == (3, *photo.shape) and 100 < seen.max() < 300
    assert np.abs(seen[0] - seen[1]).mean() > 5


def test_validation_and_test_of_the_report_are_told_apart():
    told = words.validation_line().data
    assert "Over 13 networks" in told and "13 of 13 score higher" in told


# Odd photos


def speckled(rng, width, height, channels=3):
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def odd_photos(tmp_path):
    """Two classes of three photos a part, of odd sizes and modes."""
    rng = np.random.default_rng(0)
    photos = {
        "left": {
            "grey.png": Image.fromarray(speckled(rng, 37, 211)[..., 0]),
            "one_bit.png": Image.fromarray(speckled(rng, 140, 90)[..., 0] > 99),
            "tiny.png": Image.fromarray(speckled(rng, 3, 2)),
        },
        "right": {
            "indexed.png": Image.fromarray(speckled(rng, 90, 140)).quantize(16),
            "narrow.bmp": Image.fromarray(speckled(rng, 7, 301)),
            "plain.jpg": Image.fromarray(speckled(rng, 64, 64)),
        },
    }
    folder = tmp_path / "odd"
    for part in ("train", "valid"):
        for name, files in photos.items():
            (folder / part / name).mkdir(parents=True)
            for file, photo in files.items():
                photo.save(folder / part / name / file)
    return folder


@pytest.mark.parametrize(
    ("mode", "says"), [("RGBA", "odd.png is RGB with transparency"), ("CMYK", "odd.jpg is CMYK")]
)
def test_a_photo_with_other_than_three_colours_is_refused_by_name(odd_photos, settings, mode, says):
    suffix = "png" if mode == "RGBA" else "jpg"
    Image.new(mode, (20, 20)).save(odd_photos / "train" / "left" / f"odd.{suffix}")
    with pytest.raises(DataError, match=says):
        lab.split(replace(settings, data=str(odd_photos)))


def test_sizes_are_those_of_the_files(odd_photos, settings):
    table = results.sizes(replace(settings, data=str(odd_photos)))
    assert table["width"].tolist()[::4] == [3, 140] and table["height"].tolist()[::4] == [2, 301]
    assert "12 of 12 files" in table.index.name and "2 P" in table.index.name
    assert "no other size" in results.sizes(settings).data
    packed = odd_photos.parent / "odd.zip"
    packed.touch()
    assert "were packed" in results.sizes(replace(settings, data=str(packed))).data


@pytest.mark.parametrize(
    ("part", "called", "given"),
    [
        ("", "odd", {"models": "simple,custom_resnet", "modes": "transfer"}),
        ("moved", "moved", {"models": "simple", "modes": "finetune,partial"}),  # class folders alone
    ],
)
def test_the_whole_notebook_runs_on_two_classes_of_three_odd_photos(
    odd_photos, tmp_path, part, called, given
):
    folder = shutil.copytree(odd_photos / "train", tmp_path / part) if part else odd_photos
    given |= {"data": str(folder), "runs": str(tmp_path / "runs"), "backbones": "mobilenetv2"}
    done = papermill.execute_notebook(
        jupytext.read(ROOT / "notebooks" / "animals.md"),
        tmp_path / "out.ipynb",
        parameters=given,
        progress_bar=False,
        cwd=str(ROOT),
    )
    assert done.metadata.papermill.exception is None
    page = "\n".join(
        str(output) for cell in done.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "architecture checks" in page and f"folder {called}" in page
    assert "`inception` is not among the networks of this execution" in page


def test_nothing_in_the_chapter_names_a_class():
    text = (ROOT / "notebooks" / "animals.md").read_text(encoding="utf-8")
    named = (*ANIMALS, "bird", "panda", "snake")
    assert re.findall(rf"\b({'|'.join(named)})s?\b", text, re.IGNORECASE) == []


def test_every_network_takes_a_step_in_smoke(smoke):
    executed, folder = smoke("animals")
    trained = {path.name.rsplit("-", 1)[0] for path in (folder / "animals").iterdir() if path.is_dir()}
    assert set(lab.SCRATCH) <= trained
    page = "\n".join(
        str(output) for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
    )
    fits = {"mobilenetv2": len(lab.MODES) + 1, "resnet50v2": 1, "xception": 1}  # a head before fine-tuning
    for backbone in lab.BACKBONES:
        assert page.count(f"unkept/{backbone}: epoch 1 of 1") == fits[backbone]
