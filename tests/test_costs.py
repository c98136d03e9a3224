"""What training costs: a law that is found again in what it made, and a page that hides no record."""

import copy
import math
from dataclasses import replace

import pandas as pd
import pytest

from labkit import costs, scoreboard
from labkit.book import cost_page
from labkit.costs import CORES, GPU, Sample, Size

FAMILIES = {
    "mlp": "plain",
    "cnn1": "plain",
    "simple": "plain",
    "conv2d": "plain",
    "vgg": "vgg",
    "lacnn": "allconv",
}
SIZES = {name: Size(10_000_000, family) for name, family in FAMILIES.items()}


def made(start=1e-4, a_mac=1e-11, **factors):
    """Samples that follow a law exactly."""
    macs = {"plain": (1e6, 3e7), "vgg": (5e7, 4e8)}
    return [
        Sample(
            name := f"{family}{place}", name, family, size, (start + a_mac * size) * factors.get(family, 1.0)
        )
        for family, sizes in macs.items()
        for place, size in enumerate(sizes)
    ]


def test_the_law_behind_the_samples_is_found_again():
    speed = costs.fitted(made(), GPU)
    for macs in (1e6, 1e8, 1e10):
        assert speed.seconds(macs, "plain") == pytest.approx(1e-4 + 1e-11 * macs, rel=0.01)


def test_a_slower_family_has_a_factor_of_its_own():
    speed = costs.fitted(made(vgg=2.0), GPU)
    ratio = speed.seconds(4e8, "vgg") / speed.seconds(4e8, "unknown")
    assert ratio > 1 and speed.factors["vgg"] > speed.factors["plain"]
    assert speed.seconds(4e8, "vgg") == pytest.approx(2 * (1e-4 + 1e-11 * 4e8), rel=costs.TOLERANCE)


def test_without_a_sample_cores_have_the_measured_rate_and_a_gpu_has_none():
    assert costs.fitted([], CORES).seconds(costs.THROUGHPUT, "vgg") == pytest.approx(1)
    assert costs.fitted([], GPU) is None
    work = scoreboard.work("cifar100/mlp", SIZES)
    assert math.isnan(costs.seconds([work], 1, None))


def test_runs_share_machines_and_none_is_cut():
    assert costs.side_by_side([5, 3, 2, 2], 1) == 12
    assert costs.side_by_side([5, 3, 2, 2], 2) == 7
    assert costs.side_by_side([5, 3, 2, 2], 8) == 5
    assert costs.side_by_side([], 8) == 0


def test_work_follows_images_and_epochs():
    sizes = {"mlp": Size(10, "plain"), "vgg": Size(20, "vgg")}
    full = scoreboard.work("cifar100/mlp", sizes)
    assert full.macs == 10 * costs.PASSES and (full.model, full.family) == ("mlp", "plain")
    assert scoreboard.work("cifar100/mlp", sizes, images=100, epochs=2).total == 30 * 200
    assert scoreboard.work("cifar100/search", sizes) is None


def test_a_step_past_the_reports_has_the_work_of_its_records():
    for run in [*scoreboard.recorded("*/better*"), *scoreboard.recorded("*/tried*")]:
        work = scoreboard.work(run.name.partition("-")[0], costs.sizes())
        trained = run.record["recipe"]["epochs"] * run.record["data"]["train"]["n"]
        assert (work.model, work.images) == (run.record["model"]["name"], pytest.approx(trained, rel=0.1))
    assert scoreboard.cost("cifar100/better").startswith("about")


def test_a_run_in_fewer_bits_says_nothing_about_the_usual_speed():
    usual = scoreboard.recorded("cifar100/mlp")[0]
    faster = replace(usual, record=copy.deepcopy(usual.record))
    faster.record["recipe"]["precision"] = "mixed_bfloat16"
    assert len(costs.samples(CORES, SIZES, [usual, faster])) == 1


def test_cores_without_wide_vectors_tell_how_much_slower_they_are_and_nothing_else(monkeypatch):
    usual = scoreboard.recorded("cifar100/mlp")[0]
    record = copy.deepcopy(dict(usual.record))
    record["hardware"]["vectors"] = "AVX2"
    record["history"]["seconds"] = [3 * seconds for seconds in record["history"]["seconds"]]
    slower = replace(usual, record=record)
    monkeypatch.setattr(scoreboard, "recorded", lambda name="*": [usual, slower])
    alone = costs.checked(CORES, SIZES, [usual, slower])
    assert list(alone["run"]) == ["cifar100/mlp"]
    found = costs.narrow(SIZES, [usual, slower])
    assert found["cifar100/mlp"] == pytest.approx(3 * (alone["measured"] / alone["estimated"]).item())
    assert f"took {found.median():.1f} times as long as estimated" in cost_page.full(SIZES)


def test_a_network_that_is_mostly_frozen_is_passed_forward():
    (cleaner,) = scoreboard.recorded("noisy_cifar/resnet8_cleaner-honest")
    (sample,) = costs.samples(CORES, SIZES, [cleaner])
    assert sample.macs == cleaner.record["model"]["macs"]
    work = scoreboard.work("noisy_cifar/resnet8_cleaner", costs.sizes())
    assert (work.family, work.macs) == ("cleaner", costs.sizes()["resnet8"].macs)


