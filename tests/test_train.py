"""Optimizers held to plain PyTorch; runs to their seed, their metrics, and to what they leave when they fail."""

import copy
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    TEST,
    TRAIN,
    CtrlC,
    assert_one_sentence,
    interrupt,
    same_weights,
    tree,
    without_seconds,
    write_idx_folder,
)
from fastai.callback.core import Callback
from fastai.learner import Recorder
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss

from mnist_fastai import (
    Data,
    Recipe,
    Run,
    checkpoint,
    dataloaders,
    files,
    fit,
    forward,
    load_data,
    load_run,
    make_learner,
    resume,
)
from mnist_fastai.errors import InputError, RunError
from mnist_fastai.learner import find_schedule
from mnist_fastai.recipes import PASSED
from mnist_fastai.train import dry_run


def quick(**changes) -> Recipe:
    return Recipe(**{"arch": "lenet", "opt": "adam", "num_epochs": 2} | changes)


def weights(run) -> str:
    return hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()


def csv_rows(path) -> list[dict]:
    with open(path / "history.csv", newline="") as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


class Fragments(Callback):
    """Leaves 400 MB of free memory that glibc keeps, since a block above it is in use, and says what is in use."""

    tracker, used = True, ()

    def after_train(self):
        blocks = [bytes(100_000) for _ in range(4000)]  # each below the size from which glibc maps memory by itself
        self.last, self.before = blocks[-1], resident()
        del blocks

    def after_fit(self):
        self.used = self.before, resident()


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="other C libraries have no malloc_trim",
)
def test_memory_that_is_free_goes_back_to_the_system_after_each_epoch(recipe, tmp_path):
    fragments = Fragments()
    fit(recipe.but(num_epochs=1), out=tmp_path / "run", cbs=fragments)
    before, after = fragments.used
    assert after < before - 250


# --- optimizers ---------------------------------------------------------------------------------------------------


class Float64Batches(Callback):
    """Trains in float64, where two ways to add differ by 1e-16 and not by 1e-7, and keeps what it trained on."""

    def __init__(self):
        self.seen = []

    def before_batch(self):
        self.learn.xb = (torch.Tensor(self.x).double(),)
        if self.training:
            self.seen.append((self.x, torch.as_tensor(self.y.numpy())))

    def after_batch(self):
        self.learn.loss = self.loss.float()  # which the Recorder insists on


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        (
            {"opt": "adam", "weight_decay": 0.01},
            lambda ps: torch.optim.Adam(ps, 0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
        ),
        ({"opt": "adam"}, lambda ps: torch.optim.Adam(ps, 0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)),
        ({"opt": "sgd", "learning_rate": 0.01}, lambda ps: torch.optim.SGD(ps, 0.01, momentum=0.9)),
        (
            {"opt": "nesterov", "learning_rate": 0.01, "momentum": 0.8, "weight_decay": 0.01},
            lambda ps: torch.optim.SGD(ps, 0.01, momentum=0.8, weight_decay=0.01, nesterov=True),
        ),
    ],
    ids=["adam-decay", "adam", "sgd", "nesterov"],
)
@pytest.mark.parametrize("arch", ["lenet", "deep"])
def test_optimizer_equals_a_plain_pytorch_loop(small, arch, changes, plain):
    data = Data(small.train[:400], small.test, small.classes)
    learner = make_learner(quick(arch=arch, **changes), dataloaders(data, batch_size=8))
    learner.model.double()
    start, batches = copy.deepcopy(learner.model), Float64Batches()
    model = copy.deepcopy(start).to(memory_format=torch.contiguous_format)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, cbs=batches)

    optimizer = plain(model.parameters())
    for xb, yb in batches.seen:
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        optimizer.step()

    assert len(batches.seen) == 50
    begun = dict(start.named_parameters())
    for (name, ours), (_, theirs) in zip(learner.model.named_parameters(), model.named_parameters(), strict=True):
        # 50 steps carry roundings of 1e-16 up to 1e-12; another eps, beta or weight decay is apart by 1e-5 and more
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
        assert (ours - begun[name]).abs().max() > 1e-3, f"{name} was trained"


# --- a run --------------------------------------------------------------------------------------------------------


