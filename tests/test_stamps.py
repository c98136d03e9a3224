import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import labkit
from labkit.book import stamps, status_page


@pytest.fixture
def stamped(project, monkeypatch):
    """A chapter of a copied project, stamped as just executed."""
    monkeypatch.chdir(project)
    notebook = Path("_build/executed/dual_cifar.ipynb")
    notebook.parent.mkdir(parents=True)
    notebook.write_text("{}")
    stamps.write("dual_cifar", notebook, {"profile": "smoke"}, 12.34, stamps.hashes("dual_cifar"))
    return notebook


def test_a_stamp_says_when_where_and_how(stamped):
    stamp = stamps.read(stamped)
    assert (stamp.chapter, stamp.parameters, stamp.seconds) == ("dual_cifar", {"profile": "smoke"}, 12.3)
    assert stamp.labkit == labkit.__version__ and "keras" in stamp.libraries
    assert "cores" in stamp.hardware and stamp.peak_mb >= 0
    assert datetime.now(UTC) - stamp.when < timedelta(minutes=5)
    assert stamp.changed() == [] and status_page.state(stamp) == "current"


def test_an_edit_makes_a_chapter_stale_and_the_page_names_the_file(stamped):
    with Path("labkit/augment.py").open("a") as stream:
        stream.write("# changed\n")
    Path("results/dual_cifar").mkdir(parents=True, exist_ok=True)
    Path("results/dual_cifar/new-seed0.json").write_text("{}")
    stamp = stamps.read(stamped)
    assert stamp.changed() == ["labkit/augment.py", "results/dual_cifar/new-seed0.json"]
    assert status_page.stale() == {"dual_cifar": stamp.changed()}
    page = status_page.full()
    assert ".verdict-stale" in page and "`labkit/augment.py`" in page


def test_prose_and_other_chapters_leave_it_current(stamped):
    for name in ("book/intro.md", "notebooks/animals.ipynb", "labkit/book/stage.py"):
        with Path(name).open("a") as stream:
            stream.write("\n")
    assert stamps.read(stamped).changed() == []


def test_a_chapter_without_a_stamp_is_of_unknown_state(stamped):
    assert stamps.read(Path("_build/executed/animals.ipynb")) is None
    assert status_page.state(None) == "unknown"


@pytest.mark.parametrize("cut", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[1]"])
def test_a_damaged_stamp_is_none(cut, stamped):
    file = stamped.with_suffix(".json")
    file.write_text(cut(file.read_text()))
    assert stamps.read(stamped) is None
    assert ".verdict-unknown" in status_page.full()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_full_disk_leaves_the_stamp_that_was_there(stamped):
    import resource

    before, limits = stamps.read(stamped), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            stamps.write("dual_cifar", stamped, {"profile": "quick"}, 1.0, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stamps.read(stamped) == before


@pytest.mark.parametrize(
    ("passed", "says"),
    [
        (timedelta(minutes=3), "less than an hour"),
        (timedelta(hours=5), "5 hours"),
        (timedelta(days=40), "40 days"),
    ],
)
def test_ages_in_words(passed, says, stamped):
    stamp = stamps.read(stamped)
    assert stamp.age(stamp.when + passed) == says
