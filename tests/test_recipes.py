"""A recipe takes only what a training can use, and comes back from JSON as it was."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from conftest import assert_one_sentence

from mnist_fastai import RECIPES, InputError, Recipe, Run, load_recipe
from mnist_fastai.recipes import load_recipes


def test_defaults_are_the_published_tables_last_row():
    recipe = Recipe()
    found = (recipe.arch, recipe.opt, recipe.learning_rate, recipe.batch_size, recipe.num_epochs, recipe.normalize)
    assert found == ("deep", "sgd", 0.001, 32, 10, "half")
    assert (recipe.data, recipe.valid_fraction) == ("mnist", 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", "resnet"),
        ("arch", ""),
        ("arch", None),
        ("opt", "adamw"),
        ("normalize", "imagenet"),
        ("learning_rate", 0),
        ("learning_rate", -1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", "0.1"),
        ("learning_rate", True),
        ("batch_size", 0),
        ("batch_size", 32.0),
        ("num_epochs", -1),
        ("num_epochs", 1.5),
        ("seed", -1),
        ("seed", 2**32),
        ("valid_fraction", -0.1),
        ("valid_fraction", 1),
        ("valid_fraction", math.nan),
    ],
)
def test_a_value_that_no_training_could_use_is_refused_by_name(field, value):
    with pytest.raises(InputError) as error:
        Recipe(**{field: value})
    assert_one_sentence(str(error.value))
    assert field.replace("_", " ") in str(error.value).replace("_", " ")
    assert str(value) in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("num_epochs", 0), ("seed", 0), ("seed", 2**32 - 1), ("batch_size", 1)])
def test_the_limits_themselves_are_taken(field, value):
    assert getattr(Recipe(**{field: value}), field) == value


def test_name_is_made_of_architecture_and_optimizer_unless_given():
    assert Recipe(arch="lenet", opt="adam").name == "lenet-adam"
    assert Recipe("mine", arch="lenet").name == "mine"


def test_a_recipe_comes_back_from_json():
    recipe = Recipe(arch="lenet", learning_rate=1 / 3, seed=7, name="mine", data="/somewhere")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_missing_field_takes_its_default_and_an_unknown_one_is_refused_by_name():
    values = Recipe(arch="lenet", seed=7).to_dict()
    del values["momentum"], values["format"]
    assert Recipe.from_dict(values) == Recipe(arch="lenet", seed=7)
    with pytest.raises(InputError, match="colour"):
        Recipe.from_dict(values | {"colour": "red"})


@pytest.mark.parametrize("version", [2, "1", None, True])
def test_another_format_is_refused(version):
    with pytest.raises(InputError, match="format"):
        Recipe.from_dict(Recipe().to_dict() | {"format": version})


@pytest.mark.parametrize("run", ["results/runs/improved/s0", "models/mnist_model", "benchmarks/runs/lenet-adam"])
def test_committed_runs_of_every_format_are_read(run):
    run = Run(Path(__file__).parent.parent / run)
    assert run.recipe.num_epochs == len(run.history) == run.metrics["epochs"]
    assert run.classes == tuple("0123456789")
    assert run.normalize in ((0.5, 0.5), (0.1307, 0.3081))


# --- names --------------------------------------------------------------------------------------------------------


def test_a_name_is_that_of_a_named_recipe_only_while_nothing_but_the_seed_differs():
    improved = RECIPES["improved"]
    assert replace(improved, seed=3).name == "improved"
    assert replace(improved, learning_rate=1.0).name == "deep-nesterov"
    assert replace(improved, valid_fraction=0.1).name == "deep-nesterov"
    assert Recipe("improved").name == "deep-sgd"


def test_a_recipe_of_ones_own_loses_its_name_by_but():
    mine = Recipe("mine", arch="lenet")
    assert mine.but(seed=1).name == "mine"
    assert mine.but(batch_size=8).name == "lenet-sgd"
    assert mine.but(batch_size=8, name="other").name == "other"


def test_every_field_has_its_help():
    assert all(f.metadata["help"].endswith(".") for f in fields(Recipe))


# --- files --------------------------------------------------------------------------------------------------------

TOML = """
[wider]
base = "improved"
arch = "shapes:wide"

[slower]
base = "wider"
learning_rate = 0.01
"""


def test_a_file_of_several_recipes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    wider, slower = load_recipes(path)
    assert wider == replace(RECIPES["improved"], name="wider", arch="shapes:wide")
    assert slower == replace(wider, name="slower", learning_rate=0.01)
    with pytest.raises(InputError, match=r"2 recipes \(wider, slower\)"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "text"), [("mine.toml", "arch = 'lenet'\nseed = 3"), ("mine.json", '{"arch": "lenet", "seed": 3}')]
)
def test_a_file_of_one_recipe_is_named_after_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert load_recipe(tmp_path / name) == Recipe("mine", arch="lenet", seed=3)


def test_a_run_directory_is_its_recipe(tmp_path):
    run = Run.create(Recipe(arch="lenet", seed=3), tmp_path / "run")
    assert load_recipe(run.path) == run.recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a\n", "cannot be read"),
        ("colour = 'red'", "colour"),
        ("[a]\nbase = 'b'", "base 'b'"),
        ("[a]\nlearning_rate = -1", "learning rate of -1"),
        ("[improved]\nlearning_rate = 1.0", "improved"),
        ("[a]\narch = 3", "arch 3"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_recipes(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["nameless", "nowhere.toml", "nowhere/"])
def test_a_recipe_that_is_nowhere_is_refused(source):
    with pytest.raises(InputError, match=source.rstrip("/")):
        load_recipe(source)


def test_a_recipe_cannot_be_changed_and_its_changed_copy_is_checked():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1
    with pytest.raises(InputError):
        replace(Recipe(), seed=-1)