def test_training_learns(mnist, tmp_path):
    data = Data(mnist.train[:2000], mnist.test[:500], mnist.classes)
    run = fit(quick(num_epochs=3), out=tmp_path / "run", data=data)
    assert run.metrics["accuracy"] > 0.8
    losses = [row["train_loss"] for row in run.history]
    assert losses == sorted(losses, reverse=True)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(small, tmp_path):
    a, b, c = (fit(quick(seed=seed), out=tmp_path / name, data=small) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert weights(a) == weights(b)
    assert without_seconds(a.history) == without_seconds(b.history)
    assert weights(a) != weights(c)
    assert without_seconds(a.history) != without_seconds(c.history)


def test_the_same_seed_gives_the_same_bits_on_two_threads(small, tmp_path):
    data = Data(small.train[:200], small.test[:50], small.classes)
    torch.set_num_threads(2)
    try:
        a, b = (fit(quick(num_epochs=1), out=tmp_path / name, data=data) for name in "ab")
    finally:
        torch.set_num_threads(1)
    assert weights(a) == weights(b)
    assert without_seconds(a.history) == without_seconds(b.history)


def test_the_seed_alone_decides_whatever_was_drawn_before(small, tmp_path):
    a = fit(quick(), out=tmp_path / "a", data=small)
    torch.rand(7), np.random.rand(7)
    make_learner(quick(arch="deep", seed=9), dataloaders(small))
    assert weights(fit(quick(), out=tmp_path / "b", data=small)) == weights(a)


def test_run_directory_holds_what_it_should(run, recipe):
    names = {p.name for p in run.path.iterdir()}
    assert names >= {"recipe.json", "history.csv", "metrics.json", "model.safetensors", "learner.pkl", "curves.png"}
    assert not [n for n in names if n.startswith((".", "checkpoint"))]
    assert json.loads((run.path / "recipe.json").read_text()) == recipe.to_dict()
    with Image.open(run.path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(2**24)) > 10, "something is drawn"


def test_history_has_a_row_an_epoch_and_ends_in_the_metrics(run, recipe):
    with open(run.path / "history.csv", newline="") as f:
        assert f.readline().strip() == "epoch,train_loss,valid_loss,accuracy,error_rate,seconds"
        assert len(list(csv.reader(f))) == recipe.num_epochs
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]
    last, metrics = run.history[-1], run.metrics
    assert (last["accuracy"], last["error_rate"]) == (metrics["accuracy"], metrics["error_rate"])
    assert last["valid_loss"] == pytest.approx(metrics["valid_loss"], rel=1e-5)
    assert all(row["accuracy"] + row["error_rate"] == pytest.approx(1) for row in run.history)
    assert 0 < sum(row["seconds"] for row in run.history) <= metrics["seconds"]


def test_train_loss_is_the_mean_over_the_epochs_images(small, tmp_path):
    # one batch an epoch: its loss is that of the weights before it, which a run of no epochs keeps
    before = fit(quick(num_epochs=0, batch_size=TRAIN), out=tmp_path / "before", data=small)
    run = fit(quick(num_epochs=1, batch_size=TRAIN), out=tmp_path / "run", data=small)
    learner = load_run(before.path, data=small)
    xb, yb = next(iter(learner.dls.train))
    with torch.no_grad():
        expected = F.cross_entropy(learner.model(torch.Tensor(xb)), torch.as_tensor(yb.numpy()))
    assert run.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_recorder_has_fastais_numbers(small):
    def train(*recorder: Recorder) -> Recorder:
        learner = make_learner(quick(), dataloaders(small, 64))
        if recorder:
            learner.remove_cb(learner.recorder)
            learner.add_cbs(recorder)
        with learner.no_bar(), learner.no_logging():
            learner.fit(2, cbs=find_schedule(quick(schedule="one-cycle")))
        return learner.recorder

    ours, fastais = train(), train(Recorder())
    assert len(ours.losses) == 20
    assert ours.losses == fastais.losses
    assert not any(loss.requires_grad for loss in ours.losses)  # which would keep every step's graph
    assert (ours.lrs, ours.values) == (fastais.lrs, fastais.values)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_train_loss_weighs_each_image_alike_and_has_the_recipes_smoothing(small, tmp_path, smoothing):
    # steps too small to change the weights, and a last batch of 200 after one of 400
    recipe = quick(num_epochs=1, batch_size=400, learning_rate=1e-12, label_smoothing=smoothing, arch="deep")
    run = fit(recipe, out=tmp_path / "run", data=small)
    learner = load_run(run.path, data=small)
    with torch.no_grad():
        logits = torch.cat([learner.model(torch.Tensor(xb)) for xb, _ in learner.dls.train.new(shuffle=False)])
    expected = F.cross_entropy(logits, small.train.labels, label_smoothing=smoothing).item()
    assert run.history[0]["train_loss"] == pytest.approx(expected, rel=2e-6)
    # and cross-entropy proper at the end
    assert run.metrics["valid_loss"] == pytest.approx(
        F.cross_entropy(forward(learner).logits, small.test.labels).item(), rel=1e-6
    )


