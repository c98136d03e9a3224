"""Chapter 4's grid, its slips, the choice of one network, its only test, and the tables made of runs."""

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from labkit import (
    augment,
    chapters,
    costs,
    evaluation,
    experiments,
    recipes,
    runs,
    scoreboard,
    training,
    tuning,
)
from labkit.errors import ModelError, RunError
from labkit.experiments import cifar100
from labkit.experiments import cifar100_results as results
from labkit.experiments import cifar100_words as says
from labkit.experiments.cifar100 import AS_RUN, CUT_DOWN, GRID, TUNED, Cell, Outcome, Searched
from labkit.labels import confident
from labkit.runs import Run, load
from labkit.runs.record import RECORD, write


@pytest.fixture
def settings(tmp_path):
    return chapters.checked("cifar100", {"models": "mlp", "runs": str(tmp_path)})


@pytest.fixture
def asked(monkeypatch):
    """The fingerprints of all images that anything predicts."""
    seen, predict = [], evaluation.predict

    def noting(model, images, **options):
        seen.append(images.fingerprint())
        return predict(model, images, **options)

    monkeypatch.setattr(evaluation, "predict", noting)
    return seen


def run_of(
    name: str,
    valid: float,
    *,
    train: float = 0.5,
    source: str = "folder cifar-100-binary",
    seed: int = 0,
    model: str = "mlp",
    options: dict | None = None,
    **metrics: float,
) -> Run:
    """A run as a record has it, of a network that was never trained."""
    part = {
        "accuracy": valid,
        "n": 100,
        "source": source,
        "scored": "2026-01-01T00:00:00Z",
    }
    history = {
        "epoch": [1, 2],
        "seconds": [5.0, 5.0],
        "loss": [2.0, 1.0],
        "accuracy": [0.1, train],
        "val_accuracy": [0.1, valid],
    }
    record = {
        "seed": seed,
        "history": history,
        "best_epoch": 2,
        "seconds": 10.0,
        "model": {
            "name": model,
            "options": options or {},
            "macs": None,
            "parameters": {"total": 1000, "trainable": 1000},
        },
        "recipe": {"epochs": 50, "lr": 0.02, "precision": "float32"},
        "data": {"train": {"source": source, "n": 40_000}},
        "metrics": {"valid": part} | {key: {**part, "accuracy": value} for key, value in metrics.items()},
    }
    return Run(f"cifar100/{name}", "0" * 16, None, record)


def trial_of(name: str, score: float, decay: str = "l2") -> Run:
    """A trial of a search as a record has it: scored by its history alone, never asked for predictions."""
    run = run_of(name, score, model="custom_vgg16", options={decay: 1e-3})
    return replace(run, record={**run.record, "metrics": {}})


def search_of(*, real: bool = False, as_run: bool = False, failing: str = "") -> Searched:
    """A search of this execution with two trials, one of which failed."""
    table = pd.DataFrame(
        {
            "trial": ["0", "1"],
            "status": ["completed", "failed"],
            "weight_decay": [1e-3, 2e-3],
            "lr": [0.01, 0.02],
            "score": [0.4, np.nan],
            "epochs": pd.array([3, None], "Int64"),
            "seconds": [9.0, np.nan],
            "why": [None, "Memory ran out with batches of 64."],
        }
    )
    found = None if failing else SimpleNamespace(trials=table, best=table.loc[0])
    return Searched("custom_vgg_l2", as_run, real, found, failing)


@pytest.fixture
def records(monkeypatch):
    """Stand-ins for committed records."""
    found = []
    monkeypatch.setattr(
        scoreboard, "recorded", lambda name="*": [run for run in found if fnmatchcase(run.name, name)]
    )
    return found


def test_every_published_experiment_can_be_run_by_name():
    published = {row.experiment for row in scoreboard.rows("cifar100")}
    assert published <= {name.split("/")[1] for name in experiments.names("cifar100/*")}
    assert {cell.name for cell in (*GRID, TUNED)} >= published


def test_the_grid_is_every_model_with_every_augmentation():
    assert len(GRID) == 27 == len({cell.name for cell in GRID})
    assert chapters.CHAPTERS["cifar100"].models == cifar100.MODELS
    assert all(cell.says.endswith(".") for cell in (*GRID, *AS_RUN, *CUT_DOWN))


@pytest.mark.parametrize("cell", GRID, ids=lambda cell: cell.name)
def test_a_cell_follows_the_report(cell):
    recipe = cell.recipe
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.batch_size) == ("sgd", 0.01, 0.9, 64)
    assert recipe.epochs == (100 if cell.model in ("mlp", "conv2d") else 50) and recipe.patience == 10
    assert recipe.augment == {"none": None}.get(cell.augmentation, cell.augmentation)


