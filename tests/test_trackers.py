"""Trackers, offline and with the real packages: what is logged, and that a resumed run continues the same log."""

import sys

import pytest
from conftest import CtrlC, assert_one_sentence, same_weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_fastai import InputError, Recipe, fit, resume
from mnist_fastai.trackers import TRACKERS, make_tracker

RECIPE = Recipe(arch="lenet", opt="adam", num_epochs=3)
BATCHES = 19  # per epoch


@pytest.fixture
def resumed(request, small, tmp_path, monkeypatch):
    """A run with a tracker that was interrupted after two epochs and resumed."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(KeyboardInterrupt):
        fit(RECIPE, cbs=make_tracker(request.param), out=tmp_path / "run", data=small, console=CtrlC(after=2))
    return resume(tmp_path / "run", cbs=make_tracker(request.param), data=small)


@pytest.mark.parametrize("resumed", ["tensorboard"], indirect=True)
def test_tensorboard_has_each_batch_once(resumed):
    log = EventAccumulator(str(resumed.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in log.Scalars("train_loss")] == list(range(1, 3 * BATCHES + 1))
    accuracies = [event.value for event in log.Scalars("accuracy")]
    assert accuracies == pytest.approx([row["accuracy"] for row in resumed.history])


@pytest.mark.parametrize("resumed", ["wandb"], indirect=True)
def test_wandb_goes_on_in_the_same_run(resumed):
    logs = list((resumed.path / "wandb").glob("offline-run-*"))
    assert logs
    assert all(log.name.endswith(resumed.facts["id"]) for log in logs)
    assert sum(log.stat().st_size for folder in logs for log in folder.glob("*.wandb")) > 10_000  # bytes


def test_a_tracker_is_no_part_of_the_result(small, tmp_path):
    plain = fit(RECIPE, out=tmp_path / "plain", data=small)
    logged = fit(RECIPE, cbs=[make_tracker("tensorboard")], out=tmp_path / "logged", data=small)
    assert same_weights(plain.path, logged.path)
    assert logged.facts["passed"] == {}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_way_out(cli, monkeypatch, folder, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, out, err = cli("train", "-a", "lenet", "-n", 1, "-d", folder, "--out", "run", "--log-to", name)
    assert (code, out) == (2, "")
    assert_one_sentence(err.strip())
    assert f"pip install {name}" in err


def test_an_unknown_tracker_is_refused():
    with pytest.raises(InputError, match="tensorboard, wandb"):
        make_tracker("mlflow")


def test_the_command_line_logs_below_the_run(cli, folder):
    args = "train", "-a", "lenet", "-n", 1, "-d", folder, "--out", "run", "-q", "--log-to", "tensorboard"
    assert cli(*args).code == 0
    assert list(EventAccumulator("run/tensorboard").Reload().Tags()["scalars"])