def test_each_epoch_has_its_own_order_and_each_seed_its_own_orders(small, tmp_path):
    class Orders(Callback):
        def before_epoch(self):
            self.epochs = [*vars(self).get("epochs", []), []]

        def before_batch(self):
            if self.training:
                self.epochs[-1] += self.y.tolist()

    def orders(seed: int, name: str) -> list:
        cb = Orders()
        fit(quick(num_epochs=3, seed=seed), cbs=cb, out=tmp_path / name, data=small)
        return cb.epochs

    first, again, other = orders(0, "a"), orders(0, "b"), orders(1, "c")
    assert first == again
    assert len({tuple(order) for order in (*first, *other)}) == 6
    assert {tuple(sorted(order)) for order in (*first, *other)} == {tuple(sorted(small.train.labels.tolist()))}


def test_metrics_equal_what_scikit_learn_says_of_the_predictions(run, small):
    learner = load_run(run.path)
    with learner.no_bar():
        probabilities, labels = learner.get_preds()
    probabilities, labels = probabilities.double().numpy(), labels.numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    assert np.array_equal(labels, small.test.labels)

    def check(found: dict, chosen: np.ndarray):
        y, p = labels[chosen], probabilities[chosen]
        assert found["images"] == len(y)
        assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-12)
        assert found["error_rate"] == pytest.approx(1 - accuracy_score(y, p.argmax(1)), abs=1e-12)
        assert found["valid_loss"] == pytest.approx(log_loss(y, p, labels=range(10)), rel=1e-4)

    metrics = run.metrics
    check(metrics, np.ones(TEST, bool))
    assert list(metrics["per_class"]) == list(small.classes)
    for label, name in enumerate(small.classes):
        check(metrics["per_class"][name], labels == label)


def test_metrics_say_how_they_were_made(run, recipe, small):
    metrics = run.metrics
    assert metrics["epochs"] == recipe.num_epochs
    assert metrics["seed"] == recipe.seed
    assert metrics["device"] == "cpu"
    assert metrics["parameters"] == 44_426
    assert run.facts["splits"] == small.digests
    assert torch.__version__.startswith(metrics["versions"]["torch"])
    assert metrics["split"] == "test"
    assert metrics["images_per_second"] > TRAIN * recipe.num_epochs / metrics["seconds"]
    assert "git_commit" in metrics


def test_a_class_without_test_images_has_no_metrics(small, tmp_path):
    data = Data(small.train, small.test[small.test.labels != 9], small.classes)
    nine = fit(quick(num_epochs=1), out=tmp_path / "run", data=data).metrics["per_class"]["9"]
    assert nine == {"images": 0, "accuracy": None, "error_rate": None, "valid_loss": None}


def test_no_epochs_leave_random_weights_and_their_metrics(small, tmp_path):
    run = fit(quick(num_epochs=0), out=tmp_path / "run", data=small)
    model = make_learner(quick(), dataloaders(small)).model
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in load_file(run.path / "model.safetensors").items())
    assert run.history == []
    assert 0 < run.metrics["accuracy"] < 0.5
    assert run.metrics["images_per_second"] is None
    assert (run.path / "learner.pkl").exists()


def test_a_valid_fraction_is_held_out_and_reported_on(folder, tmp_path):
    run = fit(quick(data=str(folder), valid_fraction=0.25, num_epochs=1), out=tmp_path / "run", device="cpu")
    assert (run.metrics["split"], run.metrics["images"]) == ("held out", TRAIN / 4)
    held_out = load_data(folder, valid_fraction=0.25)
    assert run.facts["splits"] == held_out.digests
    assert load_run(run.path).dls.valid.n == TRAIN / 4


def test_a_model_has_as_many_outputs_as_the_set_has_classes(small, tmp_path):
    few = [s[s.labels < 3] for s in (small.train, small.test)]
    run = fit(quick(num_epochs=1), out=tmp_path / "run", data=Data(*few, small.classes[:3]))
    assert load_file(run.path / "model.safetensors")["1.weight"].shape == (3, 84)
    assert list(run.metrics["per_class"]) == ["0", "1", "2"]