def test_the_tuned_network_has_the_reports_best_numbers():
    assert TUNED.recipe.lr == pytest.approx(0.022339) and TUNED.recipe.schedule == "cosine"
    assert TUNED.options == {"l2": 1.0701e-3} and TUNED.recipe.epochs == 60
    as_run = replace(TUNED, as_run=True)
    assert "dense_l2" in as_run.options and as_run.recipe.epochs == 50


def test_slips_are_kept_only_where_they_change_something():
    names = {cell.name for cell in AS_RUN}
    assert "mlp_as_run" not in names and "custom_resnet10_as_run" in names
    assert Cell("mlp", "cutmix", as_run=True).recipe.augment == "cutmix_unit"
    assert Cell("mlp", "basic", as_run=True).recipe.augment is None


def test_augmenting_once_leaves_half_of_the_images(settings):
    train, *_ = cifar100.split(settings)
    cell = Cell("mlp", "basic", as_run=True)
    once, other = (cifar100.prepared(replace(settings, seed=seed), train, cell) for seed in (0, 1))
    assert (once.images != other.images).any()
    same = (once.images == train.images).all((1, 2, 3)).mean()
    assert 0.4 < same < 0.65
    np.testing.assert_array_equal(once.labels, train.labels)
    assert cifar100.prepared(settings, train, Cell("mlp", "basic")) is train
    assert len(cifar100.prepared(settings, train, CUT_DOWN[0])) == 64


def test_the_wrong_scale_is_cutmix_in_the_dark(settings):
    train, *_ = cifar100.split(settings)
    labels = np.eye(100, dtype="float32")[train.labels]
    meant = augment.cutmix(train.images, labels, np.random.default_rng(0))
    as_run = augment.cutmix_unit(train.images, labels, np.random.default_rng(0))
    np.testing.assert_allclose(as_run[0] * 255, meant[0], atol=1e-4)
    np.testing.assert_array_equal(as_run[1], meant[1])
    assert as_run[0].max() <= 1


def test_validation_is_the_last_fifth(settings):
    train, valid, test = cifar100.split(settings)
    assert (len(train), len(valid), len(test)) == (200, 50, 50)
    assert cifar100.split(settings)[0] is train


def test_a_short_profile_widens_only_small_networks(tmp_path):
    def names(profile, **given):
        return [
            cell.name for cell in cifar100.cells(chapters.settings("cifar100", {"profile": profile, **given}))
        ]

    assert len(names("full")) == 27
    smoke = names("smoke")
    assert {name for name in smoke if name.endswith("cutmix")} == {"mlp_cutmix", "conv2d_cutmix"}
    assert {cell.model for cell in GRID} == {cell.model for cell in GRID if cell.name in smoke}
    assert names("smoke", models="custom_vgg", augmentations="cutmix") == ["custom_vgg_cutmix"]
    assert names("full", models="mlp", augmentations="none,basic") == ["mlp", "mlp_basic"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (training.OutOfMemory("Memory ran out with batches of 64."), "Memory ran out with batches of 64."),
        (
            ModelError("The ImageNet weights could not be fetched."),
            "The ImageNet weights could not be fetched.",
        ),
        (MemoryError(), cifar100.UNTRAINED),
    ],
)
def test_a_failed_training_is_a_row(settings, monkeypatch, error, why):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(training, "fit", failing)
    outcome = cifar100.attempt(settings, Cell("mlp", "none"))
    assert outcome.run is None and outcome.why == why
    table = results.grid({}, {outcome.cell.name: outcome.why})
    assert table.loc[("mlp", "none"), "note"] == why
    assert why in results.coloured(table).to_html()
    with pytest.raises(RunError, match="Nothing was trained"):
        cifar100.best([outcome])


def test_memory_that_runs_out_in_predicting_is_not_blamed_on_training(settings, monkeypatch):
    def failing(*_, **__):
        raise MemoryError

    monkeypatch.setattr(evaluation, "predict", failing)
    outcome = cifar100.attempt(settings, Cell("mlp", "none"))
    assert outcome.run is None and outcome.why == cifar100.UNTRAINED and "predictions" in outcome.why


def test_a_failed_cell_leaves_the_others_to_be_trained_and_tested(settings, monkeypatch):
    fit = training.fit

    def short_of_memory(model, *given, run, **options):
        if run == "cifar100/mlp_basic":
            raise training.OutOfMemory("Memory ran out with batches of 64.")
        return fit(model, *given, run=run, **options)

    monkeypatch.setattr(training, "fit", short_of_memory)
    outcomes = [cifar100.attempt(settings, cell) for cell in cifar100.cells(settings)]
    assert [one.run is None for one in outcomes] == [False, True, False]
    here = {one.cell.name: one.run for one in outcomes if one.run}
    table = results.grid(here, {one.cell.name: one.why for one in outcomes if one.why})
    assert table["validation"].isna().tolist() == [False, True, False]
    assert table.loc[("mlp", "basic"), "note"].startswith("Memory ran out")
    assert cifar100.best(outcomes).cell.name in here


