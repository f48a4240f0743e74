"""A recipe takes only what a training can use, and comes back from JSON as it was."""

import json
import math
import os
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from conftest import assert_one_sentence, deadline

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
        ("batch_size", 10**6 + 1),
        ("num_epochs", 10**6 + 1),
        ("batch_size", "1\n2"),
        ("momentum", [0.5]),
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
    assert (repr(value) if isinstance(value, str) else str(value)) in str(error.value)


HUGE = [10**400, -(10**400), 16**5000, math.inf, -math.inf]


@pytest.mark.parametrize("value", HUGE, ids=["1e400", "-1e400", "16^5000", "inf", "-inf"])
@pytest.mark.parametrize("field", [f.name for f in fields(Recipe)])
def test_a_number_beyond_every_float_is_refused_by_name(field, value):
    with pytest.raises(InputError) as error:
        Recipe(**{field: value})
    sentence = str(error.value)
    assert_one_sentence(sentence)
    assert field.replace("_", " ") in sentence
    assert len(sentence) < 500


def test_a_whole_number_is_taken_for_a_float():
    recipe = Recipe(learning_rate=1, momentum=0)
    assert (type(recipe.learning_rate), type(recipe.momentum)) == (float, float)
    assert Recipe(learning_rate=10**300).learning_rate == 1e300


@pytest.mark.parametrize(
    "value", ["a\0b", "a\nb", "\x1b[31m", "\x85", "\u2028", "\ud800", os.fsdecode(b"\xff")], ids=ascii
)
@pytest.mark.parametrize("field", ["name", "arch", "opt", "augment"])
def test_a_name_of_control_characters_or_halves_of_characters_is_refused(field, value):
    value = value if field == "name" else f"package:{value}"
    with pytest.raises(InputError, match="no text") as error:
        Recipe(**{field: value})
    assert_one_sentence(str(error.value))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["é", "数字", "می\u200cخواهم", "👩\u200d🔬", "a b", "a/b", "..", "$x$", "=1+1", "x" * 1000]
)
def test_any_other_name_is_taken_and_comes_back_from_json(name):
    recipe = Recipe(name)
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("data", ["/a\nb", "/\x1b[31m", os.fsdecode(b"/caf\xe9"), "/" + "x" * 300], ids=ascii)
def test_data_may_have_whatever_name_a_folder_can_have(data):
    recipe = Recipe(data=data)
    assert recipe.data == data
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_data_that_is_no_path_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"data 'a\\x00b'") as error:
        Recipe(data="a\0b")
    assert_one_sentence(str(error.value))
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(InputError, match=r"data 'digits'.*whole path") as error:
        Recipe(data="digits")
    assert_one_sentence(str(error.value))
    assert Recipe(data="/digits").data == "/digits"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_epochs", 0),
        ("num_epochs", 10**6),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("batch_size", 1),
        ("batch_size", 10**6),
    ],
)
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


@pytest.mark.parametrize("version", [2, "1", None, True, -1, 16**5000, [[]]], ids=lambda v: repr(type(v)))
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


DEEP = 10**5
FILES = {
    "huge-rate.toml": f"learning_rate = 1{'0' * 400}",
    "huge-rate.json": f'{{"learning_rate": 1{"0" * 400}}}',
    "huge-batch.toml": f"batch_size = 1{'0' * 400}",
    "huge-epochs.json": f'{{"num_epochs": 1{"0" * 400}}}',
    "digits.toml": f"seed = {'1' * 5000}",
    "digits.json": f'{{"seed": {"1" * 5000}}}',
    "hexadecimal.toml": f"seed = 0x{'f' * 5000}",
    "hexadecimal-rate.toml": f"learning_rate = 0x{'f' * 5000}",
    "hexadecimal-format.toml": f"format = 0x{'f' * 5000}",
    "nan.toml": "learning_rate = nan",
    "nan.json": '{"learning_rate": NaN}',
    "infinite.json": '{"momentum": -1e999}',
    "deep-array.toml": f"arch = {'[' * DEEP}",
    "deep-table.toml": f"arch = {'{a = ' * DEEP}",
    "deep-array.json": f'{{"arch": {"[" * DEEP}',
    "deep-object.json": f'{{"arch": {chr(123) + chr(34) + "a" + chr(34) + ":"}' * DEEP,
    "less-deep.json": f'{{"arch": {"[" * 900}{"]" * 900}}}',
    "dotted.toml": f"arch.{'a.' * 30000}a = 1",
    "dotted-table.toml": f"[{'a.' * 30000}a]",
    "hundred-megabytes.json": None,
    "hundred-megabytes.toml": None,
    "base.toml": "base = ['improved']",
    "base-number.json": '{"base": 3}',
    "name.json": '{"name": "a\\u0000b"}',
    "name-surrogate.json": '{"name": "\\ud800"}',
    "table-name.toml": '["a\\nb"]\nseed = 1',
    "name-type.json": '{"name": ["a"]}',
    "data.json": '{"data": "a\\u0000b"}',
    "field.json": '{"a\\nb": 1}',
    "long-field.json": f'{{"{"x" * 10000}": 1}}',
    "list.json": "[]",
    "date.toml": "learning_rate = 1979-05-27",
    "raw-nul.toml": "name = 'a\0b'",
    "latin-1.toml": b"name = 'caf\xe9'",
    "utf-16.json": "{}".encode("utf-16"),
    "empty.json": "",
}


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_file_of_any_content_is_refused_in_one_short_sentence_and_soon(tmp_path, name):
    path, content = tmp_path / name, FILES[name]
    if content is None:
        with open(path, "wb") as f:
            f.truncate(10**8)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with deadline(), pytest.raises(InputError) as error:
        load_recipe(path)
    sentence = str(error.value).replace(str(path), "FILE")
    assert sentence.startswith("FILE ")
    assert_one_sentence(sentence)
    assert sentence.isprintable()
    assert len(sentence) < 500


@pytest.mark.parametrize("put", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p), Path.mkdir])
def test_what_is_no_file_of_recipes_is_refused_by_name(tmp_path, put):
    path = tmp_path / "mine.toml"
    put(path)
    with deadline(), pytest.raises(InputError, match=r"mine\.toml") as error:
        load_recipe(path)
    assert_one_sentence(str(error.value))


@pytest.mark.parametrize("name", ["x" * 300 + ".toml", "a\0b.toml", "a\0b", "\ud800.json", "x" * 300], ids=ascii)
def test_a_name_that_no_file_can_have_is_refused(name):
    for source in (name, Path(name)):
        with pytest.raises(InputError):
            load_recipe(source)


def test_many_dots_in_a_comment_or_in_a_path_are_no_nesting(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"# {'.' * 500}\ndata = '{'../' * 30}digits'  # and back\n")
    assert load_recipe(path).data == "/digits"


@pytest.mark.parametrize("source", ["nameless", "nowhere.toml", "nowhere/"])
def test_a_recipe_that_is_nowhere_is_refused(source):
    with pytest.raises(InputError, match=source.rstrip("/")):
        load_recipe(source)


def test_a_recipe_cannot_be_changed_and_its_changed_copy_is_checked():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1
    with pytest.raises(InputError):
        replace(Recipe(), seed=-1)
