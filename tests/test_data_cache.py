import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data import cache
from labkit.errors import DataError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


VALUES = {"images": np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3), "labels": np.arange(4)}
FILES = [("a", 1, 10), ("b", 2, 20)]


class Build:
    """Count how often the arrays are built."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return VALUES


def same(arrays):
    return arrays.keys() == VALUES.keys() and all((arrays[name] == VALUES[name]).all() for name in VALUES)


def entries(place):
    return [path for path in place.iterdir() if path.is_dir()]


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "mine"))
    assert cache.folder() == tmp_path / "mine"
    monkeypatch.delenv("LABKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "labkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder().parts[-2:] == (".cache", "labkit")


def test_arrays_are_built_once_and_mapped_read_only(tmp_path, place):
    build = Build()
    for _ in range(3):
        arrays = cache.arrays("kind", tmp_path, FILES, build)
        assert same(arrays) and not arrays["images"].flags.writeable
    assert build.times == 1 and len(entries(place)) == 1


@pytest.mark.parametrize(
    "files",
    [
        [("a", 1, 10)],
        [("a", 1, 10), ("b", 2, 21)],
        [("a", 3, 10), ("b", 2, 20)],
        [("a", 1, 10), ("c", 2, 20)],
    ],
)
def test_a_changed_source_replaces_its_entry(tmp_path, place, files):
    build = Build()
    cache.arrays("kind", tmp_path, FILES, build)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a source that changed is nothing to warn of
        cache.arrays("kind", tmp_path, files, build)
    assert build.times == 2 and len(entries(place)) == 1


def test_options_kinds_and_sources_have_entries_of_their_own(tmp_path, place):
    build = Build()
    for kind, source, size in (
        ("a", tmp_path, 1),
        ("a", tmp_path, 2),
        ("b", tmp_path, 1),
        ("a", tmp_path / "x", 1),
    ):
        cache.arrays(kind, source, FILES, build, size=size)
    assert build.times == 4 and len(entries(place)) == 4


@settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.data())
def test_damage_anywhere_is_noticed_and_mended(tmp_path_factory, data):
    source = tmp_path_factory.mktemp("source")
    build = Build()
    cache.arrays("kind", source, FILES, build)
    entry = max(entries(cache.folder()), key=lambda path: path.stat().st_mtime_ns)
    victim = entry / data.draw(st.sampled_from(["images.npy", "labels.npy", "entry.json"]))
    raw = victim.read_bytes()
    where = data.draw(st.integers(0, len(raw) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "gone", "text"]))
    if damage == "flip":
        victim.write_bytes(
            raw[:where] + bytes([raw[where] ^ 1 << data.draw(st.integers(0, 7))]) + raw[where + 1 :]
        )
    elif damage == "cut":
        victim.write_bytes(raw[:where])
    elif damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(b"[1, 2]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(cache.arrays("kind", source, FILES, build))
        assert same(cache.arrays("kind", source, FILES, build))
    assert build.times <= 2
    assert not [path for path in cache.folder().iterdir() if path.name.startswith(".")]


def test_a_damaged_entry_is_named_in_a_warning(tmp_path, place):
    cache.arrays("kind", tmp_path, FILES, Build())
    (entries(place)[0] / "labels.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="kind-.* is not used: .*built again"):
        cache.arrays("kind", tmp_path, FILES, Build())


def test_an_error_while_building_leaves_nothing(tmp_path, place):
    def fail():
        raise DataError("a bad image")

    with pytest.raises(DataError, match="a bad image"):
        cache.arrays("kind", tmp_path, FILES, fail)
    assert entries(place) == []
    assert same(cache.arrays("kind", tmp_path, FILES, Build()))


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, place, monkeypatch):
    save = np.save

    def full(file, *args, **options):
        if "labels" in str(file):
            raise OSError(28, "No space left on device")
        save(file, *args, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="no space left"):
        cache.arrays("kind", tmp_path, FILES, Build())
    assert entries(place) == []


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_disk_that_fills_up_while_it_is_written_to_is_named(tmp_path, place):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"images": np.zeros((100, 32, 32, 3), np.uint8)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError, match="no space left while writing") as caught:
            cache.arrays("kind", tmp_path, FILES, lambda: large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "LABKIT_CACHE" in caught.value.mend and entries(place) == []
    assert cache.arrays("kind", tmp_path, FILES, lambda: large)["images"].shape == (100, 32, 32, 3)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no folders")
def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", "/proc/labkit")
    with pytest.raises(DataError, match="/proc/labkit cannot be made"):
        cache.arrays("kind", tmp_path, FILES, Build())


WORKER = """
import sys, time
import numpy as np
from pathlib import Path
from labkit.data import cache
def build():
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    return {"images": np.arange(5)}
print(cache.arrays("kind", Path(sys.argv[1]), [("a", 1, 1)], build)["images"].sum())
"""


def test_eight_processes_build_one_cold_cache_once(tmp_path, place):
    log = tmp_path / "log"
    command = [sys.executable, "-c", WORKER, str(tmp_path / "source"), str(log)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [worker.communicate(timeout=900)[0].strip() for worker in workers] == ["10"] * 8
    assert log.read_text() == "built\n"
    assert len(entries(place)) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_killed_builder_leaves_nothing_that_is_trusted(tmp_path, place):
    # Killed between writing the arrays and the rename, with the lock in its hands.
    script = WORKER.replace("import sys, time", "import os, signal, sys, time").replace(
        "print(", "os.rename = None\nPath.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nprint("
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "log")]
    killed = subprocess.run(command, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name.startswith(".kind-") for path in entries(place)] == [True]
    arrays = cache.arrays("kind", tmp_path, [("a", 1, 1)], lambda: {"images": np.arange(6)})
    assert arrays["images"].sum() == 15
    assert [path.name.startswith(".") for path in entries(place)] == [False]


BORROWER = """
import sys
from pathlib import Path
from labkit.data import cache
with cache.scratch(Path(sys.argv[1])) as place:
    (place / "large").write_bytes(bytes(1000))
    print("lent", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_temporary_folder_is_swept_when_its_process_is_dead_and_not_before(place):
    archive = place / "photos [1].zip"
    command = [sys.executable, "-c", BORROWER, str(archive)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "lent\n"
    (place / ".photos [1].zip.earlier").mkdir()
    with cache.scratch(archive):
        pass
    (held,) = entries(place)
    assert list(held.rglob("large"))
    other.terminate()
    other.communicate()
    with cache.scratch(archive) as lent:
        assert entries(place) == [lent.parent]
    assert entries(place) == []


def test_nobody_loses_a_temporary_folder_to_another_who_begins(place):
    def borrow(number):
        for _ in range(5):
            with cache.scratch(place / "photos.zip") as lent:
                (lent / "mine").write_text(str(number))
                time.sleep(0.01)
                assert (lent / "mine").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(borrow, range(8)))
    assert entries(place) == []
