"""The grid of runs: which it is, that it continues where it was stopped, and that its bits come out again."""

import filecmp
import io
import json
import re
import shutil
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import CtrlC, assert_one_sentence, forget_digests, same_weights, start_cli, tree, without_seconds
from rich.console import Console

from mnist_fastai import Data, Recipe, Run, dataloaders, fit, make_learner, resume
from mnist_fastai.errors import InputError
from mnist_fastai.learner import find_schedule
from mnist_fastai.models import alexnet
from mnist_fastai.recipes import DEEPER, GROUPS, LEARNING_RATE_001, PUBLISHED, RECIPES, VANILLA
from mnist_fastai.reproduce import SMOKE, run_grid, select, verify

FAILED, IMPROVED = GROUPS["failed"].recipes, RECIPES["improved"]


@pytest.fixture
def no_weights(monkeypatch):
    """A machine that cannot download AlexNet's weights."""

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "alexnet", refuse)


def changed(before, after):
    return {f.name for f in fields(before) if f.name != "name" and getattr(before, f.name) != getattr(after, f.name)}


def test_each_row_changes_what_the_table_says_from_the_row_before():
    rows = GROUPS["table"].recipes
    assert [row.name for row in rows] == list(PUBLISHED)
    assert list(PUBLISHED) == [
        "baseline", "vanilla", "normalization", "batch-64", "batch-32", "0.0005-learning-rate", "deeper-architecture",
        "0.001-learning-rate",
    ]  # fmt: skip
    steps = [{"normalize"}, {"batch_size"}, {"batch_size"}, {"learning_rate"}, {"arch"}, {"opt", "learning_rate"}]
    assert [changed(a, b) for a, b in pairwise(rows[1:])] == steps
    assert (VANILLA.batch_size, VANILLA.learning_rate, VANILLA.normalize) == (128, 0.0002, "none")
    assert (LEARNING_RATE_001.opt, LEARNING_RATE_001.momentum) == ("sgd", 0.9)


def test_each_failed_idea_changes_one_thing_of_the_last_row():
    assert [len(changed(LEARNING_RATE_001, idea)) for idea in FAILED] == [1] * 7
    assert changed(LEARNING_RATE_001, IMPROVED).isdisjoint({"arch", "num_epochs", "data", "valid_fraction"})


def test_rows_are_chosen_by_name_and_by_group():
    recipes, groups = select(["batch-32", "failed", "batch-32"])
    assert recipes == [RECIPES["batch-32"], *FAILED]
    assert groups is GROUPS
    assert set(select([])[0]) == set(RECIPES.values())
    with pytest.raises(InputError, match=r"batch-31.*failed.*batch-32") as e:
        select(["batch-31"])
    assert_one_sentence(str(e.value))


@pytest.fixture
def mine(tmp_path):
    """A recipe file with two recipes."""
    path = tmp_path / "mine.toml"
    path.write_text(
        "[slow]\nbase = 'vanilla'\nlearning_rate = 0.0001\nseed = 7\n[slower]\nbase = 'slow'\nbatch_size = 256\n"
    )
    return str(path)


def test_recipe_files_are_one_group_compared_with_one_recipe(mine, tmp_path):
    recipes, groups = select([mine, "batch-32"], "vanilla")
    assert [r.name for r in recipes] == ["vanilla", "slow", "slower", "batch-32"]
    assert {r.seed for r in recipes} == {0}
    (group,) = groups.values()
    assert (group.recipes, group.against) == (tuple(recipes), VANILLA)
    assert select([mine])[1]["own"].against == LEARNING_RATE_001
    assert select([mine], "slower")[0][0].name == "slower"  # one of the file
    (tmp_path / "one.toml").write_text("base = 'vanilla'\nmomentum = 0.5\n")
    assert [r.name for r in select(["vanilla"], str(tmp_path / "one.toml"))[0]] == ["one", "vanilla"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slow]\nmomentum = 0.5\n", "two recipes are named slow"),
        ("[held]\nvalid_fraction = 0.1\n", "different images"),
    ],
)
def test_recipes_that_cannot_stand_in_one_table_are_refused(mine, tmp_path, text, message):
    (tmp_path / "other.toml").write_text(text)
    with pytest.raises(InputError, match=message) as e:
        select([mine, str(tmp_path / "other.toml")])
    assert_one_sentence(str(e.value))


