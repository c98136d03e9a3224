import os
import re
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(scope="module")
def bench():
    spec = spec_from_file_location("bench_main", BENCH / "__main__.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_results_are_as_the_runner_writes_them(bench):
    ratios, sections = bench.kept()
    assert bench.RESULTS.read_text() == bench.written(ratios, sections)
    assert ratios.keys() <= sections.keys()
    for name, text in sections.items():
        assert (BENCH / f"{name}.py").is_file() and bench.purpose(BENCH / f"{name}.py") in text
        assert re.search(r"\((load before: \d+\.\d(, busy)?|load not recorded)\)", text), name


def test_the_ratios_of_all_scripts_stand_in_one_table(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    ratios = {"one": ["| a | b | speed | 2× | ≥ 4×, **missed** |"], "other": ["| c | d | time | 0.5× | – |"]}
    sections = {name: f"## bench/{name}.py\n\nIt is.\n" for name in ratios}
    bench.RESULTS.write_text(bench.written(ratios, sections))
    lines = bench.RESULTS.read_text().split("\n## ")[0].splitlines()
    assert [line for line in lines if line.startswith("|")][2:] == [
        "| a | b | speed | 2× | ≥ 4×, **missed** | one |",
        "| c | d | time | 0.5× | – | other |",
    ]
    assert bench.kept() == (ratios, sections)


def test_a_section_names_machine_load_and_versions(bench):
    said = bench.where(0.25)
    assert f"{os.cpu_count()} cores (load before: 0.2), Python {sys.version.split()[0]}, labkit " in said
    assert f"keras {version('keras')}, " in said and f"numpy {version('numpy')}." in said
    assert re.search(r" (tensorflow|tensorflow-cpu|jax|torch) \d", said)


def test_a_load_above_the_limit_is_marked_as_busy_and_waited_for(bench, monkeypatch):
    limit = bench.CALM * os.cpu_count()
    assert f"(load before: {limit:.1f})" in bench.where(limit)
    assert f"(load before: {limit + 1:.1f}, busy)" in bench.where(limit + 1)
    loads = iter([limit + 2, limit + 1, limit])
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (next(loads), 0, 0))
    monkeypatch.setattr(bench.time, "sleep", lambda seconds: None)
    assert bench.settled() == limit
    monkeypatch.setattr(bench, "PATIENCE", 0)
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (limit + 2, 0, 0))
    assert bench.settled() == limit + 2


def test_a_script_that_fails_leaves_the_results_as_they_were(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "settled", lambda: 0.0)
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text('"""Says a word."""\nprint("word")\nprint("| one | other | speed | 2× | – |")\n')
    bad.write_text('"""Fails."""\nraise SystemExit(3)\n')
    ratios, section = bench.measured(good)
    assert ratios == ["| one | other | speed | 2× | – |"]
    assert section.startswith("## bench/good.py\n\nSays a word.\n\n")
    assert section.endswith("```text\nword\n```\n")
    before = bench.RESULTS.read_text()
    with pytest.raises(SystemExit, match=r"bench/bad\.py failed"):
        bench.measured(bad)
    assert bench.RESULTS.read_text() == before
