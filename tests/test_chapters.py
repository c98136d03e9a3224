"""Every parameter of every chapter is checked, and what is refused says how to mend it."""

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from labkit import chapters
from labkit.errors import ParameterError

EVERY = [(name, parameter) for name in chapters.CHAPTERS for parameter in chapters.parameters(name)]


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_defaults_are_accepted_and_name_every_model(chapter):
    settings = chapters.checked(chapter, {})
    assert settings.profile == "smoke" and settings.data == "synthetic"
    assert settings.models == chapters.CHAPTERS[chapter].models
    for parameter in chapters.CHAPTERS[chapter].own:
        getattr(settings, parameter.name)


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_a_profile_decides_what_the_reader_leaves_open(chapter):
    smoke, full = (chapters.checked(chapter, {"profile": name}) for name in ("smoke", "full"))
    assert smoke.n * smoke.epochs <= 20_000  # chapter 1 learns enough in it for its methods to be told apart
    assert chapter == "noisy_cifar" or smoke.epochs == 1
    assert full.n is None and full.epochs is None and full.batch is None
    assert chapters.checked(chapter, {"epochs": 7}).epochs == 7


@pytest.mark.parametrize(("chapter", "parameter"), EVERY, ids=lambda item: getattr(item, "name", item))
def test_every_parameter_is_described_and_refuses_nonsense(chapter, parameter):
    assert parameter.meaning.endswith(".") and parameter.allowed and parameter.type
    for nonsense in ({"a": 1}, True, float("nan"), -1, ""):
        with pytest.raises(ParameterError, match=parameter.name) as refusal:
            chapters.checked(chapter, {parameter.name: nonsense})
        assert "Expected: " in str(refusal.value)


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epoch": 5}, "Did you mean 'epochs'?"),
        ({"profile": "warp"}, "smoke or quick or full"),
        ({"profile": "ful"}, "Did you mean 'full'?"),
        ({"seed": "3"}, "the text '3'"),
        ({"seed": 3.0}, "a whole number"),
        ({"epochs": 0}, "1 or more"),
        ({"data": "synthetc"}, "Did you mean 'synthetic'?"),
        ({"data": "/nowhere/cifar"}, "Nothing is at /nowhere/cifar"),
        ({"models": ["nonesuch"]}, "the text 'nonesuch'"),
        ({"models": []}, "'all', one of"),
        ({"runs": 3}, "the path of a folder"),
    ],
)
def test_a_refusal_names_the_right_spelling(chapter, given, says):
    with pytest.raises(ParameterError) as refusal:
        chapters.checked(chapter, given)
    assert says in str(refusal.value)


def test_photos_that_nobody_publishes_are_not_downloaded():
    with pytest.raises(ParameterError, match="Expected: 'synthetic' or a folder") as refusal:
        chapters.checked("animals", {"data": "download"})
    assert "Nobody publishes these photos" in str(refusal.value)
    assert chapters.checked("cifar100", {"data": "download"}).data == "download"


def test_every_unknown_name_is_listed():
    with pytest.raises(ParameterError) as refusal:
        chapters.checked("dual_cifar", {"epoch": 5, "sede": 1, "xyzzy": 2})
    assert "'epoch', 'sede', 'xyzzy'" in str(refusal.value)
    assert "'epochs'" in str(refusal.value) and "'seed'" in str(refusal.value)
    assert "Leave 'xyzzy' out." in str(refusal.value)


def test_every_name_counts_where_parameters_are_given_by_name():
    with pytest.raises(ParameterError, match="no parameter 'In', '_seed'"):
        chapters.checked("dual_cifar", {"_seed": 1, "In": None})


def test_a_misspelt_chapter_names_the_nearest():
    with pytest.raises(ParameterError, match="Did you mean 'dual_cifar'"):
        chapters.checked("dual_cifer", {})


def test_a_parameter_of_one_chapter_is_refused_by_another():
    assert chapters.checked("noisy_cifar", {"folds": 4}).folds == 4
    with pytest.raises(ParameterError, match="no parameter 'folds'"):
        chapters.checked("animals", {"folds": 4})


@pytest.mark.parametrize("given", ["vgg,cct", "vgg, cct", ["vgg", "cct"], ("vgg", "cct", "vgg")])
def test_models_come_as_text_or_list(given):
    assert chapters.checked("noisy_cifar", {"models": given}).models == ("vgg", "cct")