def test_dry_run_leaves_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    metrics = dry_run(replace(recipe, num_epochs=1000), device="cpu")
    assert (metrics["epochs"], metrics["images"]) == (1, TEST)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar_with_the_time_left_and_a_file_plain_lines(small, tmp_path, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    run = fit(quick(), out=tmp_path / "run", data=small, console=console)
    bar = re.search(r"epoch 1/2.*\d:\d\d:\d\d.*\d:\d\d:\d\d", out.getvalue())  # elapsed, and left
    assert bool(bar) == ("\x1b" in out.getvalue()) == terminal
    for row in run.history:
        assert f"{row['valid_loss']:.4f}" in out.getvalue()


def test_load_run_gives_the_trained_weights(run):
    state = load_run(run.path).model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in load_file(run.path / "model.safetensors").items())


# --- what goes wrong ----------------------------------------------------------------------------------------------


def refused(error, call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_keeps_its_whole_epochs(small, tmp_path):
    # a step an epoch, so that it takes some epochs to diverge
    recipe = quick(arch="deep", opt="sgd", learning_rate=10.0, batch_size=100, num_epochs=20)
    data = Data(small.train[:100], small.test, small.classes)
    error = refused(RunError, fit, recipe, out=tmp_path / "run", data=data)
    assert "--learning-rate" in error
    assert str(tmp_path / "run") in error
    rows = csv_rows(tmp_path / "run")
    assert 1 <= len(rows) < 20
    assert f"in epoch {len(rows) + 1} " in error
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert Run(tmp_path / "run").recipe == replace(recipe, data=PASSED)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_loss_that_diverges_in_the_first_epoch_leaves_the_recipe(small, tmp_path):
    error = refused(RunError, fit, quick(arch="deep", opt="sgd", learning_rate=1e6), out=tmp_path / "run", data=small)
    assert "in epoch 1 " in error
    assert set(tree(tmp_path / "run")) == {"recipe.json", "run.json"}


def test_a_batch_larger_than_the_set_is_refused_before_anything_is_written(small, tmp_path):
    error = refused(InputError, fit, quick(batch_size=TRAIN + 1), out=tmp_path / "run", data=small)
    assert str(TRAIN + 1) in error
    assert str(TRAIN) in error
    assert tree(tmp_path) == {}


def test_an_unknown_device_is_refused_before_anything_is_written(small, tmp_path):
    assert "tpu" in refused(InputError, fit, quick(), out=tmp_path / "run", device="tpu", data=small)
    assert tree(tmp_path) == {}


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(recipe, run, tmp_path, after):
    path = interrupt(recipe, tmp_path / "run", after)
    assert not (path / "metrics.json").exists()
    resumed = resume(path, device="cpu")
    assert weights(resumed) == weights(run)
    assert without_seconds(resumed.history) == without_seconds(run.history)
    # another test may have evaluated the shared run, into a folder in it
    assert {p.name for p in path.iterdir()} == {p.name for p in run.path.iterdir() if p.is_file()}


@pytest.mark.parametrize(("arch", "opt"), [("lenet", "sgd"), ("deep", "adam"), ("deep", "sgd")])
def test_each_architecture_and_optimizer_can_be_resumed(recipe, tmp_path, arch, opt):
    recipe = replace(recipe, arch=arch, opt=opt, num_epochs=2)
    whole = fit(recipe, out=tmp_path / "whole", device="cpu")
    resumed = resume(interrupt(recipe, tmp_path / "run", after=1), device="cpu")
    assert weights(resumed) == weights(whole)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_a_run_can_be_interrupted_again_and_again(interrupted, run):
    with pytest.raises(KeyboardInterrupt):
        resume(interrupted, device="cpu", console=CtrlC(after=1))  # its header already has two epochs in one line
    resumed = resume(interrupted, device="cpu")
    assert weights(resumed) == weights(run)
    assert without_seconds(resumed.history) == without_seconds(run.history)


def test_the_seconds_of_a_resumed_run_count_both_parts(interrupted):
    before = sum(row["seconds"] for row in csv_rows(interrupted))
    resumed = resume(interrupted, device="cpu")
    assert resumed.metrics["seconds"] >= before + sum(row["seconds"] for row in resumed.history[2:])


def test_resuming_a_finished_run_changes_nothing(run):
    before = tree(run.path)
    assert resume(run.path).metrics == run.metrics
    assert tree(run.path) == before


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 1000),
        lambda path: flip(path, -1000),
        lambda path: flip(path, 300),
    ],
    ids=["truncated", "empty", "garbage", "a bit of a tensor", "a bit of the JSON"],
)
def test_from_a_damaged_checkpoint_the_one_before_it_leads_to_the_same_bits(interrupted, run, spoil, caplog):
    spoil(interrupted / "checkpoint-2.safetensors")
    resumed = resume(interrupted, device="cpu")
    assert same_weights(interrupted, run.path)
    assert without_seconds(resumed.history) == without_seconds(run.history)
    (said,) = caplog.messages
    assert_one_sentence(said)
    assert str(interrupted / "checkpoint-2.safetensors") in said