def test_a_mistake_in_the_code_is_no_row(settings, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cifar100.attempt(settings, Cell("mlp", "none"))


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_only_the_chosen_network_sees_the_test_images(settings, asked, records):
    *_, test = cifar100.split(settings)
    outcomes = [cifar100.attempt(settings, cell) for cell in cifar100.cells(settings)]
    assert len(outcomes) == 3 and asked and test.fingerprint() not in asked
    chosen = cifar100.best(outcomes)
    predictions, run = cifar100.tested(settings, chosen)
    assert asked.count(test.fingerprint()) == 1
    assert run.metrics["test"]["accuracy"] == predictions.accuracy
    assert run.metrics["test_reasons"]["n"] == len(test)
    kept = confident(predictions.labels, predictions.probabilities)
    assert run.metrics["test_doubts"]["doubted"] == pytest.approx(1 - kept.mean(), abs=1e-6)
    table = results.ledger(run, settings.runs)
    assert len(table) == 1 and table["scored"].iloc[0].endswith("Z")


def test_a_cell_is_trained_and_scored_once(settings, asked):
    first = cifar100.train(settings, Cell("mlp", "none"))
    again = cifar100.train(settings, Cell("mlp", "none"))
    assert again.key == first.key and len(asked) == 1


def test_testing_again_keeps_the_date(settings):
    outcome = cifar100.attempt(settings, Cell("mlp", "none"))
    _, run = cifar100.tested(settings, outcome)
    kept = dict(load(run.folder).record)
    kept["metrics"]["test"]["scored"] = "2026-01-01T00:00:00Z"
    write(run.folder / RECORD, kept)
    predictions, again = cifar100.tested(settings, outcome)
    assert again.metrics["test"]["scored"] == "2026-01-01T00:00:00Z"
    assert load(run.folder).metrics["test"]["scored"] == "2026-01-01T00:00:00Z"
    others = again.score("test", replace(predictions, fingerprint="0" * 64))
    assert others.metrics["test"]["scored"] > "2026-01-01T00:00:00Z"


def test_superclasses_can_be_named_instead_and_stay_apart(tmp_path, records):
    given = {"models": "mlp", "runs": str(tmp_path), "label_mode": "coarse"}
    settings = chapters.checked("cifar100", given)
    outcome = cifar100.attempt(settings, Cell("mlp", "none"))
    predictions, run = cifar100.tested(settings, outcome)
    assert run.name == "cifar100/mlp-coarse" and len(predictions.classes) == 20
    assert results.groups(run.metrics["test"]) == {}
    records.append(run_of("mlp", 0.9, test=0.9))
    assert results.shown_test(run) is run
    assert results.shown([outcome], "mlp").runs == {"mlp": outcome.run}
    assert results.grid({"mlp": outcome.run})["report: validation"].isna().all()
    assert results.grid({"mlp": records[0]})["report: validation"].notna().all()
    assert "names superclasses" in results.elsewhere(run).data


def test_a_recorded_test_of_superclasses_is_never_the_one_shown(records):
    here, coarse, fine = (
        run_of("mlp", 0.1, source="synthetic"),
        run_of("mlp-coarse", 0.9, test=0.9),
        run_of("conv2d", 0.3, test=0.3),
    )
    records += [coarse, fine]
    assert results.shown_test(here) is fine


def test_a_step_past_the_reports_is_no_candidate_of_the_chapter(records, tmp_path):
    better = run_of("better", 0.7, test=0.7)
    better = replace(better, record={**better.record, "metrics": {"test": better.metrics["test"]}})
    here = replace(run_of("mlp", 0.1, source="synthetic", test=0.1), folder=tmp_path)
    records.append(better)
    assert results.ledger(here, tmp_path).index.tolist() == ["mlp, seed 0"]
    records.append(run_of("custom_vgg16_search_again", 0.6, test=0.6))
    assert results.shown_test(here) is records[1]
    assert len(results.ledger(here, tmp_path)) == 2
    table = results.elsewhere(records[1])
    assert {"better, ours", "custom_vgg16_search_again, ours"} <= set(table.index)
    assert "mlp, ours" not in results.elsewhere(here).index


def test_a_step_past_the_reports_is_shown_as_such_while_no_candidate_was_tested(records, tmp_path):
    test = {"interval": [0.6, 0.8], "classes": cifar100.data.CIFAR100_CLASSES, "confusion": np.eye(100)}
    better = run_of("better", 0.7, test=0.7)
    scores = better.metrics["test"] | test
    record = {"hardware": {"gpu": None, "cpu": "a processor"}, "command": "again"}
    better = replace(better, record={**better.record, **record, "metrics": {"test": scores}})
    drawn = run_of("mlp", 0.1, source="synthetic", test=0.1)
    own = run_of("mlp", 0.2, test=0.2)
    records.append(replace(better, record={**better.record, "metrics": {}}))
    assert results.shown_test(drawn) is drawn  # it was trained, and not tested
    records[0] = better
    assert results.shown_test(drawn) is better and results.shown_test(own) is own
    said = says.scored_line(better).data
    assert "**0.7000**" in said and "no candidate" in said and "by which it was chosen" not in said
    assert "does not hold this" in results.tally(better).data
    assert "does not hold which labels" in says.label_check(better).data
    assert "better, ours" in results.elsewhere(better).index


def test_wrong_labels_explain_the_share_of_mistakes_that_people_found():
    run = run_of("mlp", 0.2, test=0.7)
    run.record["metrics"]["test_doubts"] = {"accuracy": 0.75, "doubted": 0.123}
    said = says.label_check(run).data
    assert "doubts 12.3 %" in said and "5.85 % of all" in said
    assert "takes 25.0 % of the images" in said and "explain 23 % of its mistakes" in said  # 5.85 of 25
    run.record["metrics"]["test_doubts"]["accuracy"] = 0.98
    assert "explain 100 % of its mistakes" in says.label_check(run).data
    assert "hundred classes alone" in says.label_check(replace(run, name="cifar100/mlp-coarse")).data


def test_the_ledger_knows_what_was_tested_on_real_images_in_earlier_executions(
    records, tmp_path, monkeypatch
):
    kept = {
        "mlp-1": run_of("mlp", 0.2, test=0.2),
        "conv2d-1": run_of("conv2d", 0.3, source="synthetic", test=0.1),
        "custom_vgg-1": run_of("custom_vgg", 0.5),
    }
    for name in kept:
        (tmp_path / "cifar100" / name).mkdir(parents=True)
        (tmp_path / "cifar100" / name / "run.json").write_text("{}")
    (tmp_path / "cifar100" / "damaged").mkdir()
    (tmp_path / "cifar100" / "damaged" / "run.json").write_text("{")

    def reading(file):
        return kept[file.parent.name] if file.parent.name in kept else runs.load(file)

    monkeypatch.setattr(results, "load", reading)
    here = replace(run_of("mlp", 0.4, test=0.4), folder=tmp_path, key="1" * 16)
    table = results.ledger(here, tmp_path)
    assert table["run"].tolist() == ["earlier, kept here", "this execution"]
    assert table["test"].tolist() == [0.2, 0.4]


def test_the_best_is_chosen_by_validation_alone():
    outcomes = [
        Outcome(Cell("mlp", "none"), run_of("mlp", 0.2, test=0.9), None),
        Outcome(Cell("conv2d", "none"), run_of("conv2d", 0.3, test=0.1), None),
        Outcome(Cell("custom_vgg", "none"), None, None, "Memory ran out."),
    ]
    assert cifar100.best(outcomes).cell.model == "conv2d"


def test_without_records_the_page_says_so(records):
    assert "No run of it on real data" in says.to_expect().data
    assert "no record of a cell" in results.or_nothing(results.recorded_grid(), "a cell of the grid").data
    assert "not recorded yet" in says.verdict({}) and "with it about 84 min, if" in says.verdict({})


def test_figures_are_drawn_of_records_where_this_execution_had_no_real_images(records):
    made = run_of("mlp", 0.2, source="synthetic")
    outcomes = [Outcome(Cell("mlp", "none"), made, None)]
    assert results.shown(outcomes, "mlp").runs == {"mlp": made}
    assert results.shown_test(made) == made
    records.append(run_of("mlp", 0.3, test=0.3))
    assert results.shown(outcomes, "mlp").runs == {"mlp": records[0]}
    assert results.shown_test(made) == records[0]
    own = run_of("mlp", 0.1, test=0.1)
    assert results.shown([Outcome(Cell("mlp", "none"), own, None)], "mlp").runs == {"mlp": own}
    assert results.shown_test(own) == own


def test_what_to_expect_counts_the_search(records):
    said = says.to_expect().data
    trial = scoreboard.work("cifar100/custom_vgg16", costs.sizes(), epochs=1)  # of one epoch
    assert f"{costs.spoken(10 * (60 + 50) * scoreboard.on_two_cores([trial]))} at most" in said


def test_how_even_the_classes_are_is_counted(settings):
    train, *_ = cifar100.split(settings)
    uneven = train.take(np.flatnonzero(train.labels > 0)[1:])
    assert says.balance(train).data == "Every class has 2 training images."
    assert says.balance(uneven).data.startswith("A class has between 0 and 2 training images: the split")


def test_records_answer_the_reports_claims(records):
    records += [
        run_of(name, value) for name, value in {"mlp": 0.215, "conv2d": 0.31, "custom_vgg": 0.5}.items()
    ]
    said = says.answers().data
    assert "`mlp` 0.2150 (+0.0048)" in said and "; within 0.015 of it." in said
    records += [run_of("custom_vgg_basic", 0.56), run_of("custom_vgg_cutmix", 0.57)]
    said = says.answers().data
    assert "+6.0 points with basic augmentation, by +7.0 with CutMix" in said
    assert "; luck alone may give 4.2." in said
    assert "beats no augmentation" in says.verdict({}) and "+7.0" in says.verdict({})
    assert "5 of its 27 cells" in says.to_expect().data


def test_far_from_the_report_is_said(records):
    records.append(run_of("mlp", 0.25))
    said = says.answers().data
    assert "`mlp` further than 0.015 from it" in said
    assert "`conv2d`, `custom_vgg` not recorded yet" in said and "luck" not in said
    records[:] = [run_of("mlp", 0.21), run_of("conv2d", 0.32)]
    said = says.answers().data
    assert "; within 0.015 of it; `custom_vgg` not recorded yet." in said


def test_claims_are_answered_by_the_mean_of_all_seeds(records):
    records += [run_of("mlp", value, seed=seed) for seed, value in enumerate([0.20, 0.22, 0.24])]
    records += [run_of(f"mlp_{kind}", 0.25) for kind in ("basic", "cutmix")]
    said = says.answers().data
    assert "`mlp` 0.2200 ± 0.0200 (3 seeds) (+0.0098)" in said
    assert "+3.0 points with basic augmentation" in said


def test_a_comparison_holds_runs_in_fewer_bits_against_others(records):
    records += [run_of("custom_vgg", 0.5), run_of("custom_vgg_cutmix", 0.6)]
    records[1].record["recipe"]["precision"] = "mixed_bfloat16"
    assert says.verdict({}).startswith("By the records, CutMix, done right, beats")
    assert "for `custom_vgg` (`custom_vgg_cutmix` in bfloat16): +10.0" in says.verdict({})


def test_augmentations_are_compared_in_bits_that_all_have(records):
    records += [run_of("custom_vgg", value, seed=seed) for seed, value in enumerate([0.5, 0.4])]
    records += [run_of(f"custom_vgg_{kind}", 0.6) for kind in ("basic", "cutmix")]
    for run in records[1:]:
        run.record["recipe"]["precision"] = "mixed_bfloat16"
    said = says.answers().data
    assert "`custom_vgg` in bfloat16: validation accuracy changes by +20.0 points" in said
    assert "no augmentation for `custom_vgg` in bfloat16: +20.0 points" in says.verdict({})


def test_a_run_in_fewer_bits_says_so_beside_its_figure(records):
    records.append(run_of("custom_vgg", 0.5))
    records[0].record["recipe"]["precision"] = "mixed_bfloat16"
    assert "`custom_vgg` in bfloat16 0.5000" in says.answers().data
    assert results.recorded_grid()["note"].tolist() == ["in bfloat16"]


def test_runs_in_fewer_bits_are_named_beside_the_others_that_count(records):
    records += [run_of("custom_vgg", value, seed=seed) for seed, value in enumerate([0.49, 0.45])]
    records[1].record["recipe"]["precision"] = "mixed_bfloat16"
    assert "`custom_vgg` 0.4900 (-0.0154; in bfloat16 0.4500)" in says.answers().data
    del records[0]
    assert "; in bfloat16" not in says.answers().data


@pytest.mark.parametrize(
    ("cutmix", "seeds", "outcome"),
    [
        ([0.52], 1, "cannot be told from"),  # two points, where one seed each allows for more
        ([0.56], 1, "beats"),
        ([0.44], 1, "loses to"),
        ([0.521, 0.52, 0.519], 3, "beats"),  # three seeds that lie close tell two points
    ],
)
def test_cutmix_wins_only_by_more_than_luck(records, cutmix, seeds, outcome):
    records += [run_of("custom_vgg", 0.5 + 0.001 * seed, seed=seed, train=0.9) for seed in range(seeds)]
    records += [run_of("custom_vgg_cutmix", value, seed=seed) for seed, value in enumerate(cutmix)]
    said = says.verdict({})
    assert f"{outcome} no augmentation" in said and f"{seeds} with it" in said
    assert ("2 of at most 50 epochs" in said and "+0.400" in said) == (outcome != "beats")


def test_a_readers_own_comparison_comes_first(records):
    records += [run_of("custom_vgg", 0.5), run_of("custom_vgg_cutmix", 0.6)]
    own = {
        run.name.split("/")[1]: run for run in (run_of("custom_vgg", 0.3), run_of("custom_vgg_cutmix", 0.2))
    }
    said = says.verdict(own)
    assert said.startswith("In this execution, CutMix, done right, loses to")
    assert "By the records, CutMix, done right, beats" in said
    drawn = {name: run_of(name, 0.1, source="synthetic") for name in own}
    assert says.verdict(drawn).startswith("By the records")


def test_the_grid_stands_beside_the_reports_figures(records):
    records += [run_of("mlp", 0.2139), run_of("custom_vgg_cutmix", 0.55)]
    table = results.recorded_grid()
    assert table.loc[("mlp", "none"), "report: validation"] == 0.2102
    assert table.loc[("mlp", "none"), ["epochs", "report: epochs"]].tolist() == [2, 20]
    assert table.loc[("custom_vgg", "cutmix"), "validation"] == 0.55
    assert table.loc[("mlp", "none"), "gap"] == pytest.approx(0.5 - 0.2139)
    assert "note" not in table
    page = results.coloured(table).to_html()
    assert "0.2139" in page and 'class="table sortable"' in page


def test_a_network_from_random_weights_is_no_rerun_of_a_pretrained_one():
    name = "efficientnetv2b0"
    for weights, note in ((None, "from random weights"), ("imagenet", None)):
        table = results.grid({name: run_of(name, 0.1, model=name, options={"weights": weights})})
        assert note is None if "note" not in table else note in table.loc[(name, "none"), "note"]
        assert table.loc[(name, "none"), "validation"] == 0.1


def test_what_slips_cost_is_said_of_real_images_alone(records):
    def pair(right, wrong, **options):
        return {"mlp_basic": run_of("mlp_basic", right, **options),
                "mlp_basic_as_run": run_of("mlp_basic_as_run", wrong, **options)}  # fmt: skip

    drawn = pair(0.0, 0.0, source="synthetic")
    assert "takes real images" in results.cost_of_slips(drawn).data
    records += pair(0.22, 0.20).values()
    table = results.cost_of_slips(drawn).data
    assert table["cost"].round(3).tolist() == [0.02] and "record" in table["source"].iloc[0]
    table = results.cost_of_slips(pair(0.3, 0.2)).data
    assert table["cost"].round(3).tolist() == [0.1] and table["source"].tolist() == ["this execution"]


def test_slips_that_differ_in_more_than_one_thing_say_so():
    says = {cell.name: cell.says for cell in (*AS_RUN, *CUT_DOWN)}
    one = says["custom_vgg_cutmix_one_batch_as_run"]
    assert "64 images" in one and "mixed anew in every epoch and wrongly divided by 255" in one
    assert "as the report built it" in says["custom_resnet10_basic_as_run"]
    slips = {cell.name: cell.slip for cell in (*AS_RUN, *CUT_DOWN)}
    assert slips["custom_resnet10_basic_as_run"] == "augmented once, as the report built it"
    listed = Path("notebooks/cifar100.md").read_text(encoding="utf-8")
    for slip in {part for said in slips.values() for part in said.split(", ")} - {""}:
        assert f"- {slip}: " in listed or f'- "{slip}": ' in listed


def test_slips_are_compared_with_what_was_meant():
    def seeds(name, *scores):
        return {name: [run_of(name, score, seed=seed) for seed, score in enumerate(scores)]}

    table = results.slips(
        seeds("mlp_basic", 0.22, 0.24)
        | seeds("mlp_basic_as_run", 0.20)
        | seeds("custom_vgg_cutmix", 0.55)
        | seeds("custom_vgg_cutmix_one_batch_as_run", 0.01)
    )
    assert table["cost"].astype(float).round(2).tolist() == [0.03, 0.54]
    assert table["seeds"].tolist() == ["2 and 1", "1 and 1"]
    assert table["slip"].to_dict() == {"mlp": "augmented once", "custom_vgg": "one batch"}


def test_a_third_of_the_boxes_of_cutmix_cover_less_than_a_tenth_as_the_chapter_says():
    black, labels = np.zeros((20_000, 32, 32, 1), np.uint8), np.eye(2, dtype=np.float32)[[0, 1] * 10_000]
    white = black + np.uint8(255), labels
    mixed, _ = augment.cutmix(black, labels, np.random.default_rng(0), partners=white)
    covered = mixed.mean((1, 2, 3)) / 255
    assert np.mean(covered < 0.1) == pytest.approx(1 / 3, abs=0.02)


def test_the_nearest_average_names_what_it_can(settings):
    train, *_ = cifar100.split(settings)
    flat = replace(train, images=np.repeat(train.labels.astype("uint8"), 32 * 32 * 3).reshape(-1, 32, 32, 3))
    assert results.by_average(flat, flat) == 1
    said = says.nearest_average(flat, flat).data
    assert "names 100.0 % of 200" in said and "says nothing of photos" in said
    assert "photos" not in says.nearest_average(replace(flat, source="folder x"), flat).data


def test_the_report_of_all_classes_can_be_sorted_and_scrolled():
    confusion = np.eye(100, dtype=int)
    confusion[0, 1] = 3
    predictions = evaluation.Predictions(
        np.eye(100)[[0, 1, 1, 2]] * 0.9 + 0.001, np.array([0, 0, 1, 2]), cifar100.data.CIFAR100_CLASSES
    )
    page = results.report(predictions.summary()).data
    assert page.count("<tr>") == 101 and "sortable" in page and 'tabindex="0"' in page
    pairs = results.pairs(predictions.summary())
    assert pairs.loc[0, "true"] == "apple" and pairs.loc[0, "one superclass"] == "no"
    assert results.by_superclass(predictions.summary())["accuracy"] == 0.75


def test_the_searched_decay_reached_little():
    assert 0.01 < results.reach() < 0.03


def test_the_tuned_rate_ended_early_in_the_report():
    curves = results.rates()
    assert curves["as the report ran it"]["learning rate"].iloc[49:].max() == 0
    assert curves["as meant"]["learning rate"].iloc[49] > 0
    assert recipes.RECIPES["report004_tuned"].lr > curves["as meant"]["learning rate"].iloc[0]


def test_recorded_trials_are_scored_by_their_history(records):
    records += [
        trial_of("custom_vgg16_search.trial0", 0.5),
        trial_of("custom_vgg16_search_as_run.trial0", 0.4, decay="dense_l2"),
        trial_of("custom_vgg16_search-coarse.trial0", 0.9),
    ]
    table = results.trials([])
    assert table["space"].tolist() == ["as meant", "as run"]
    assert table["score"].tolist() == [0.5, 0.4] and table["weight_decay"].tolist() == [1e-3] * 2
    assert table["epochs"].tolist() == [2, 2] and set(table["status"]) == {"completed"}


def test_a_readers_search_on_real_images_comes_before_the_records(records):
    drawn, own = search_of(), search_of(real=True)
    assert results.trials([drawn])["score"].dropna().tolist() == [0.4]
    records.append(trial_of("custom_vgg16_search.trial0", 0.5))
    assert results.trials([drawn])["score"].tolist() == [0.5]
    table = results.trials([own])
    assert set(table["source"]) == {"this execution"} and table["status"].tolist() == ["completed", "failed"]
    page = results.or_nothing(table, "a search").to_html()
    assert "Memory ran out with batches of 64." in page and "custom_vgg_l2" in page


def test_a_search_without_a_finished_trial_is_a_row(settings, monkeypatch, records):
    def failing(*_, **__):
        raise RunError("None of the 2 trials finished.")

    monkeypatch.setattr(tuning, "search", failing)
    one = cifar100.attempt_search(settings)
    assert one.found is None and cifar100.tuned(settings, [one]) == []
    assert results.trials([one])[["status", "why"]].to_numpy().tolist() == [
        ["failed", "None of the 2 trials finished."]
    ]
    monkeypatch.setattr(tuning, "search", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cifar100.attempt_search(settings)


def test_a_best_trial_that_cannot_be_trained_again_says_why(settings, monkeypatch):
    def failing(*_):
        raise RunError("The loss is not a number.")

    monkeypatch.setattr(cifar100, "retrained", failing)
    searches = [search_of(), search_of(as_run=True)]
    (again,) = cifar100.tuned(settings, searches)  # the one as run is no candidate
    assert again.run is None
    assert "The loss is not a number." in says.after_tuning(searches, [again]).data
    done = replace(again, run=run_of("custom_vgg_l2_search_again", 0.35))
    assert "first 0.4000, then 0.3500" in says.after_tuning(searches, [done]).data


def test_the_full_profile_adds_the_reports_tuned_network(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "_outcome", lambda cell, again: Outcome(cell, None, again, "not trained"))
    given = {"runs": str(tmp_path)}
    short, full = (chapters.checked("cifar100", {**given, "profile": name}) for name in ("smoke", "full"))
    assert cifar100.tuned(short, []) == []
    assert [one.cell for one in cifar100.tuned(full, [])] == [TUNED]


def test_both_spaces_are_searched_in_the_full_profile():
    def spaces(profile, models="all"):
        return cifar100.spaces(chapters.checked("cifar100", {"profile": profile, "models": models}))

    assert spaces("full") == (False, True)
    assert spaces("smoke") == spaces("quick") == (False,)
    assert spaces("smoke", "mlp") == spaces("full", "mlp") == ()
    said = says.searched(chapters.checked("cifar100", {"models": "mlp"})).data
    assert "2 trials of `custom_vgg_l2`, a smaller network" in said and "nothing is searched" in said


def test_searches_of_superclasses_have_names_of_their_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tuning, "search", lambda *_, run, trials, **__: asked.append((run, trials)))
    for mode in ("fine", "coarse"):
        cifar100.search(chapters.checked("cifar100", {"label_mode": mode, "runs": str(tmp_path)}))
    cifar100.search(chapters.checked("cifar100", {"runs": str(tmp_path)}), as_run=True)
    assert asked == [
        ("cifar100/custom_vgg_l2_search", 2),
        ("cifar100/custom_vgg_l2_search-coarse", 2),
        ("cifar100/custom_vgg16_search_as_run", 2),
    ]


def test_what_synthetic_images_cannot_tell_is_left_out(records):
    drawn, taken = run_of("mlp", 0.1, source="synthetic", test=0.0), run_of("mlp", 0.2, test=0.2)
    assert "prove that the code runs, and nothing else" in says.scored_line(drawn).data
    assert results.in_earnest(taken, "shown") == "shown"
    assert "Left out" in results.in_earnest(drawn, "shown").data
    assert "mlp, ours" not in results.elsewhere(drawn).index
    assert "mlp, ours" in results.elsewhere(taken).index


def test_published_networks_come_with_their_sources():
    table = results.elsewhere(run_of("mlp", 0.2, test=0.2))
    assert table["test accuracy"].is_monotonic_increasing
    assert table.loc["Wide ResNet 28-10 with dropout, flips and shifts", "test accuracy"] == 0.8115
    assert table["from"].str.contains("arXiv").sum() == 6
    assert not {"wrn28_10_dropout", "resnet18"} & {row.experiment for row in scoreboard.rows("cifar100")}


def test_what_the_report_left_out_of_the_grid_is_named():
    said = says.report_filled().data
    assert "21 of the 27 cells" in said and "`custom_resnet34_dropout_cutmix`" in said


def test_every_network_stands_under_its_recipe():
    lines = says.grid_recipes().data.splitlines()
    assert len(lines) == 2
    assert "`mlp`, `conv2d`:" in lines[0] and "100 epochs" in lines[0]
    assert "`custom_vgg`" in lines[1] and "50 epochs" in lines[1]


def test_whether_size_overfits_is_computed():
    runs = {"mlp": run_of("mlp", 0.2, train=0.4), "conv2d": run_of("conv2d", 0.3, train=0.9)}
    runs["mlp"].record["model"]["parameters"] = {"total": 5000}
    shown = results.Shown(runs, "")
    said = says.overfit(results.by_size(runs), shown).data
    assert "`conv2d` with 1,000 parameters, +0.600" in said and "size alone does not decide" in said
    runs["conv2d"].record["model"]["parameters"] = {"total": 9000}
    assert "`conv2d` with 9,000 parameters, has the widest" in says.overfit(results.by_size(runs), shown).data
    drawn = results.Shown({"mlp": run_of("mlp", 0.2, source="synthetic")}, "")
    assert "cannot tell" in says.overfit(results.by_size(drawn.runs), drawn).data


def test_mistakes_stand_in_rows_by_reason_the_surest_first(settings):
    *_, test = cifar100.split(settings)
    few = test.take(slice(4))
    sure = np.full((4, 100), 0.001)
    guessed = (few.labels + 1) % 100
    guessed[3] = few.labels[3]
    sure[np.arange(4), guessed] = [0.5, 0.7, 0.6, 0.9]
    predictions = evaluation.Predictions(sure / sure.sum(1, keepdims=True), few.labels, few.classes)
    why = pd.DataFrame({"right": predictions.right, "colour": [True, True, False, True], "background": False})
    rows, captions = results.by_reason(predictions, few, why, n=3)
    assert list(rows) == ["colour"]  # the other reason holds for no mistake
    np.testing.assert_array_equal(
        rows["colour"], [few.images[1], few.images[0], np.full_like(few.images[0], 255)]
    )
    assert len(captions["colour"]) == 3 and captions["colour"][2] == ""
