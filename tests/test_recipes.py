"""A recipe takes only what a training can use, and comes back from JSON as it was."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import pytest
from conftest import assert_one_sentence

from mnist_fastai import Recipe
from mnist_fastai.errors import InputError


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


@pytest.mark.parametrize("spoil", [lambda d: d.pop("seed"), lambda d: d.update(colour="red")], ids=["less", "more"])
def test_a_recipe_of_other_fields_is_refused(spoil):
    values = Recipe().to_dict()
    spoil(values)
    with pytest.raises(InputError, match=r"seed|colour"):
        Recipe.from_dict(values)


def test_a_recipe_cannot_be_changed_and_its_changed_copy_is_checked():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1
    with pytest.raises(InputError):
        replace(Recipe(), seed=-1)
