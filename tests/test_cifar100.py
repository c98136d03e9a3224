"""Chapter 4's grid, its slips, the choice of one network, its only test, and the tables made of runs."""

from dataclasses import replace

import numpy as np
import pytest

from labkit import augment, chapters, evaluation, experiments, recipes, scoreboard, training
from labkit.errors import ModelError, RunError
from labkit.experiments import cifar100
from labkit.experiments import cifar100_results as results
from labkit.experiments.cifar100 import AS_RUN, CUT_DOWN, GRID, TUNED, Cell, Outcome
from labkit.runs import Run


@pytest.fixture
def settings(tmp_path):
    return chapters.settings("cifar100", {"models": "mlp", "runs": str(tmp_path)})


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
    name: str, valid: float, *, train: float = 0.5, source: str = "folder cifar-100-binary", **metrics: float
) -> Run:
    """A run as a record has it, of a network that was never trained."""
    part = {
        "accuracy": valid,
        "n": 100,
        "source": source,
        "scored": "2026-01-01T00:00:00Z",
    }
    history = {"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.1, train], "val_accuracy": [0.1, valid]}
    record = {
        "seed": 0,
        "history": history,
        "best_epoch": 2,
        "seconds": 10.0,
        "seconds_per_epoch": 5.0,
        "model": {"parameters": {"total": 1000}},
        "data": {"train": {"source": source, "n": 40_000}},
        "metrics": {"valid": part} | {key: {**part, "accuracy": value} for key, value in metrics.items()},
    }
    return Run(f"cifar100/{name}", "0" * 16, None, record)


@pytest.fixture
def records(monkeypatch):
    """Stand-ins for committed records."""
    found = []
    monkeypatch.setattr(scoreboard, "recorded", lambda pattern="*": list(found))
    return found


def test_every_published_experiment_can_be_run_by_name():
    published = set(scoreboard.published("cifar100")["experiment"])
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
    once = cifar100.prepared(train, Cell("mlp", "basic", as_run=True))
    same = (once.images == train.images).all((1, 2, 3)).mean()
    assert 0.4 < same < 0.65
    np.testing.assert_array_equal(once.labels, train.labels)
    assert cifar100.prepared(train, Cell("mlp", "basic")) is train
    assert len(cifar100.prepared(train, CUT_DOWN[0])) == 64


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
        (MemoryError(), "Memory ran out while the network was built."),
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


def test_a_mistake_in_the_code_is_no_row(settings, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cifar100.attempt(settings, Cell("mlp", "none"))


def test_only_the_chosen_network_sees_the_test_images(settings, asked):
    *_, test = cifar100.split(settings)
    outcomes = [cifar100.attempt(settings, cell) for cell in cifar100.cells(settings)]
    assert len(outcomes) == 3 and asked and test.fingerprint() not in asked
    chosen = cifar100.best(outcomes)
    predictions, run = cifar100.tested(settings, chosen)
    assert asked.count(test.fingerprint()) == 1
    assert run.metrics["test"]["accuracy"] == predictions.accuracy
    assert run.metrics["test_reasons"]["n"] == len(test)
    table = results.ledger(run)
    assert len(table) == 1 and table["scored"].iloc[0].endswith("Z")


def test_a_cell_is_trained_and_scored_once(settings, asked):
    first = cifar100.train(settings, Cell("mlp", "none"))
    again = cifar100.train(settings, Cell("mlp", "none"))
    assert again.key == first.key and len(asked) == 1


def test_testing_again_keeps_the_date(settings):
    outcome = cifar100.attempt(settings, Cell("mlp", "none"))
    _, run = cifar100.tested(settings, outcome)
    record = run.record["metrics"]["test"]
    record["scored"] = "2026-01-01T00:00:00Z"
    predictions, _ = cifar100.tested(settings, outcome)
    dated = replace(run, folder=None).score("test", predictions)
    assert dated.metrics["test"]["scored"] == "2026-01-01T00:00:00Z"


def test_superclasses_can_be_named_instead(tmp_path):
    given = {"models": "mlp", "runs": str(tmp_path), "label_mode": "coarse"}
    settings = chapters.settings("cifar100", given)
    predictions, run = cifar100.tested(settings, cifar100.attempt(settings, Cell("mlp", "none")))
    assert run.name == "cifar100/mlp-coarse" and len(predictions.classes) == 20
    assert results.groups(run.metrics["test"]) == {}
    assert "superclass" not in results.scored_line(run).data


def test_the_best_is_chosen_by_validation_alone():
    outcomes = [
        Outcome(Cell("mlp", "none"), run_of("mlp", 0.2, test=0.9), None),
        Outcome(Cell("conv2d", "none"), run_of("conv2d", 0.3, test=0.1), None),
        Outcome(Cell("custom_vgg", "none"), None, None, "Memory ran out."),
    ]
    assert cifar100.best(outcomes).cell.model == "conv2d"


def test_without_records_the_page_says_so(records):
    assert "No run of it on real data" in results.to_expect().data
    assert "no record of a cell" in results.or_nothing(results.recorded_grid(), "a cell of the grid").data
    assert "not recorded yet" in results.verdict({})


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


def test_records_answer_the_reports_claims(records):
    records += [
        run_of(name, value) for name, value in {"mlp": 0.215, "conv2d": 0.31, "custom_vgg": 0.5}.items()
    ]
    said = results.answers(results.recorded()).data
    assert "`mlp` 0.2150 (+0.0048)" in said and "all within" in said and "not all" not in said
    records += [run_of("custom_vgg_basic", 0.56), run_of("custom_vgg_cutmix", 0.57)]
    said = results.answers(results.recorded()).data
    assert "+6.0 points with basic augmentation, by +7.0 with CutMix" in said
    assert "beats" in results.verdict(results.recorded()) and "+7.0" in results.verdict(results.recorded())
    assert "5 of its 27 cells" in results.to_expect().data


def test_far_from_the_report_is_said(records):
    records.append(run_of("mlp", 0.25))
    assert "not all within" in results.answers(results.recorded()).data


def test_the_grid_stands_beside_the_reports_figures(records):
    records += [run_of("mlp", 0.2139), run_of("custom_vgg_cutmix", 0.55)]
    table = results.recorded_grid()
    assert table.loc[("mlp", "none"), "report: validation"] == 0.2102
    assert table.loc[("custom_vgg", "cutmix"), "validation"] == 0.55
    assert "note" not in table
    page = results.coloured(table).to_html()
    assert "0.2139" in page and 'class="table sortable"' in page


def test_slips_are_compared_with_what_was_meant():
    runs = {run.name.split("/")[1]: run for run in (
        run_of("mlp_basic", 0.22), run_of("mlp_basic_as_run", 0.20),
        run_of("custom_vgg_cutmix", 0.55), run_of("custom_vgg_cutmix_one_batch_as_run", 0.01),
    )}  # fmt: skip
    table = results.slips(runs)
    assert table["cost"].round(2).tolist() == [0.02, 0.54]


def test_the_nearest_average_names_what_it_can(settings):
    train, *_ = cifar100.split(settings)
    flat = replace(train, images=np.repeat(train.labels.astype("uint8"), 32 * 32 * 3).reshape(-1, 32, 32, 3))
    assert results.by_average(flat, flat) == 1


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