def test_smoke_makes_every_table_and_a_second_call_keeps_every_run(cli, tmp_path):
    out = tmp_path / "out"
    args = "reproduce", "--smoke", "--rows", "baseline,vanilla,horizontal-flip", "--jobs", "1", "--out", out
    code, said, err = cli(*args)
    assert (code, err) == (0, "")
    assert "6/6" in said
    assert {p.name for p in out.iterdir()} == {"runs", "results.md", "results.csv", "results.png"}
    assert {p.parent.name for p in out.glob("runs/*/s1")} == {"baseline", "vanilla", "horizontal-flip"}
    run = Run(out / "runs/vanilla/s1")
    assert (run.recipe.seed, run.recipe.batch_size, run.metrics["threads"]) == (1, 128, 1)
    before = tree(out / "runs")
    assert cli(*args).code == 0
    assert tree(out / "runs") == before


def test_a_recipe_file_is_compared_with_a_named_recipe(cli, mine, tmp_path):
    out = tmp_path / "out"
    args = "--rows", mine, "--against", "vanilla", "--seeds", "3", "--jobs", "1"
    code, said, err = cli("reproduce", "--smoke", *args, "--out", out)
    assert (code, err) == (0, "")
    assert {p.parent.name for p in out.glob("runs/*/s2")} == {"vanilla", "slow", "slower"}
    assert re.search(r"\| \[slow\]\(runs/slow\) \| 3 \| .* \| (better|worse|not resolved) \|", said)
    assert "compared with [vanilla](runs/vanilla)" in said
    assert len((out / "results.csv").read_text().splitlines()) == 4


def test_a_module_in_a_recipe_file_is_found_by_the_workers(tmp_path):
    (tmp_path / "nets.py").write_text("""
from torch import nn

def linear(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

class Broken(nn.Sequential):
    def forward(self, images):
        if self.training:
            raise ZeroDivisionError("oh")
        return super().forward(images)

def broken(classes):
    return Broken(*linear(classes))
""")
    (tmp_path / "nets.toml").write_text("[linear]\narch = 'nets:linear'\n[broken]\narch = 'nets:broken'\n")
    args = "--rows", "nets.toml", "--against", "linear", "--seeds", "2", "--jobs", "2", "--out", "out"
    process = start_cli("reproduce", "--smoke", *args, cwd=tmp_path)
    said, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert Run(tmp_path / "out/runs/linear/s1").finished
    assert "**broken** was not run: ZeroDivisionError: oh." in said  # and stopped no other


def test_a_directory_that_another_recipe_made_is_left_alone(tmp_path, small):
    fit(VANILLA.but(num_epochs=0, batch_size=64), out=tmp_path / "runs/vanilla/s0", data=small)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="another recipe") as e:
        run_grid([VANILLA], tmp_path, smoke=True)
    assert_one_sentence(str(e.value))
    assert tree(tmp_path) == before


def test_a_run_that_a_kill_left_without_its_recipe_is_made_anew(tmp_path):
    (left := tmp_path / "runs" / "vanilla" / "s0").mkdir(parents=True)  # found by tests/faults/kill.py
    (left / "run.json").write_text("{}")
    (left / ".mnist-fa.lock").touch()
    run_grid([VANILLA], tmp_path, seeds=1, smoke=True)
    assert Run(left).finished
    assert not list(left.glob(".*"))


