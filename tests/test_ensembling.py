"""Several runs as one: the mean of their probabilities, in a run that every command takes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import assert_one_sentence
from safetensors.torch import load_file
from torch import nn

from mnist_fastai import InputError, Recipe, Run, ensemble, export, fit, forward, load_run
from mnist_fastai.recipes import PASSED


@pytest.fixture(scope="module")
def other(recipe, tmp_path_factory):
    """A finished run with another seed and architecture than `run`."""
    out = tmp_path_factory.mktemp("other") / "deep"
    return fit(replace(recipe, name="", arch="deep-bn", seed=1, num_epochs=1), out=out, device="cpu")


@pytest.fixture(scope="module")
def both(run, other, tmp_path_factory):
    return ensemble([run.path, other.path], tmp_path_factory.mktemp("both") / "both", device="cpu")


def probabilities(path) -> np.ndarray:
    return forward(load_run(path, device="cpu")).logits.softmax(1).numpy()


def test_its_probabilities_are_the_mean_of_the_members(run, other, both):
    mean = (probabilities(run.path) + probabilities(other.path)) / 2
    np.testing.assert_allclose(probabilities(both.path), mean, atol=1e-6)
    assert (both.predictions == mean.argmax(1)).all()
    labels = load_run(run.path).dls.valid.tensors[1].numpy()
    assert both.metrics["accuracy"] == (mean.argmax(1) == labels).mean()


def test_it_is_a_run_without_its_members(run, other, both, cli, tmp_path):
    moved = shutil.copytree(both.path, tmp_path / "moved")
    weights = load_file(moved / "model.safetensors")
    assert len(weights) == sum(len(load_file(r.path / "model.safetensors")) for r in (run, other))
    for format in ("learner", "onnx"):
        assert export(Run(moved), format).images == run.metrics["images"]
    code, out, _ = cli("evaluate", moved, run.path)
    assert code == 0
    assert "2 x" not in out  # of two recipes
    assert "ensemble of 2" in out


def test_members_whose_weights_began_in_another_way_keep_what_they_learned(recipe, run, tmp_path):
    member = fit(replace(recipe, name="", init="xavier", num_epochs=1), out=tmp_path / "xavier", device="cpu")
    both = ensemble([member.path, run.path], tmp_path / "both", device="cpu")
    mean = (probabilities(member.path) + probabilities(run.path)) / 2
    assert (both.predictions == mean.argmax(1)).all()


def test_data_in_memory_is_held_out_as_the_members_data_was(small, tmp_path):
    recipe = Recipe(arch="lenet", num_epochs=0, valid_fraction=0.2)
    members = [fit(replace(recipe, seed=s), data=small, out=tmp_path / str(s), device="cpu").path for s in (0, 1)]
    both = ensemble(members, tmp_path / "both", data=small, device="cpu")
    assert both.metrics["split"] == "held out"
    assert both.facts["splits"] == Run(members[0]).facts["splits"]


def test_the_command_names_seeds_of_one_recipe(recipe, run, cli, tmp_path):
    second = fit(replace(recipe, seed=1, num_epochs=1), out=tmp_path / "second", device="cpu")
    code, out, err = cli("ensemble", run.path, second.path, "--out", "both")
    assert (code, err) == (0, "")
    assert Run("both").recipe.name == f"2 x {recipe.name}"
    assert f"{Run('both').metrics['accuracy']:.2%}" in out
    assert cli("train", "--resume", "both")[0] == 0


class Own(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_members_with_code_of_their_own_are_imported_only_when_allowed(recipe, run, tmp_path):
    own = fit(replace(recipe, name="", arch=f"{__name__}:Own", num_epochs=1), out=tmp_path / "own", device="cpu")
    with pytest.raises(InputError, match="allow_import"):
        ensemble([run.path, own.path], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    both = ensemble([run.path, own.path], tmp_path / "both", allow_import=True, device="cpu")
    with pytest.raises(InputError, match="allow_import"):
        load_run(both.path)
    assert forward(load_run(both.path, allow_import=True)).logits.shape[1] == 10


def test_what_cannot_be_averaged_is_refused(recipe, run, both, interrupted, small, tmp_path, cli):
    passed = fit(replace(recipe, num_epochs=1), model=Own(10), out=tmp_path / "passed", device="cpu")
    scaled = fit(replace(recipe, name="", normalize="mnist", num_epochs=0), out=tmp_path / "scaled", device="cpu")
    fewer = fit(Recipe(arch="lenet", num_epochs=0), data=replace(small, test=small.test[:50]), out=tmp_path / "fewer")
    assert fewer.recipe.data == PASSED
    cases = {
        "two or more": [run.path],
        "is not finished": [run.path, interrupted],
        "its recipe does not name": [run.path, passed.path],
        "recipe does not name; leave it out": [run.path, both.path],
        "differ in their input": [run.path, scaled.path],
        "differ in their splits": [run.path, fewer.path],
        "no run directory": [run.path, tmp_path],
    }
    for message, runs in cases.items():
        code, _, err = cli("ensemble", *runs, "--out", tmp_path / "both")
        assert code == 2, message
        assert message in err
        assert_one_sentence(err.strip())
        assert not (tmp_path / "both").exists()
