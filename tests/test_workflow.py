"""The build: what is executed again and what is not, what a failure says, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml

from labkit import chapters
from labkit.book import STAGE, pages, sources
from labkit.book import __main__ as main
from labkit.book import build as build_step
from labkit.errors import RunError
from labkit.runs import record

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "labkit.book", "build", "--only-execute", "--cores", "2"]

WAIT = """import time, pathlib
while not pathlib.Path("go").exists():
    time.sleep(0.1)"""
WAIT_SECOND = """import time, pathlib
second = pathlib.Path("one").exists()
pathlib.Path("one").touch()
while second and not pathlib.Path("go").exists():
    time.sleep(0.1)"""
DIE_ONCE = """import os, pathlib
if not pathlib.Path("died").exists():
    pathlib.Path("died").touch()
    os._exit(9)"""


def small(project, **cells):
    """Reduce the project to these chapters, each of one cell."""
    (project / "workflow.yaml").write_text(
        yaml.safe_dump(
            {"parameters": {}, "chapters": {name: {} for name in cells}, "retries": 1, "threads": 1}
        )
    )
    for name, cell in cells.items():
        write(project, name, cell)
    return project


def write(project, name, cell):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, project / "notebooks" / f"{name}.ipynb")


def build(project, *given, status=0):
    """Build, and give the chapters in the order in which they were executed, and what was said."""
    command = [*COMMAND, *given]
    shown = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)
    assert shown.returncode == status, shown.stderr
    return sorted(executing(shown.stderr)), shown.stderr


def executing(text):
    return [line.split(":")[0] for line in text.splitlines() if line.endswith(": executing")]


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_an_edit_executes_what_it_touches_and_nothing_else(project):
    small(project, animals="print(1)", dual_cifar="print(2)")
    assert build(project)[0] == ["animals", "dual_cifar"]
    append(project / "book" / "intro.md", "\nMore prose.\n")
    append(project / "labkit" / "book" / "stage.py", "\n# A page is laid out differently.\n")
    assert build(project)[0] == []
    write(project, "animals", "print(3)")
    assert build(project)[0] == ["animals"]
    append(project / "labkit" / "errors.py", "\n# A change in the package.\n")
    assert build(project)[0] == ["animals", "dual_cifar"]
    append(project / "results" / "cifar100" / "mlp-seed0.json", "\n")
    assert build(project)[0] == ["animals", "dual_cifar"]  # both foretell times by the records of all
    append(project / "book" / "defects.toml", "\n")
    assert build(project)[0] == ["animals", "dual_cifar"]
    for name in ("animals", "dual_cifar"):
        assert (project / "_build" / "benchmarks" / f"{name}.tsv").read_text().startswith("s\th:m:s\tmax_rss")


def test_parameters_reach_a_chapter_as_the_numbers_that_they_are(project):
    small(project, animals="assert (seed, epochs, profile) == (3, None, 'quick'), (seed, epochs, profile)")
    given = ("seed=3", "epochs=None", "profile=quick")
    assert build(project, *given)[0] == ["animals"]
    assert build(project, *given)[0] == []
    write(project, "animals", "assert 'seed' not in globals()")
    assert build(project)[0] == ["animals"]


def test_a_failing_cell_fails_the_build_and_a_dead_kernel_is_tried_again(project):
    small(project, animals="numbers = []\nnumbers[3]", cifar100=DIE_ONCE, dual_cifar="print(2)")
    ran, said = build(project, status=1)
    assert ran == ["animals", "cifar100", "cifar100", "dual_cifar"]
    assert "The chapter animals failed in cell [1]:\n    numbers = []\n    numbers[3]\n" in said
    assert "IndexError: list index out of range" in said
    assert "The notebook as far as it came: _build/failed/animals.ipynb" in said
    partial = jupytext.read(project / "_build" / "failed" / "animals.ipynb")
    assert any(output.output_type == "error" for cell in partial.cells for output in cell.get("outputs", ()))
    executed = sorted(path.stem for path in (project / "_build" / "executed").glob("*.ipynb"))
    assert executed == ["cifar100", "dual_cifar"]
    write(project, "animals", "print(1)")
    assert build(project)[0] == ["animals"]
    assert not list((project / "_build" / "failed").iterdir())


def test_a_killed_build_goes_on_where_it_stopped(project):
    small(project, animals=WAIT_SECOND, dual_cifar=WAIT_SECOND)
    said = project / "said"
    with said.open("w") as stream:
        command = [*COMMAND, "--cores", "1"]
        running = subprocess.Popen(command, cwd=project, stderr=stream, start_new_session=True)
    try:
        until(lambda: len(executing(said.read_text())) == 2)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    (project / "go").touch()
    assert build(project)[0] == executing(said.read_text())[1:]
    assert not list((project / "_build" / "failed").iterdir())


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("five minutes passed in vain")


def test_a_second_build_waits_for_the_first(project):
    small(project, animals=WAIT)
    with (project / "said").open("w") as said:
        first = subprocess.Popen(COMMAND, cwd=project, stderr=said)
    try:
        until(lambda: "animals" in executing((project / "said").read_text()))
        second = subprocess.Popen(COMMAND, cwd=project, stderr=subprocess.PIPE, text=True)
        assert "waiting for it" in second.stderr.readline()
    finally:
        (project / "go").touch()
        first.wait()
    assert executing(second.communicate()[1]) == []
    assert (first.returncode, second.returncode) == (0, 0)


def test_pages_wait_for_other_pages(project):
    with build_step.alone(project / pages.LOCK, ""):
        command = [sys.executable, "-m", "labkit.book", "pages"]
        waiting = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)
        try:
            assert pages.WAITING in waiting.stderr.readline()
            assert not (project / STAGE).exists()
        finally:
            waiting.kill()
            waiting.communicate()


def test_pages_do_not_wait_for_the_build_that_asks_for_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "_pages", lambda log: log)
    with build_step.alone(build_step.LOCK, ""):
        assert pages.pages(Path("log")) == Path("log")


def test_a_failed_build_shows_its_own_failures_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = tmp_path / "_build" / "failed"
    failed.mkdir(parents=True)
    for name in ("animals", "cifar100", "dual_cifar-1234abcd", "cifar100-seed_0"):
        (failed / f"{name}.txt").write_text("of an earlier build, a variant or a sweep")
    fails = ["sh", "-c", "echo 'a cell failed' > _build/failed/animals.txt; exit 1"]
    monkeypatch.setattr(build_step, "snakemake", lambda *_, **__: fails)
    with pytest.raises(RunError) as error:
        build_step.build("book", {})
    assert str(error.value) == "the book was not built.\n\na cell failed"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("profile=ful", "Did you mean 'full'?"),
        ("sede=1", "Did you mean 'seed'?"),
        ("quick", "NAME=VALUE"),
        ("data=download", "animals.data=synthetic"),
        ("anmals.data=synthetic", "Did you mean 'animals'?"),
        ("animals.dta=synthetic", "Did you mean 'data'?"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(project, given, says):
    shown = subprocess.run([*COMMAND, given], cwd=project, capture_output=True, text=True, check=False)
    assert shown.returncode == 1 and says in shown.stderr and "Traceback" not in shown.stderr
    assert not (project / "_build").exists()


def test_a_parameter_of_one_chapter_goes_to_it_alone_and_outweighs_the_others():
    given = sources.typed(["data=download", "animals.data=synthetic", "animals.seed=3"])
    config = {"parameters": {"data": "synthetic", "seed": 0} | given, "chapters": {"animals": {"seed": 2}}}
    config["chapters"]["cifar100"] = None
    assert json.loads(sources.parameters(config, "animals")) == {"data": "synthetic", "seed": 3}
    assert json.loads(sources.parameters(config, "cifar100")) == {"data": "download", "seed": 0}
    assert main._parameters(["data=download", "animals.data=synthetic"])["data"] == "download"


def test_the_digest_changes_with_what_can_change_a_result(project, monkeypatch):
    monkeypatch.chdir(project)
    first = sources.digest({})
    append(project / "book" / "intro.md", "More prose.\n")
    append(project / "labkit" / "book" / "stage.py", "# A page is laid out differently.\n")
    assert sources.digest({}) == first
    digests = {first, sources.digest({"profile": "full"})}
    for name in (*sources.REPORTS, "constraints.txt", "labkit/errors.py", "notebooks/animals.ipynb"):
        append(project / name, "\n")
        digests.add(sources.digest({}))
    assert len(digests) == 7


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_a_chapter_depends_on_every_record_and_defect_that_it_shows(monkeypatch, chapter):
    from labkit import scoreboard  # loads Keras

    looked_up, load = [], scoreboard.runs.load
    monkeypatch.setattr(scoreboard, "_loaded", lambda path, changed: looked_up.append(path) or load(path))
    scoreboard.compare(chapter)
    wanted = [*looked_up, scoreboard.project() / scoreboard.DEFECTS]
    assert looked_up and {str(path.relative_to(ROOT)) for path in wanted} <= {*sources.of(chapter)}


def test_the_workflow_names_every_chapter_and_gives_it_parameters_it_knows():
    config = yaml.safe_load((ROOT / "workflow.yaml").read_text(encoding="utf-8"))
    assert list(config["chapters"]) == list(chapters.CHAPTERS)
    for name, own in config["chapters"].items():
        assert chapters.checked(name, {**config["parameters"], **(own or {})}).profile == "smoke"


def test_a_cluster_is_asked_for_what_each_chapter_needs(project, monkeypatch):
    monkeypatch.chdir(project)
    needs = build_step._needs({"profile": "quick", "dual_cifar.models": "dual_linear"})
    small, large = needs["dual_cifar"], needs["cifar100"]
    assert small["minutes"] < large["minutes"] and small["mem_mb"] < large["mem_mb"]
    record.write(build_step.GIVEN, {"needs": needs})
    given = ["--dry-run", "--configfile", "workflow.yaml", str(build_step.GIVEN)]
    for profile, minutes, memory in (("slurm", "minutes", "mem_mb"), ("", None, None)):
        command = build_step.snakemake("executed", *(given if profile else given[:1]), profile=profile)
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for asked in (small, large):
            found = f"runtime={asked[minutes] if minutes else 0}, "
            assert found in shown and f"mem_mb={asked[memory] if memory else 0}, " in shown


def test_a_page_beside_others_is_not_executed_before_there_are_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["variant", "dual_cifar", "seed=1"]) == 1
    said = capsys.readouterr().err
    assert "noisy_cifar, animals, dual_cifar, cifar100 was never executed" in said and "run make book" in said
