"""The grid of runs: which it is, that it goes on where it was stopped, and that one bad run stops no other."""

import os
import signal
import time
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import CtrlC, assert_one_sentence, start_cli, tree, without_seconds

from mnist_fastai import Run, dataloaders, fit, resume
from mnist_fastai.errors import InputError
from mnist_fastai.models import alexnet
from mnist_fastai.recipes import DEEPER, FAILED, IMPROVED, LEARNING_RATE_001, PUBLISHED, RECIPES, VANILLA
from mnist_fastai.reproduce import reproduce, seeds_of, select
from mnist_fastai.train import make_learner, schedule


@pytest.fixture
def no_weights(monkeypatch):
    """A machine that cannot download AlexNet's weights."""

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "alexnet", refuse)


def changed(before, after):
    return {f.name for f in fields(before) if f.name != "name" and getattr(before, f.name) != getattr(after, f.name)}


def test_each_row_changes_what_the_table_says_from_the_row_before():
    rows = list(PUBLISHED)
    assert [row.name for row in rows] == [
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
    assert select(["batch-32", "failed", "batch-32"]) == [RECIPES["batch-32"], *FAILED]
    assert set(select([])) == set(RECIPES.values())
    assert [seeds_of(r) for r in (VANILLA, IMPROVED, FAILED[0])] == [5, 5, 3]
    with pytest.raises(InputError, match=r"batch-31.*batch-32"):
        select(["batch-31"])


def test_smoke_makes_every_table_and_a_second_call_keeps_every_run(cli, tmp_path):
    out = tmp_path / "out"
    args = "reproduce", "--smoke", "--rows", "baseline,vanilla,horizontal-flip", "--jobs", "1", "--out", out
    code, said, err = cli(*args)
    assert (code, err) == (0, "")
    assert "6/6" in said
    assert {p.name for p in out.iterdir()} == {"runs", "results.md", "results.csv", "results.png"}
    assert {p.parent.name for p in out.glob("runs/*/s1")} == {"baseline", "vanilla", "horizontal-flip"}
    run = Run(out / "runs/vanilla/s1")
    assert (run.recipe.seed, run.recipe.batch_size, run.metrics["threads"] >= 1) == (1, 128, True)
    before = tree(out / "runs")
    assert cli(*args).code == 0
    assert tree(out / "runs") == before


def test_a_directory_that_another_recipe_made_is_left_alone(tmp_path, small):
    fit(VANILLA.but(num_epochs=0, batch_size=64), tmp_path / "runs/vanilla/s0", data=small)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="another recipe") as e:
        reproduce([VANILLA], tmp_path, smoke=True)
    assert_one_sentence(str(e.value))
    assert tree(tmp_path) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for the workers in /proc")
def test_killed_it_ends_its_workers_and_goes_on_to_what_an_uninterrupted_one_ends_with(tmp_path):
    rows = "vanilla,deeper-architecture"
    args = "reproduce", "--smoke", "--rows", rows, "--jobs", "2", "--seeds", "3", "--out"
    process = start_cli(*args, tmp_path / "cut", cwd=tmp_path)
    deadline = time.time() + 90
    while not list((tmp_path / "cut").glob("runs/*/s*/metrics.json")) and time.time() < deadline:
        time.sleep(0.05)
    workers = {int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == process.pid}
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(os.path.exists(f"/proc/{pid}") and "Z" not in _state(pid) for pid in workers) and time.time() < deadline:
        time.sleep(0.1)
    assert time.time() < deadline, "a worker outlives the process that started it"
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("runs/*/s*/metrics.json")}
    assert 1 <= len(kept) < 6

    for out in ("cut", "whole"):
        process = start_cli(*args, tmp_path / out, cwd=tmp_path)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # finished runs are not made again
    for whole in (tmp_path / "whole").glob("runs/*/s*"):
        cut = tmp_path / "cut" / whole.relative_to(tmp_path / "whole")
        assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def _parent(process) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


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


def test_alexnet_without_its_weights_is_one_sentence(no_weights):
    with pytest.raises(InputError) as e:
        alexnet()
    assert_one_sentence(str(e.value))


def test_alexnet_trains_on_images_resized_to_three_channels(small, monkeypatch):
    make = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: make(weights=None))  # as where there are none
    data = type(small)(small.train[:8], small.valid[:8], small.classes)
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
    whole = fit(quick, tmp_path / "whole", data=small)
    with pytest.raises(KeyboardInterrupt):
        fit(quick, tmp_path / "cut", console=CtrlC(after=2), data=small)
    cut = resume(tmp_path / "cut", data=small)
    assert (cut.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert without_seconds(cut.history) == without_seconds(whole.history)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_almost_nothing(small):
    rates = [schedule(IMPROVED).scheds["lr"](x) for x in (0, 0.25, 0.6, 1)]
    assert rates[0] == pytest.approx(0.05 / 25)
    assert rates[1] == pytest.approx(0.05)
    assert 0 < rates[3] < rates[2] < rates[1]
    assert rates[3] == pytest.approx(0.05 / 1e5)
    assert schedule(DEEPER) is None


def test_xavier_draws_other_weights_within_its_bounds(small):
    plain, xavier = (make_learner(RECIPES[n], dataloaders(small)).model for n in ("0.001-learning-rate", "last-xavier"))
    bound = (6 / (1024 + 100)) ** 0.5
    weight = xavier[0][-2].weight
    assert bound * 0.98 < weight.abs().max() <= bound
    assert not torch.equal(weight, plain[0][-2].weight)
    assert xavier[0][-2].bias.abs().max() == 0
