"""learner.pkl answers, in a script that knows nothing of the run, as the run's own Learner does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_sentence, full_disk, python, tree
from fastai.learner import load_learner
from PIL import Image

import mnist_fastai
from mnist_fastai import Run, export, export_learner, fit, load_run
from mnist_fastai.errors import InputError, RunError

SCRIPT = """
import json, sys, warnings
import numpy as np
from PIL import Image
from fastai.learner import load_learner

with warnings.catch_warnings(record=True) as caught:
    learner = load_learner(sys.argv[1])
found = {"warnings": [str(w.message) for w in caught], "images_within": len(learner.dls.train_ds)}
for name, given in (
    ("path", "digit.png"),
    ("image", Image.open("digit.png")),
    ("array", np.asarray(Image.open("digit.png"))),
    ("rgb", Image.open("digit.png").convert("RGB")),
):
    try:
        with learner.no_bar():
            label, index, probabilities = learner.predict(given)
        found[name] = [label, int(index), probabilities.tolist()]
    except Exception as e:
        found[name] = repr(e)
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(run, small, tmp_path_factory) -> dict:
    """What a plain script in another folder finds, and what the run's Learner answers."""
    folder = tmp_path_factory.mktemp("elsewhere")
    image = small.valid.images[0].numpy()
    Image.fromarray(image).save(folder / "digit.png")
    done = python("-c", SCRIPT, run.path / "learner.pkl", cwd=folder)
    assert done.returncode == 0, done.stderr
    learner = load_run(run.path)
    with learner.no_bar():
        label, index, probabilities = learner.predict(image)
    return json.loads(done.stdout) | {"expected": [label, int(index), probabilities.tolist()]}


@pytest.mark.parametrize("given", ["path", "image", "array", "rgb"])
def test_load_learner_answers_as_the_run_does(answers, given):
    label, index, probabilities = answers["expected"]
    assert answers[given][:2] == [label, index]
    np.testing.assert_allclose(answers[given][2], probabilities, rtol=0, atol=1e-6)


def test_load_learner_warns_of_nothing_but_its_pickle(answers):
    assert [w for w in answers["warnings"] if "pickle" not in w] == []


def test_learner_holds_no_dataset(answers, run):
    assert answers["images_within"] == 0
    beside_the_weights = (run.path / "learner.pkl").stat().st_size - (run.path / "model.safetensors").stat().st_size
    assert beside_the_weights < 100_000  # bytes; the images would be 470,000


def test_learner_names_no_path_of_this_machine(run, folder):
    content = (run.path / "learner.pkl").read_bytes()
    # not sys.prefix: a fastai transform is pickled by value, and with it fastai's own place
    paths = run.path, folder, Path(mnist_fastai.__file__).parent, Path.cwd()
    assert [str(p) for p in paths if str(p).encode() in content] == []


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """A copy of the finished run."""
    return Run(shutil.copytree(run.path, tmp_path / "copy"))


def test_export_writes_into_the_run_what_load_learner_reads(copy, small):
    (copy.path / "learner.pkl").unlink()
    path, difference = export_learner(copy)
    assert path == copy.path / "learner.pkl"
    assert 0 <= difference < 1e-5
    with pytest.warns(UserWarning, match="pickle"):
        learner = load_learner(path)
    ours = load_run(copy.path)
    assert all(v.equal(ours.model.state_dict()[k]) for k, v in learner.model.state_dict().items())


def test_export_refuses_a_learner_that_answers_otherwise(copy, recipe, tmp_path, monkeypatch):
    other = load_run(fit(replace(recipe, num_epochs=0), tmp_path / "other", device="cpu").path)
    write = export.write_learner
    monkeypatch.setattr(export, "write_learner", lambda learner, path: write(other, path))
    before = tree(copy.path)
    with pytest.raises(RunError) as error:
        export_learner(copy, tmp_path / "out")
    assert_one_sentence(str(error.value))
    assert str(copy.path) in str(error.value)
    assert tree(copy.path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"not weights"),
    ],
    ids=["missing", "truncated", "garbage"],
)
def test_damaged_weights_are_refused_by_name(copy, spoil):
    spoil(copy.path / "model.safetensors")
    before = tree(copy.path)
    with pytest.raises((InputError, RunError)) as error:
        export_learner(copy)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)
    assert tree(copy.path) == before


def test_weights_of_another_architecture_are_refused_by_name(copy, recipe, tmp_path):
    other = fit(replace(recipe, arch="deep", num_epochs=0), tmp_path / "other", device="cpu")
    shutil.copy(other.path / "model.safetensors", copy.path)
    with pytest.raises((InputError, RunError)) as error:
        load_run(copy.path)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)


@pytest.mark.parametrize("limit", [100_000, 270_000])  # bytes: less than learner.pkl, and less than the images
def test_export_on_a_full_disk_keeps_what_was_there(copy, limit):
    before = tree(copy.path)
    with full_disk(limit), pytest.raises(RunError) as error:
        export_learner(copy)
    assert_one_sentence(str(error.value))
    assert tree(copy.path) == before


def test_export_of_an_unfinished_run_says_how_to_go_on(interrupted):
    with pytest.raises(InputError, match="--resume"):
        export_learner(Run(interrupted))