@pytest.mark.parametrize("version", [0, 1])
def test_a_smoke_run_does_not_count_as_a_real_one(tmp_path, version):
    baseline = RECIPES["baseline"]
    run_grid([baseline], tmp_path, seeds=1, smoke=True)
    path = tmp_path / "runs/baseline/s0"
    assert Run(path).recipe == baseline  # which has no epochs that could be fewer
    assert Run(path).metrics["images"] == SMOKE
    if version == 0:
        (path / "run.json").unlink()
    before = tree(tmp_path)
    with pytest.raises(InputError, match="other images") as e:
        run_grid([baseline], tmp_path, seeds=2)
    assert_one_sentence(str(e.value))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_runs_of_a_folder_whose_images_have_changed_are_refused(finished, recipe, small, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(recipe.data, folder)
    quick = recipe.but(name="quick", data=str(folder), num_epochs=1)
    run_grid([quick], tmp_path / "out", seeds=1, jobs=1)
    if not finished:
        (tmp_path / "out/runs/quick/s0/metrics.json").unlink()
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    with pytest.raises(InputError, match="other images"):
        run_grid([quick], tmp_path / "out", seeds=2, jobs=1)


def test_the_bits_are_the_same_whatever_the_jobs_and_the_callers_threads(recipe, tmp_path):
    quick = [recipe.but(name=arch, arch=arch, num_epochs=2) for arch in ("lenet", "deep")]
    torch.set_num_threads(2)
    try:
        run_grid(quick, tmp_path / "here", seeds=2, jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    run_grid(quick, tmp_path / "children", seeds=2, jobs=2)
    alone = fit(quick[1].but(seed=1), out=tmp_path / "alone")
    for arch in ("lenet", "deep"):
        for seed in ("s0", "s1"):
            here, child = (Run(tmp_path / out / "runs" / arch / seed) for out in ("here", "children"))
            for name in ("model.safetensors", "predictions.npy"):
                assert filecmp.cmp(here.path / name, child.path / name, shallow=False)
            assert without_seconds(here.history) == without_seconds(child.history)
            assert here.metrics["threads"] == child.metrics["threads"] == 1
    assert same_weights(alone.path, child.path)


def test_on_a_terminal_a_bar_shows_the_runs_that_are_left(recipe, tmp_path):
    console = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    run_grid([recipe.but(name="quick", num_epochs=1)], tmp_path, seeds=2, jobs=1, console=console)
    said = console.export_text()
    assert "1/2  quick s0: " in said
    assert "2/2 runs, 0:00:" in said


def test_a_run_that_cannot_be_made_is_said_and_stops_no_other(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where no weights are
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # and from where none can be downloaded
    out = tmp_path / "out"
    code, said, _ = cli(
        "reproduce", "--smoke", "--rows", "alexnet,vanilla", "--seeds", "1", "--jobs", "2", "--out", out
    )
    assert code == 0
    assert (out / "runs/vanilla/s0/metrics.json").exists()
    assert not (out / "runs/alexnet").exists()
    assert "**alexnet** was not run: the weights of the pretrained AlexNet could not be downloaded" in said


def test_tables_stay_where_no_run_could_be_made(cli, no_weights):
    Path("out").mkdir()
    Path("out/results.csv").write_text("the one of before")  # found by tests/faults/kill.py
    code, _, err = cli("reproduce", "--smoke", "--rows", "alexnet", "--seeds", "1", "--jobs", "1", "--out", "out")
    assert code == 1
    assert_one_sentence(err.splitlines()[-1])
    assert Path("out/results.csv").read_text() == "the one of before"
    assert not Path("out/results.md").exists()


def test_alexnet_without_its_weights_is_one_sentence(no_weights):
    with pytest.raises(InputError) as e:
        alexnet()
    assert_one_sentence(str(e.value))


def test_alexnet_trains_on_images_resized_to_three_channels(small, monkeypatch):
    make = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: make(weights=None))  # as where there are none
    data = Data(small.train[:8], small.test[:8], small.classes)
    learner = make_learner(RECIPES["alexnet"].but(learning_rate=0.01), dataloaders(data, batch_size=4))
    xb, _ = learner.dls.one_batch()
    assert learner.model[0][0](torch.Tensor(xb)).shape == (4, 3, 224, 224)
    assert learner.model[0](torch.Tensor(xb)).shape == (4, 4096)
    before = learner.model[1].weight.detach().clone()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
    assert not torch.equal(learner.model[1].weight, before)


@pytest.mark.parametrize("recipe", [IMPROVED, RECIPES["batch-norm"], RECIPES["last-dropout"]], ids=lambda r: r.name)
def test_schedule_augmentation_and_layers_with_state_resume_to_the_last_bit(recipe, small, tmp_path):
    quick = recipe.but(num_epochs=3)
    whole = fit(quick, out=tmp_path / "whole", data=small)
    with pytest.raises(KeyboardInterrupt):
        fit(quick, out=tmp_path / "cut", console=CtrlC(after=2), data=small)
    cut = resume(tmp_path / "cut", data=small)
    assert same_weights(cut.path, whole.path)
    assert without_seconds(cut.history) == without_seconds(whole.history)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_almost_nothing(small):
    rates = [find_schedule(IMPROVED).scheds["lr"](x) for x in (0, 0.25, 0.6, 1)]
    assert rates[0] == pytest.approx(0.05 / 25)
    assert rates[1] == pytest.approx(0.05)
    assert 0 < rates[3] < rates[2] < rates[1]
    assert rates[3] == pytest.approx(0.05 / 1e5)
    assert find_schedule(DEEPER) is None


def test_xavier_draws_other_weights_within_its_bounds(small):
    plain, xavier = (make_learner(RECIPES[n], dataloaders(small)).model for n in ("0.001-learning-rate", "last-xavier"))
    bound = (6 / (1024 + 100)) ** 0.5
    weight = xavier[0][-2].weight
    assert bound * 0.98 < weight.abs().max() <= bound
    assert not torch.equal(weight, plain[0][-2].weight)
    assert xavier[0][-2].bias.abs().max() == 0


@pytest.fixture
def finished(recipe, tmp_path):
    """A folder with two finished runs."""
    run_grid([recipe.but(name="quick", num_epochs=1)], tmp_path / "out", seeds=2, jobs=1)
    return tmp_path / "out"


def test_verified_runs_are_the_same_and_stay_as_they_are(cli, finished):
    forget_digests(finished / "runs/quick/s1")
    before = tree(finished)
    code, said, err = cli("reproduce", "--verify", "2", "--jobs", "1", "--out", finished)
    assert (code, err) == (0, "")
    assert f"{finished}/runs/quick/s0: weights same, predictions same, accuracy same\n" in said
    assert f"{finished}/runs/quick/s1: weights not recorded, predictions same, accuracy same\n" in said
    assert tree(finished) == before


@pytest.mark.parametrize("what", ["weights", "predictions", "accuracy"])
def test_a_run_that_does_not_come_out_again_is_an_error(cli, finished, what):
    for path in finished.glob("runs/*/*"):
        metrics, digest = Run(path).metrics, Run(path).metrics["sha256"]["model.safetensors"]
        changes = {
            "weights": {"sha256": {"model.safetensors": "0"}, "versions": metrics["versions"] | {"torch": "1"}},
            "predictions": {"sha256": {"model.safetensors": digest}},
            "accuracy": {"sha256": {"model.safetensors": digest}, "accuracy": 0.5, "processor": "abacus"},
        }
        if what == "predictions":
            np.save(path / "predictions.npy", 9 - Run(path).predictions)
        forget_digests(path, **changes[what])
    code, said, err = cli("reproduce", "--verify", "1", "--jobs", "1", "--out", finished, "--quiet")
    assert code == 1
    assert_one_sentence(err.strip())
    for name in ("weights", "predictions", "accuracy"):
        assert f"{name} {'different' if name == what else 'same'}" in said
    assert said.count("\n") == 1
    assert (f"torch 1 then, {torch.__version__.split('+')[0]}" in said) == (what == "weights")
    assert ("processor abacus then" in said) == (what == "accuracy")


def test_what_cannot_be_verified_is_refused(cli, finished, small, tmp_path):
    with pytest.raises(InputError, match="has 2 finished runs, not 3"):
        verify(finished, 3)
    fit(Recipe(arch="lenet", num_epochs=0), out=tmp_path / "few/runs/few/s0", data=replace(small, source="mnist"))
    with pytest.raises(InputError, match="other images"):
        verify(tmp_path / "few", 1)
    recipe = finished / "runs/quick/s0/recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"arch": "os:getcwd"}))  # code, which may be anyone's
    forget_digests(recipe.parent)
    with pytest.raises(InputError, match="has 1 finished runs, not 2"):
        verify(finished, 2)
    assert cli("reproduce", "--verify", "1", "--rows", "vanilla", "--out", finished).code == 2