def test_numbers_and_groups_are_read():
    given = {"weight": 0.25, "groups": [[0, 1], [8, 9]], "augment": "basic"}
    settings = chapters.checked("dual_cifar", given)
    assert settings.weight == 0.25
    assert settings.groups == ((0, 1), (8, 9))
    assert chapters.checked("dual_cifar", {}).groups == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


@pytest.mark.parametrize("groups", ["01234", "0123/3456", "0/1", "ab/cd", [[0, 10], [1, 2]], 7])
def test_wrong_groups_are_refused(groups):
    with pytest.raises(ParameterError, match="two groups"):
        chapters.checked("dual_cifar", {"groups": groups})


def test_a_folder_is_accepted_as_data(tmp_path):
    assert chapters.checked("animals", {"data": str(tmp_path)}).data == str(tmp_path)


def test_the_default_runs_folder_is_the_projects_wherever_the_kernel_starts(tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "animals.ipynb").touch()
    monkeypatch.chdir(notebooks)
    assert chapters.checked("animals", {}).runs == tmp_path / "_build" / "runs"
    assert chapters.checked("animals", {"runs": "mine"}).runs == Path("mine")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "kept"))
    assert chapters.checked("animals", {}).runs == tmp_path / "kept"
    assert chapters.checked("animals", {"runs": "mine"}).runs == Path("mine")


def test_settings_are_frozen_and_a_misspelt_attribute_is_an_error():
    settings = chapters.checked("cifar100", {})
    with pytest.raises(AttributeError, match="Did you mean 'tuner'"):
        _ = settings.tunner
    with pytest.raises(AttributeError):
        settings.seed = 3
    assert pickle.loads(pickle.dumps(settings)) == copy.copy(settings) == settings


def test_apply_changes_only_what_was_decided():
    @dataclass(frozen=True)
    class Recipe:
        epochs: int = 50
        batch_size: int = 64
        seed: int = 0
        precision: str = "float32"
        lr: float = 0.1

        def but(self, **changes):
            return replace(self, **changes)

    assert chapters.checked("cifar100", {"profile": "full", "seed": 4}).apply(Recipe()) == Recipe(seed=4)
    smoke = chapters.checked("cifar100", {"epochs": 2})
    assert smoke.apply(Recipe()) == Recipe(epochs=2, batch_size=smoke.batch)
    faster = chapters.checked("cifar100", {"profile": "full", "precision": "mixed_bfloat16"})
    assert faster.apply(Recipe()) == Recipe(precision="mixed_bfloat16")


def cells(*sources, **values):
    """The globals of a notebook that ran these cells and is now running a call of settings()."""
    return {"In": ["", *sources, "settings = chapters.settings('animals', globals())"], **values}


def test_an_unknown_name_in_the_injected_cell_is_refused():
    notebook = cells(
        "seed = 0\ndata = 'synthetic'", "# Parameters\nepoch = 5\n", seed=0, data="synthetic", epoch=5
    )
    with pytest.raises(ParameterError, match="no parameter 'epoch'"):
        chapters.settings("animals", notebook)


def test_a_chapter_may_be_run_again_in_a_kernel_that_holds_its_results():
    notebook = cells("seed = 1", "accuracy = 0.5", "model = build()", "seed = 2", accuracy=0.5, seed=2)
    assert chapters.settings("animals", notebook).seed == 2


def test_an_import_before_the_parameters_hides_no_unknown_name():
    with pytest.raises(ParameterError, match="no parameter 'sede'"):
        chapters.settings("animals", cells("sede = 1", "import math", sede=1))


def test_a_parameter_overwritten_by_a_module_is_explained():
    with pytest.raises(ParameterError, match="Run the cell that sets the parameters again"):
        chapters.settings("animals", {"data": math_module()})


def math_module():
    import math

    return math


def test_the_command_repeats_what_was_given_and_nothing_else():
    given = {"profile": "full", "models": ["vgg", "cct"], "epochs": None, "data": "/my photos", "seed": 0}
    assert chapters.command("noisy_cifar", given) == (
        ".venv/bin/papermill notebooks/noisy_cifar.ipynb noisy_cifar.out.ipynb"
        " -p profile full -p models vgg,cct -p data '/my photos'"
    )
    assert chapters.command("dual_cifar", {"groups": [[0, 1], [8, 9]]}).endswith(" -p groups 01/89")
    with pytest.raises(ParameterError, match="epochs"):
        chapters.command("noisy_cifar", {"epoch": 3})


def test_refusing_imports_neither_keras_nor_numpy():
    heavy = "{'keras', 'numpy', 'tensorflow'}"
    code = f"import sys; from labkit import chapters; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
