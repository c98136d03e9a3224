import json
import math
import re
import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from test_runs import DIGEST, record

from labkit import chapters, costs, models, scoreboard
from labkit.book import score_page
from labkit.errors import DataError
from labkit.runs import load
from labkit.runs.record import write

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the published figures and no record yet."""
    (tmp_path / "book").mkdir()
    for name in (scoreboard.PUBLISHED, scoreboard.DEFECTS):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scores(accuracy, *, n=5000, **more):
    return {"n": n, "accuracy": accuracy, "source": "folder x", "fingerprint": DIGEST} | more


def add(
    project,
    name,
    accuracy,
    *,
    seed=0,
    part="test",
    source="folder x",
    given="",
    epochs=None,
    precision="float32",
    trained_on=100,
    **metrics,
):
    data = {"train": {"source": source, "fingerprint": DIGEST, "n": trained_on}, "valid": None}
    made = record(name=name, seed=seed, data=data, metrics={part: scores(accuracy, **metrics)})
    made["command"] += given
    made["recipe"] |= {
        "epochs": made["recipe"]["epochs"] if epochs is None else epochs,
        "precision": precision,
    }
    file = project / "results" / f"{name}-seed{seed}{given.replace(' ', '')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made))
    return load(file)


def test_every_figure_belongs_to_a_chapter_and_says_where_it_stands():
    table = scoreboard.published()
    assert set(table["chapter"]) == set(chapters.CHAPTERS)
    assert not table.duplicated(["chapter", "experiment", "metric"]).any()
    assert table[["metric", "value", "report", "where"]].notna().all(axis=None)
    shares = table[table["metric"].str.endswith(("accuracy", "top5", "macro_f1"))]["value"]
    assert shares.between(0, 1).all()


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_every_experiment_of_a_report_has_a_row_and_without_records_nothing_is_claimed(chapter, project):
    rows = scoreboard.rows(chapter)
    assert len({row.name for row in rows}) == len(rows) > 0
    assert {row.verdict.partition(":")[0] for row in rows} <= {"not run yet", "report invalid"}
    assert scoreboard.table(chapter)["as meant"].isna().all()


def test_a_record_within_luck_of_the_published_figure_reproduces_it(project):
    add(project, "noisy_cifar/vgg-honest", 0.668)
    row = scoreboard.row("noisy_cifar/vgg")
    assert (row.published, row.as_meant.mean, row.verdict) == (0.6604, 0.668, "reproduced")
    assert row.tolerance == pytest.approx(2 * math.sqrt(2 * 0.01**2))  # both on the first 5,000 images
    add(project, "cifar100/mlp", 0.22, part="valid")
    other, images = scoreboard.row("cifar100/mlp"), scores(0.22)["n"]
    theirs, ours = (share * (1 - share) for share in (other.published, 0.22))
    luck = theirs / other.images + ours / images + 2 * 0.01**2
    assert other.tolerance == pytest.approx(2 * math.sqrt(luck))


def test_few_seeds_are_taken_to_lie_as_far_apart_as_those_run_in_the_way_that_moves_figures_more(project):
    for seed, (meant, as_run) in enumerate(((0.40, 0.45), (0.46, 0.47), (0.52, 0.49))):
        add(project, "noisy_cifar/cnn1-honest", meant, seed=seed)
        add(project, "noisy_cifar/cnn1-report001", as_run, seed=seed)
    row = scoreboard.row("noisy_cifar/vgg")
    assert row.as_run.usual == row.as_meant.usual == pytest.approx(0.06)


def test_what_was_never_trained_says_nothing_of_luck_in_training(project):
    for seed, accuracy in enumerate((0.1, 0.2, 0.3)):
        add(project, "dual_cifar/dual_linear", accuracy, seed=seed, epochs=0)
    add(project, "dual_cifar/fmp3", 0.69)
    assert scoreboard.row("dual_cifar/fmp3").judged.luck == scoreboard.LUCK


def test_a_pretrained_network_without_its_weights_is_not_compared(project):
    for weights, verdict in ((None, "not comparable: started from random"), ("imagenet", "reproduced")):
        run = add(project, "cifar100/efficientnetv2b0", 0.58, part="valid")
        model = run.record["model"] | {"name": "efficientnetv2b0", "options": {"weights": weights}}
        write(project / "results" / f"{run.name}-seed0.json", {**run.record, "model": model})
        assert scoreboard.row("cifar100/efficientnetv2b0").verdict.startswith(verdict)


def test_a_run_that_was_cut_short_is_not_compared_and_counts_only_until_there_is_a_longer_one(project):
    for seed in range(3):
        add(project, "dual_cifar/accnl", 0.4, seed=seed, given=" --epochs 3", epochs=3)
    row = scoreboard.row("dual_cifar/accnl")
    assert row.as_meant.mean == pytest.approx(0.4)
    assert row.verdict == "not comparable: cut short by `--epochs 3`"
    add(project, "dual_cifar/accnl", 0.6, given=" --epochs 10", epochs=10)
    row = scoreboard.row("dual_cifar/accnl")
    assert (row.as_meant.values, row.verdict) == ((0.6,), "not comparable: cut short by `--epochs 10`")
    add(project, "dual_cifar/accnl", 0.76, epochs=250)
    row = scoreboard.row("dual_cifar/accnl")
    assert (row.as_meant.values, row.verdict) == ((0.76,), "reproduced")


def test_seeds_count_alike_whose_filter_left_a_few_images_more_or_fewer(project):
    left = {0: 13_477, 1: 13_565, 2: 13_529}
    for seed, images in left.items():
        add(project, "noisy_cifar/cnn2_filter-honest", 0.5, seed=seed, trained_on=images)
    add(project, "noisy_cifar/cnn2_filter-honest", 0.1, seed=3, trained_on=4_000)
    assert len(scoreboard.row("noisy_cifar/cnn2_filter").as_meant.values) == 3
    assert [run.seed for run in scoreboard.recorded()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("accuracy", "says"), [(0.60, "6.0 points below"), (0.75, "9.0 points above")])
def test_a_record_far_from_the_published_figure_does_not(accuracy, says, project):
    add(project, "noisy_cifar/vgg-honest", accuracy)
    assert scoreboard.row("noisy_cifar/vgg").verdict == f"not reproduced: {says}"


def test_a_verdict_on_a_run_in_fewer_bits_says_so(project):
    add(project, "noisy_cifar/vgg-honest", 0.668, precision="mixed_bfloat16")
    assert scoreboard.row("noisy_cifar/vgg").verdict == "reproduced, computing in bfloat16"
    add(project, "noisy_cifar/vgg-honest", 0.66, seed=1)
    row = scoreboard.row("noisy_cifar/vgg")
    assert (row.as_meant.values, row.verdict) == ((0.66,), "reproduced")  # two precisions are not two seeds
    assert [run.seed for run in scoreboard.recorded()] == [1, 0]


def test_an_invalid_figure_beside_a_run_in_fewer_bits_says_so(project):
    add(project, "noisy_cifar/vgg_model2-honest", 0.7, precision="mixed_bfloat16")
    row = scoreboard.row("noisy_cifar/vgg_model2")
    assert row.verdict.startswith("report invalid: ") and row.verdict.endswith("; ours computing in bfloat16")
    assert score_page._verdict(row, {}).endswith("; ours computing in bfloat16")


def test_records_are_read_again_when_they_change(project):
    for accuracy in (0.5, 0.6):
        add(project, "noisy_cifar/vgg-honest", accuracy)
        assert [run.metrics["test"]["accuracy"] for run in scoreboard.recorded()] == [accuracy]
    (project / "results" / "noisy_cifar" / "vgg-honest-seed0.json").unlink()
    assert scoreboard.recorded() == []


def test_one_seed_is_as_unsure_as_three_of_the_chapter_were_found_to_be(project):
    add(project, "noisy_cifar/resnet8-report000", 0.595)
    assert scoreboard.row("noisy_cifar/resnet8").verdict == "not reproduced: 4.2 points below"
    for seed, accuracy in enumerate((0.44, 0.46, 0.48)):
        add(project, "noisy_cifar/cnn1-report001", accuracy, seed=seed)
    row = scoreboard.row("noisy_cifar/resnet8")
    assert row.judged.luck == pytest.approx(0.02) and row.verdict == "reproduced"
    for seed, accuracy in enumerate((0.55, 0.551, 0.552)):
        add(project, "noisy_cifar/cnn2_filter-report001", accuracy, seed=seed)
    assert scoreboard.row("noisy_cifar/resnet8").judged.luck == pytest.approx(
        math.sqrt((0.02**2 + 0.001**2) / 2)
    )


def test_seeds_of_runs_that_were_cut_short_say_nothing_of_the_others(project):
    for seed, accuracy in enumerate((0.3, 0.4, 0.5)):
        add(project, "dual_cifar/accn_l2", accuracy, seed=seed, given=" --epochs 3")
    add(project, "dual_cifar/fmp3", 0.69)
    assert scoreboard.row("dual_cifar/fmp3").judged.luck == scoreboard.LUCK


@pytest.mark.parametrize("given", [" --profile quick", " --pairs_per_epoch 500", " --profile smoke"])
def test_a_profile_or_a_part_of_the_images_cuts_a_run_short_too(project, given):
    run = add(project, "dual_cifar/fmp3", 0.6, given=given)
    assert scoreboard.cut_short(run) == f"`{given.strip()}`"
    assert not scoreboard.cut_short(add(project, "dual_cifar/accn", 0.6, given=" --profile full"))


def test_runs_as_the_report_ran_decide_where_there_are_any(project):
    add(project, "animals/simple", 0.60)
    add(project, "animals/simple_as_run", 0.77)
    row = scoreboard.row("animals/simple")
    assert (row.as_meant.mean, row.as_run.mean, row.verdict) == (0.60, 0.77, "reproduced")


def test_the_spread_of_three_seeds_replaces_the_assumed_one(project):
    for seed, accuracy in enumerate((0.66, 0.67, 0.68)):
        add(project, "noisy_cifar/vgg-honest", accuracy, seed=seed)
    side = scoreboard.row("noisy_cifar/vgg").as_meant
    assert side.mean == pytest.approx(0.67) and side.deviation == pytest.approx(0.01)
    assert str(side) == "0.6700 ± 0.0100 (3 seeds)"
    assert scoreboard.unbroken(side).split(" ") == ["0.6700", "±\xa00.0100", "(3\xa0seeds)"]
    few = scoreboard.row("noisy_cifar/vgg").tolerance
    add(project, "noisy_cifar/vgg-honest", 0.60, seed=3)
    assert scoreboard.row("noisy_cifar/vgg").tolerance > few


def test_a_figure_that_a_defect_makes_invalid_stays_so_whatever_we_measure(project):
    add(project, "noisy_cifar/vgg_model2-report000", 0.78)
    verdict = scoreboard.row("noisy_cifar/vgg_model2").verdict
    assert verdict.startswith("report invalid: true labels of the test images") and "000-2" in verdict


def test_other_animals_say_nothing_about_the_reports(project):
    add(project, "animals/mid", 0.87, classes=["bird", "cat", "dog", "panda", "snake"])
    assert scoreboard.row("animals/mid").verdict.startswith("not comparable")


def test_synthetic_records_are_no_records(project):
    add(project, "dual_cifar/accnl", 0.74, source="synthetic, seed 0")
    assert scoreboard.recorded("dual_cifar/*") == []
    assert scoreboard.row("dual_cifar/accnl").verdict == "not run yet"


def test_the_comparison_labels_three_origins(project):
    add(project, "dual_cifar/accnl", 0.7512)
    made = load(project / "results" / "dual_cifar" / "accnl-seed0.json")
    here = record(name="dual_cifar/accnl", metrics={"test": scores(0.2, n=20)})
    real = {"train": here["data"]["train"] | {"source": "folder"}}
    drawn, mine = (replace(made, record=given) for given in (here, here | {"data": here["data"] | real}))
    assert "0.2000 on drawn images" in scoreboard.compare("dual_cifar", [drawn]).to_html()
    table = scoreboard.compare("dual_cifar", [mine])
    assert "on drawn images" not in table.to_html()
    table = table.data.set_index("experiment")
    row = table.loc["accnl"]
    assert list(row[["published", "as meant", "this execution"]]) == [
        "0.7453",
        "0.7512",
        "0.2000",
    ]
    assert table.loc["fmp3", "as meant"] == "–" and table.loc["fmp3", "this execution"] == ""


def test_what_was_not_run_says_what_it_needs(project):
    add(project, "cifar100/mlp", 0.21, part="valid")
    sizes = costs.sizes()
    rows = {row.experiment: row for row in scoreboard.rows("cifar100")}
    assert scoreboard.outstanding(rows["mlp"], sizes) == ""
    needs = f"needs {scoreboard.cost('cifar100/custom_vgg', sizes)}"
    assert scoreboard.outstanding(rows["custom_vgg"], sizes) == needs and "on two cores" in needs
    verdicts = scoreboard.compare("cifar100").data.set_index("experiment")["verdict"]
    assert verdicts["mlp (valid accuracy)"] == "reproduced"
    assert verdicts["custom_vgg (valid accuracy)"] == f"not run yet: {needs}"
    invalid = verdicts["custom_vgg_cutmix (valid accuracy)"]
    assert invalid.startswith("report invalid") and "; our run needs about" in invalid
    page = score_page.full(sizes)
    line = {name: next(text for text in page.splitlines() if f"| `{name}` |" in text) for name in rows}
    assert f"{{.verdict .verdict-open}}: {needs} |" in line["custom_vgg"]
    assert "; our run needs about" in line["custom_vgg_cutmix"] and "needs" not in line["mlp"]


def test_figures_are_found_under_the_names_of_the_published_table(project):
    run = add(project, "dual_cifar/accnl", 0.75)
    assert scoreboard.figure(run, "test_accuracy") == 0.75
    assert scoreboard.figure(run, "valid_accuracy") == run.validated  # as it was not scored apart
    apart = add(project, "cifar100/mlp", 0.2, part="valid")
    assert scoreboard.figure(apart, "valid_accuracy") == apart.validated == 0.2 != apart.kept("val_accuracy")
    assert scoreboard.figure(apart, "test_accuracy") is None


def test_runs_under_two_reports_splits_are_no_seeds_of_one_experiment(project):
    add(project, "noisy_cifar/vgg-report000", 0.6)
    add(project, "noisy_cifar/vgg-report001", 0.8, seed=1)
    assert scoreboard.row("noisy_cifar/vgg").as_run.values == (0.6,)


def test_costs_follow_from_multiply_adds(project):
    """Without a record two cores do 85 billion a second."""
    assert scoreboard.cost("noisy_cifar/cct") == "about 7 h on two cores"
    assert scoreboard.cost("noisy_cifar/vgg_cleaner") == "about 5 min on two cores"  # one pass of three
    assert "days" in scoreboard.cost("dual_cifar/lacnn")
    assert scoreboard.cost("animals/resnet50v2_transfer").endswith("and ImageNet weights")
    assert scoreboard.cost("noisy_cifar/histogram_baseline") == "less than a second on two cores"


def test_what_is_to_be_run_costs_what_the_records_foretell():
    speed = costs.speed(costs.CORES, costs.sizes(), scoreboard.recorded())
    work = scoreboard.work("dual_cifar/lacnn", costs.sizes())
    assert scoreboard.on_two_cores([work, work]) == pytest.approx(
        2 * work.images * speed.seconds(work.macs, "allconv")
    )
    assert scoreboard.cost("dual_cifar/lacnn").startswith(costs.spoken(costs.seconds([work], 1, speed)))


def test_the_pretrained_models_are_those_that_take_weights():
    assert set(scoreboard.PRETRAINED) == {
        name for name in models.names() if "weights" in models.card(name).options
    }


def test_defects_are_numbered_and_their_patterns_fit_an_experiment():
    found = scoreboard.defects()
    names = {row.name for chapter in chapters.CHAPTERS for row in scoreboard.rows(chapter)}
    assert len({defect.name for defect in found}) == len(found) == 60
    for defect in found:
        assert bool(defect.because) == bool(defect.invalidates)
        for pattern in defect.invalidates:
            assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_what_the_defects_say_is_mended_in_the_package_exists_there():
    text = " ".join(defect.mended for defect in scoreboard.defects())
    named = set(re.findall(r"`labkit\.([\w.]+)`", text))
    assert len(named) > 10
    for name in named:
        module, _, rest = name.partition(".")
        thing = __import__(f"labkit.{module}", fromlist=["_"])
        for part in filter(None, rest.split(".")):
            thing = getattr(thing, part)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: scoreboard.rows("dual_cifr"), "Did you mean 'dual_cifar'?"),
        (lambda: scoreboard.row("dual_cifar/acnl"), "Did you mean 'accnl'?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(ask, says, project):
    with pytest.raises(DataError, match=re.escape(says)):
        ask()
