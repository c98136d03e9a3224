import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit import augment
from labkit.errors import RecipeError
from labkit.recipes import AUGMENTATIONS, RECIPES, Recipe

PLAIN = Recipe(epochs=5, batch_size=8)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prints_as_one_line_that_names_what_it_does(name):
    recipe = RECIPES[name]
    line = str(recipe)
    assert "\n" not in line
    for part in (recipe.optimizer, f"{recipe.lr:g}", f"batch {recipe.batch_size}", f"{recipe.epochs} epochs"):
        assert part in line


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    recipe = RECIPES[name]
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_decay_of_report_000_is_converted_from_tensorflow_addons():
    """There each step takes 1e-4 of a weight away, whatever the learning rate; here lr times the decay."""
    for name in ("report000_model1", "report000_model2", "report000_mixup"):
        assert RECIPES[name].lr * RECIPES[name].weight_decay == pytest.approx(1e-4)


def test_recipes_are_those_of_the_reports():
    model1, cleaner = RECIPES["report000_model1"], RECIPES["report000_cleaner"]
    assert (model1.optimizer, model1.patience, model1.batch_size, model1.epochs) == ("adamw", 15, 128, 100)
    assert (cleaner.optimizer, cleaner.weight_decay) == ("adam", 0)
    assert RECIPES["report000_mixup"].monitor == "accuracy"
    assert RECIPES["report002_finetune_resnet50v2"].lr == 5e-5
    assert {RECIPES[name].batch_size for name in RECIPES if name.startswith("report002")} == {258}
    assert RECIPES["report003_accn"].mode == "min"
    kept = {recipe.kept_by for name, recipe in RECIPES.items() if name.startswith("report003")}
    assert kept == {"val_accuracy"}  # the mean of both heads
    assert "stops after 10 without a better val_loss, keeps the best val_accuracy" in str(
        RECIPES["report003_accn"]
    )
    assert RECIPES["report004"].momentum == 0.9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adamm", "lr": 1}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"monitor": "val_f1"}, "val_accuracy"),
        ({"keep": "val_acc"}, "Did you mean 'val_accuracy'"),
        ({"augment": "mix-up"}, "Did you mean 'mixup'"),
        ({"loss": "mse"}, "crossentropy"),
        ({"precision": "float16"}, "mixed_bfloat16"),
        ({"epochs": -1}, "0 or more"),
        ({"epochs": 2.5}, "whole number"),
        ({"batch_size": 0}, "1 or more"),
        ({"patience": 0}, "1 or more"),
        ({"seed": True}, "whole number"),
        ({"lr": 0}, "above 0"),
        ({"lr": "0.1"}, "a number"),
        ({"momentum": None}, "a number"),
        ({"warmup": None}, "a number"),
        ({"restore_best": "no"}, "True or False"),
        ({"lr": float("nan")}, "above 0"),
        ({"lr": float("inf")}, "above 0"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"min_lr": 1.0}, "below lr"),
        ({"min_lr": 1e-6}, "min_lr with a constant rate"),
        ({"ema": 1.0}, "between 0 and 1"),
        ({"schedule": "plateau"}, "plateau without plateau_patience"),
        ({"schedule": "cosine", "plateau_patience": 3}, "plateau_patience with schedule 'cosine'"),
        ({"plateau_patience": 3}, "use schedule='plateau'"),
        ({"schedule": "plateau", "plateau_patience": 3, "warmup": 1}, "warm-up before a plateau"),
        ({"schedule": "cosine", "warmup": 5}, "warm-up of 5 epochs in a run of 5"),
        ({"weight_decay": 0.1}, "optimizer='adamw'"),
        ({"optimizer": "adamw"}, "adamw without weight decay"),
        ({"momentum": 0.9}, "adam has its own"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov without"),
        ({"partners": "shuffle"}, "use mixup or cutmix"),
        ({"loss": "gce", "loss_options": {"p": 1}}, "it takes q"),
        ({"loss_options": {"q": 1}}, "it takes no options"),
        ({"loss": "forward", "label_smoothing": 0.1}, "targets are likelihoods"),
        ({"ema": 0.9, "patience": 2, "restore_best": False}, "set restore_best"),
    ],
)
def test_contradictions_and_wrong_values_are_refused(changes, says):
    with pytest.raises(RecipeError) as error:
        PLAIN.but(**changes)
    assert says in str(error.value)


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'batch_size'"):
        PLAIN.but(batchsize=3)


def test_leaving_the_plateau_leaves_its_settings_behind():
    plateau = PLAIN.but(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    assert plateau.but(schedule="cosine").plateau_patience is None


@given(st.integers(1, 40))
def test_a_shorter_run_warms_up_for_a_shorter_part_of_it(epochs):
    recipe = Recipe(epochs=40, batch_size=8, schedule="cosine", warmup=10).but(epochs=epochs)
    assert recipe.warmup == pytest.approx(epochs / 4)


def test_augmentations_are_those_that_exist():
    assert set(AUGMENTATIONS) == {None, *augment.NAMES}


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.lr = 1