def test_damaged_checkpoints_alone_are_refused_and_kept(interrupted):
    for n in (1, 2):
        flip(interrupted / f"checkpoint-{n}.safetensors", -1000)
    before = tree(interrupted)
    error = refused(InputError, resume, interrupted, device="cpu")
    assert "remove them" in error
    assert tree(interrupted) == before


def test_a_checkpoint_of_another_run_is_refused_by_name(interrupted, recipe, tmp_path):
    other = interrupt(replace(recipe, arch="deep"), tmp_path / "other", after=2)
    (other / "checkpoint-2.safetensors").replace(interrupted / "checkpoint-2.safetensors")
    assert "recipe.json has arch 'lenet'" in refused(InputError, resume, interrupted, device="cpu")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("recipe.json", {"seed": 1}, "recipe.json has seed 1, and the 2 epochs so far were trained with 0"),
        ("recipe.json", {"learning_rate": 0.1}, "learning_rate"),
        ("recipe.json", {"num_epochs": 3}, "num_epochs"),
        ("recipe.json", {"opt": "sgd"}, "opt"),
        ("run.json", {"input": {"normalize": [0, 1]}}, "run.json has input"),
    ],
)
def test_a_run_that_was_edited_is_not_resumed(interrupted, file, changes, said):
    path = interrupted / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    before = tree(interrupted)
    assert said in refused(InputError, resume, interrupted, device="cpu")
    assert tree(interrupted) == before


def test_other_versions_than_those_of_the_epochs_so_far_are_said(interrupted, monkeypatch, caplog):
    now = checkpoint.versions()
    monkeypatch.setattr(checkpoint, "versions", lambda: now | {"torch": "9.9"})
    assert resume(interrupted, device="cpu").finished
    assert [m for m in caplog.messages if f"torch {now['torch']} so far, and goes on with 9.9" in m]


def test_a_history_that_cannot_be_replaced_ends_no_training(recipe, run, tmp_path, monkeypatch, caplog):
    write, failures = Run.write_history, [RunError("cannot write history.csv (it is open elsewhere)")] * 2

    def fail_twice(self, rows):
        if failures:
            raise failures.pop()
        write(self, rows)

    monkeypatch.setattr(Run, "write_history", fail_twice)
    finished = fit(recipe, out=tmp_path / "run", device="cpu")
    assert caplog.messages == ["cannot write history.csv (it is open elsewhere)"] * 2
    assert without_seconds(finished.history) == without_seconds(run.history)


def test_without_its_checkpoint_a_run_begins_again(interrupted, run):
    for path in interrupted.glob("checkpoint-*"):
        path.unlink()
    resumed = resume(interrupted, device="cpu")
    assert weights(resumed) == weights(run)
    assert without_seconds(resumed.history) == without_seconds(run.history)


def test_data_that_changed_meanwhile_is_refused(recipe, small, tmp_path):
    folder = write_idx_folder(tmp_path / "idx", small)
    path = interrupt(replace(recipe, data=str(folder)), tmp_path / "run", after=1)
    labels = folder / "train-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    before = tree(path)
    error = refused(InputError, resume, path, device="cpu")
    assert str(folder) in error
    assert tree(path) == before


def test_data_that_is_gone_is_refused(recipe, small, tmp_path):
    folder = write_idx_folder(tmp_path / "idx", small)
    path = interrupt(replace(recipe, data=str(folder)), tmp_path / "run", after=1)
    folder.rename(tmp_path / "elsewhere")
    assert str(folder) in refused(InputError, resume, path, device="cpu")


def test_what_a_kill_leaves_around_the_first_and_the_last_file_of_a_run_is_no_content(recipe, run, tmp_path):
    """Found by tests/faults/kill.py: a half-written run.json made the folder one that "exists already", and a lock
    that its owner could not remove stayed in a finished run."""
    (half := tmp_path / "half").mkdir()
    (half / files.PARTIAL.format("999999999-0123")).write_text("{")
    (half / files.LOCK).touch()
    assert fit(replace(recipe, num_epochs=1), out=half, device="cpu").finished
    assert not list(half.glob(".*"))

    shutil.copytree(run.path, done := tmp_path / "done")
    (done / files.LOCK).touch()
    (done / "checkpoint-4.safetensors").touch()
    assert resume(done).metrics == run.metrics
    assert set(tree(done)) == set(tree(run.path))
