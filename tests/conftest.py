"""What several test files share: the project's folder, and every chapter executed once."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that share the cores are faster with a thread each
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import labkit  # noqa: F401  before any test imports Keras: it says how TensorFlow computes
from labkit.book import EXECUTED, stamps, variants

ROOT = Path(__file__).resolve().parents[1]
GENERATED = shutil.ignore_patterns(".*", "_build", "__pycache__", "*.egg-info", "*.out.ipynb")
# Files that take minutes, begun first so that no worker is left with one of them at the end; the pages are
# visited long after another worker began to build them.
FIRST = ("notebooks", "workflow", "training", "book", "models", "pages")


def pytest_collection_modifyitems(items):
    files = [f"test_{name}.py" for name in FIRST]
    items.sort(key=lambda item: files.index(item.path.name) if item.path.name in files else len(files))


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def worker_id():
    return os.environ.get("PYTEST_XDIST_WORKER", "master")


@pytest.fixture(scope="session")
def smoke(shared):
    """A function from a chapter to its executed notebook and its runs: whoever asks first executes it."""

    def execute(chapter: str) -> tuple[nbformat.NotebookNode, Path]:
        done, runs = shared / f"{chapter}.ipynb", shared / f"{chapter}-runs"
        with (shared / f"{chapter}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                partial = done.with_suffix(".partial.ipynb")
                papermill.execute_notebook(
                    ROOT / "notebooks" / f"{chapter}.ipynb",
                    partial,
                    parameters={"profile": "smoke", "runs": str(runs)},
                    progress_bar=False,
                    cwd=str(ROOT),
                )
                partial.rename(done)
        return nbformat.read(done, as_version=4), runs

    return execute


@pytest.fixture
def project(tmp_path):
    """A copy of the project to build in and to break."""
    return shutil.copytree(ROOT, tmp_path / "project", ignore=GENERATED)


@pytest.fixture(scope="session")
def built(shared, smoke):
    """A copy of the project with the book built from the chapters in smoke: whoever asks first builds it."""
    place = shared / "built"
    with (shared / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = shutil.copytree(ROOT, shared / "building", ignore=GENERATED, dirs_exist_ok=True)
            _build_pages(partial, smoke)
            partial.rename(place)
    return place


def _build_pages(project, smoke):
    executed = project / "_build" / "executed"
    executed.mkdir(parents=True, exist_ok=True)
    for notebook in sorted((project / "notebooks").glob("*.ipynb")):
        nbformat.write(smoke(notebook.stem)[0], executed / notebook.name)
    with contextlib.chdir(project):
        _stamp_and_vary(smoke)
    gallery = ROOT / "_build" / "gallery"  # drawing the models again takes half a minute
    if gallery.exists():
        shutil.copytree(gallery, project / "_build" / "gallery", dirs_exist_ok=True)
    command = [sys.executable, "-m", "labkit.book", "pages"]
    shown = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def _stamp_and_vary(smoke):
    """One chapter current, one stale, one with a variant beside it, and one executed without a stamp."""
    for chapter in ("noisy_cifar", "animals", "dual_cifar"):
        files = stamps.hashes(chapter)
        if chapter == "animals":
            files["labkit/augment.py"] = "of an earlier version"
        stamps.write(chapter, EXECUTED / f"{chapter}.ipynb", {"profile": "smoke"}, 60.0, files)
    given = {"profile": "smoke", "seed": 1}
    place, page = variants.place(variants.name("dual_cifar", given)), smoke("dual_cifar")[0]
    page.metadata["papermill"]["parameters"] = given
    place.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(page, place)
    stamps.write("dual_cifar", place, given, 60.0, stamps.hashes("dual_cifar"))
