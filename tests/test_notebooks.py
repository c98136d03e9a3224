"""The committed notebooks: paired, without outputs, true to their declared parameters, and running."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from labkit import chapters
from labkit.book import pairs
from labkit.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


def code_cells(chapter):
    notebook = jupytext.read(NOTEBOOKS / f"{chapter}.md")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_chapter_has_a_notebook_and_no_notebook_lacks_a_chapter():
    assert {path.stem for path in NOTEBOOKS.glob("*.md")} == set(chapters.CHAPTERS)


def test_the_halves_are_in_step_and_without_outputs():
    pairs.check(NOTEBOOKS)


@pytest.fixture
def pair(tmp_path):
    """A pair of our own to put out of step."""
    for half in (".md", ".ipynb"):
        name = f"animals{half}"
        (tmp_path / name).write_bytes((NOTEBOOKS / name).read_bytes())
    (tmp_path / "jupytext.toml").write_bytes((NOTEBOOKS / "jupytext.toml").read_bytes())
    return tmp_path / "animals"


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("newer", [".md", ".ipynb"])
@pytest.mark.parametrize("edited", [".md", ".ipynb"])
def test_an_edit_of_one_half_is_found_whichever_is_newer(pair, edited, newer):
    edit(pair.with_suffix(edited), "seed = 0", "seed = 1")
    os.utime(pair.with_suffix(newer), (2e9, 2e9))
    assert any("the text differs" in line for line in pairs.differences(pair))
    with pytest.raises(RunError, match="animals: cell 2: the text differs"):
        pairs.check(pair.parent)


def test_an_output_a_tag_a_cell_and_metadata_are_found(pair):
    path = pair.with_suffix(".ipynb")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[0]["metadata"]["tags"] = []
    code[1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "hello"}]
    notebook["cells"].append({"cell_type": "markdown", "id": "more", "metadata": {}, "source": "more"})
    notebook["metadata"]["widgets"] = {}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    found = "\n".join(pairs.differences(pair))
    for part in ("the metadata differ", "holds an output", "cells in animals.md", "hold widgets"):
        assert part in found


def test_a_missing_half_is_found(pair):
    pair.with_suffix(".ipynb").unlink()
    assert pairs.differences(pair) == ["animals.ipynb is missing"]


def test_sync_mends_a_pair_and_leaves_no_trace_of_a_save_in_jupyterlab(pair):
    path, written = pair.with_suffix(".ipynb"), pair.with_suffix(".md").read_bytes()
    kept = path.read_bytes()
    notebook = json.loads(kept)
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11.7"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
            cell["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    os.utime(path, (2e9, 2e9))
    places = [f"VENV={Path(sys.executable).parents[1]}", f"NOTEBOOKS={pair.parent}"]
    sync = subprocess.run(["make", "sync", *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert sync.returncode == 0, sync.stderr
    assert pairs.differences(pair) == []
    assert path.read_bytes() == kept
    assert pair.with_suffix(".md").read_bytes() == written


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_the_first_cell_sets_every_parameter_to_its_default(chapter):
    first = code_cells(chapter)[0]
    assert first.metadata.tags == ["parameters"]
    written = [
        (statement.targets[0].id, ast.literal_eval(statement.value))
        for statement in ast.parse(first.source).body
    ]
    assert written == [(parameter.name, parameter.default) for parameter in chapters.parameters(chapter)]


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_the_second_cell_checks_them(chapter):
    assert f'settings = chapters.settings("{chapter}", globals())' in code_cells(chapter)[1].source


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_cells_are_short_and_define_no_class(chapter):
    for cell in code_cells(chapter)[1:]:
        assert len(cell.source.splitlines()) <= 12, cell.source
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source)))


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_code_that_is_shown_fits_the_page(chapter):
    shown = [cell for cell in code_cells(chapter) if "hide-input" not in cell.metadata.get("tags", [])]
    assert not [line for cell in shown for line in cell.source.splitlines() if len(line) > 90]


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_a_chapter_runs_in_smoke(chapter, smoke):
    executed, _ = smoke(chapter)
    assert executed.metadata.papermill.exception is None
    counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_an_unknown_parameter_stops_a_chapter_before_any_work(chapter, tmp_path):
    partial = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError) as refusal:
        papermill.execute_notebook(
            NOTEBOOKS / f"{chapter}.ipynb", partial, parameters={"epoch": 5}, progress_bar=False
        )
    assert refusal.value.ename == "ParameterError" and "Did you mean 'epochs'?" in refusal.value.evalue
    ran = [cell for cell in jupytext.read(partial).cells if cell.cell_type == "code" and cell.execution_count]
    assert len(ran) == 3  # the parameters, what papermill injected, and the check


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-p", "epoch", "5"], "Did you mean 'epochs'?"),
        (["-p", "profile", "warp"], "Expected: smoke or quick or full"),
    ],
)
def test_the_papermill_command_refuses_and_says_what_is_right(options, says, tmp_path):
    command = [
        Path(sys.executable).with_name("papermill"),
        "notebooks/dual_cifar.ipynb",
        tmp_path / "out.ipynb",
    ]
    shown = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode != 0
    assert says in shown.stderr and "ParameterError" in shown.stderr
