import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from labkit import chapters, scoreboard
from labkit.book import cover
from labkit.errors import DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_chapter_has_a_finding_and_a_sentence_for_the_time_before_it_is_recorded():
    found = tomllib.loads(cover.FINDINGS.read_text(encoding="utf-8"))
    assert set(found) == set(chapters.CHAPTERS)
    assert all(set(texts) == {"finding", "open"} for texts in found.values())
    assert all(texts["finding"].startswith("**") for texts in found.values())
    assert cover.findings().count("\n: ") == len(chapters.CHAPTERS)


def test_numbers_come_from_the_published_table_and_wait_for_records(monkeypatch):
    texts = {"finding": "{published[accnrr]} became {meant[accnrr]}.", "open": "It said {published[accnrr]}."}
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [])
    assert cover.sentence("dual_cifar", texts) == "It said 77.2 %."


def test_with_a_record_the_finding_stands(monkeypatch):
    texts = {"finding": "{published[accnrr]} became {meant[accnrr]}.", "open": "Not yet."}
    row = scoreboard.row("dual_cifar/accnrr")
    side = type("Measured", (), {"mean": 0.801})()
    monkeypatch.setattr(
        scoreboard, "row", lambda name: type("R", (), {"published": row.published, "as_meant": side})
    )
    assert cover.sentence("dual_cifar", texts) == "77.2 % became 80.1 %."


def test_what_no_report_has_is_named_by_its_record(monkeypatch):
    texts = {"finding": "Today {recorded[better]}.", "open": "Not yet."}
    one = scoreboard.recorded("dual_cifar/better")[0]
    two = replace(one, record=one.record | {"metrics": {"test": {"accuracy": 0.5}}})
    mean = (one.metrics["test"]["accuracy"] + 0.5) / 2
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [one, two])
    assert cover.sentence("dual_cifar", texts) == f"Today {100 * mean:.1f} %."
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [])
    assert cover.sentence("dual_cifar", texts) == "Not yet."


def test_what_a_leak_is_worth_is_told_by_images_that_no_protocol_touches(monkeypatch):
    texts = {"finding": "{run[resnet8_model2]} and {unseen[resnet8_model2-report000]}.", "open": "Not yet."}
    (leaky,) = scoreboard.row("noisy_cifar/resnet8_model2").as_run.runs
    test, unseen = (100 * leaky.metrics[part]["accuracy"] for part in ("test", "unseen"))
    assert cover.sentence("noisy_cifar", texts) == f"{test:.1f} % and {unseen:.1f} %."
    monkeypatch.setattr(scoreboard, "recorded", lambda name: [])
    assert cover.sentence("noisy_cifar", texts) == "Not yet."


def test_the_readme_repeats_the_findings_with_the_numbers_of_the_records():
    found = tomllib.loads(cover.FINDINGS.read_text(encoding="utf-8"))
    readme = " ".join(Path("README.md").read_text(encoding="utf-8").split())
    for chapter, texts in found.items():
        assert cover.sentence(chapter, texts) in readme


def test_what_the_findings_say_in_words_holds_in_the_records():
    rows = [scoreboard.row(f"animals/{name}") for name in ("simple", "mid", "custom_resnet", "resnet_aug")]
    slips = [row.as_run.mean - row.as_meant.mean for row in rows]
    assert [slip < 0 for slip in slips] == [True, True, False, False]
    assert all(abs(slip) < row.tolerance for slip, row in zip(slips, rows, strict=True))
    for name, millions in (("noisy_cifar/better-report001", 2), ("cifar100/better", 3)):
        (run, *_) = scoreboard.recorded(name)
        assert round(run.record["model"]["parameters"]["total"] / 1e6) == millions
    assert run.metrics["test"]["n"] == 5_000


def test_figures_in_bfloat16_are_held_against_each_other_alone():
    texts = {"finding": "{bfloat16[custom_vgg]}, {bfloat16[mlp]}.", "open": "Not yet."}
    assert cover.sentence("cifar100", texts) == "Not yet."  # mlp has none
    said = cover.sentence("cifar100", {"finding": "{bfloat16[custom_vgg]}", "open": ""})
    narrow = [run for run in scoreboard.recorded("cifar100/custom_vgg") if run.in_fewer_bits]
    assert said == f"{100 * mean(run.metrics['valid']['accuracy'] for run in narrow):.1f} %"


def test_an_unknown_word_in_braces_is_named():
    with pytest.raises(DataError, match="measured"):
        cover.sentence("dual_cifar", {"finding": "{measured[accnrr]}", "open": ""})