def test_frozen_layers_that_give_their_output_once_cost_once_and_tell_nothing_of_an_epoch():
    work = scoreboard.work("animals/resnet50v2_transfer", costs.sizes())
    assert work.total == pytest.approx(costs.sizes()["resnet50v2"].macs * scoreboard.TRAINED_ON["animals"])
    usual = scoreboard.recorded("cifar100/mlp")[0]
    assert costs.samples(CORES, SIZES, [replace(usual, name="animals/xception_transfer")]) == []


def test_a_run_of_several_machines_says_nothing_of_any():
    usual = scoreboard.recorded("cifar100/mlp")[0]
    moved = replace(usual, record=copy.deepcopy(dict(usual.record)))
    moved.record["hardware"]["earlier"] = [usual.record["hardware"]]
    assert len(costs.samples(CORES, SIZES, [usual])) == 1 and costs.samples(CORES, SIZES, [moved]) == []


def test_of_several_records_of_one_experiment_the_fastest_counts():
    usual = scoreboard.recorded("cifar100/mlp")[0]
    slower = replace(usual, record=copy.deepcopy(dict(usual.record)))
    slower.record["history"]["seconds"] = [2 * seconds for seconds in slower.record["history"]["seconds"]]
    (alone,) = costs.samples(CORES, SIZES, [usual])
    assert costs.samples(CORES, SIZES, [slower, usual]) == costs.samples(CORES, SIZES, [usual, slower])
    assert costs.samples(CORES, SIZES, [slower, usual]) == [alone]


def test_every_record_in_thirty_two_bits_stands_beside_its_estimate():
    found = costs.checked(CORES, SIZES, scoreboard.recorded())
    usual = (run for run in scoreboard.recorded() if run.record["recipe"]["precision"] == "float32")
    machines = ((run, run.record["hardware"]) for run in usual)
    known = [run for run, on in machines if on["cores"] == 2 and on.get("vectors", costs.WIDE) == costs.WIDE]
    wanted = [run.name for run in known if run.epochs and not run.record["hardware"]["gpu"]]
    assert list(found["run"]) == list(dict.fromkeys(wanted)) and len(found)
    assert found["estimated"].gt(0).all()
    assert costs.within(pd.Series([0.71, 1.29, 1.31, 0.69])) == 2


def test_most_experiments_lie_near_the_estimate_also_where_other_networks_alone_foretell_them():
    found = costs.checked(CORES, costs.sizes(), scoreboard.recorded())
    assert costs.within(found["estimated"] / found["measured"]) >= 0.85 * len(found)
    assert costs.within(found["foretold"] / found["measured"]) >= 0.55 * len(found)


def test_no_record_of_the_same_network_helps_to_foretell_it(monkeypatch):
    seen = []
    monkeypatch.setattr(costs, "fitted", lambda measured, machine: seen.append(measured) or SPEED)
    found = costs.checked(CORES, SIZES, scoreboard.recorded())
    every, *others = seen
    assert len(others) == len(every) == len(found)
    for left, sample in zip(others, every, strict=True):
        assert {other.model for other in left} == {other.model for other in every} - {sample.model}


SPEED = costs.Speed(1e-4, 1e-11, {})


def test_the_fastest_epoch_tells_what_a_run_costs_a_machine_with_nothing_else_to_do():
    (run, *_) = [run for run in scoreboard.recorded("cifar100/mlp") if run.epochs]
    record = copy.deepcopy(dict(run.record))
    record["history"]["seconds"] = [8.0, 4.0, 20.0, *([9.0] * (run.epochs - 3))]
    (sample,) = costs.samples(CORES, SIZES, [replace(run, record=record)])
    images = record["data"]["train"]["n"] + record["data"]["valid"]["n"] / 3  # passed forward only
    assert sample.seconds == pytest.approx(4.0 / images)


def test_an_epoch_that_hardly_trains_does_not_make_its_network_look_slow():
    """One batch of 64 images trains, and 10,000 validate."""
    found = costs.checked(CORES, costs.sizes(), scoreboard.recorded()).set_index("run")["measured"]
    one_batch = found["cifar100/custom_vgg_cutmix_one_batch_as_run"]
    assert one_batch == pytest.approx(found["cifar100/custom_vgg"], rel=0.5)


def test_the_page_gives_every_chapter_and_says_what_was_not_measured(monkeypatch):
    page = cost_page.full(SIZES)
    assert all(f"notebooks/{chapter}.ipynb" in page for chapter in ("noisy_cifar", "animals", "cifar100"))
    assert f"within ±{costs.TOLERANCE:.0%}" in page
    monkeypatch.setattr(scoreboard, "recorded", lambda name="*": [])
    bare = cost_page.full(SIZES)
    assert f"No record on {GPU}" in bare and "no run can be faster" in bare
    work = [scoreboard.work(row.name, SIZES) for row in scoreboard.rows("cifar100")]
    seconds = sum(each.total for each in work if each) / costs.AT_BEST[GPU]
    (line,) = [line for line in bare.splitlines() if "cifar100.ipynb" in line]
    assert f"not measured; arithmetic alone {seconds:.0f} s" in line


def test_times_are_said_roughly():
    said = [costs.spoken(seconds) for seconds in (0.4, 80, 100, 5_300, 5_500, 360_000)]
    assert said[:3] == ["less than a second", "about 80 s", "about 2 min"]
    assert said[3:] == ["about 88 min", "about 2 h", "about 4 days"]
