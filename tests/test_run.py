"""The run directory: files are whole or not there, runs are found, and what is none is refused by name."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import assert_one_sentence, full_disk, same_weights, tree, without_seconds

from mnist_fastai import Recipe, Run, fit, load_run, pretrained, resume
from mnist_fastai import run as run_module
from mnist_fastai.errors import InputError, RunError


def refused(error, call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


# --- full disks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit", "epochs"),
    [
        ("checkpoint-1.safetensors", 100_000, 2),
        ("model.safetensors", 100_000, 0),
        ("learner.pkl", 200_000, 0),
    ],
)
def test_a_run_that_met_a_full_disk_says_so_and_can_be_resumed(recipe, tmp_path, name, limit, epochs):
    recipe = replace(recipe, num_epochs=epochs)
    whole = fit(recipe, out=tmp_path / "whole", device="cpu")
    path = tmp_path / "run"
    with full_disk(limit):
        error = refused(RunError, fit, recipe, out=path, device="cpu")
    assert str(path / name) in error
    assert re.search(r"free|room|--resume", error), "the way out"
    for file, content in tree(path).items():
        assert len(content) == len((whole.path / file).read_bytes()), f"{file} is whole"
    resumed = resume(path, device="cpu")
    assert tree(path).keys() == tree(whole.path).keys()
    assert same_weights(path, whole.path)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_a_full_disk_at_the_start_leaves_nothing_in_the_way(recipe, tmp_path):
    with full_disk(50):
        assert "run.json" in refused(RunError, fit, recipe, out=tmp_path / "run", device="cpu")
    assert tree(tmp_path) == {}


def test_a_full_disk_keeps_the_epochs_before(interrupted, run):
    before = tree(interrupted)
    with full_disk(100_000):
        error = refused(RunError, resume, interrupted, device="cpu")
    assert "checkpoint-3.safetensors" in error
    assert tree(interrupted) == before
    resumed = resume(interrupted, device="cpu")
    assert same_weights(interrupted, run.path)
    assert without_seconds(resumed.history) == without_seconds(run.history)


# --- making and finding runs --------------------------------------------------------------------------------------


def test_a_run_is_named_by_time_architecture_optimizer_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run.create(Recipe(arch="lenet", opt="adam", seed=7))
    assert re.fullmatch(r"runs/\d{8}-\d{6}-lenet-adam-s7", str(run.path))
    assert Run(run.path).recipe == run.recipe


@pytest.mark.parametrize(
    "occupy",
    [
        lambda path: (path / "a").mkdir(parents=True),
        lambda path: path.write_text("x"),
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["folder", "file", "link"],
)
def test_a_run_is_not_made_where_something_stands(tmp_path, occupy):
    occupy(tmp_path / "run")
    before = tree(tmp_path)
    error = refused(InputError, Run.create, Recipe(), tmp_path / "run")
    assert str(tmp_path / "run") in error
    assert "--out" in error
    assert tree(tmp_path) == before


def test_a_run_is_not_made_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    error = refused(InputError, Run.create, Recipe(), tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in error
    assert "--out" in error
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_what_is_no_run_directory_is_refused_by_name(tmp_path, make):
    make(tmp_path / "run")
    assert str(tmp_path / "run") in refused(InputError, Run, tmp_path / "run")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        json.dumps(Recipe().to_dict() | {"colour": "red"}).encode(),
        json.dumps(Recipe().to_dict() | {"arch": "resnet"}).encode(),
        json.dumps(Recipe().to_dict() | {"learning_rate": -1}).encode(),
    ],
    ids=["empty", "binary", "list", "no-field", "unknown-field", "unknown-arch", "bad-value"],
)
def test_a_recipe_file_that_is_none_is_refused_by_name(tmp_path, content):
    (tmp_path / "recipe.json").write_bytes(content)
    assert str(tmp_path) in refused(InputError, Run, tmp_path)


def finish(path, when: str):
    """A copy of the shipped run that was finished at another time."""
    shutil.copytree(pretrained(), path)
    metrics = Run(path).metrics
    Run(path).write_metrics(metrics | {"finished": when})


def test_latest_is_the_run_that_was_finished_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    finish(runs / "c", "2025-01-01T00:00:00.000+00:00")
    finish(runs / "a", "2025-01-03T00:00:00.000+00:00")
    finish(runs / "b", "2025-01-02T00:00:00.000+00:00")
    Run.create(Recipe(), runs / "z-unfinished")
    (runs / "no-run").mkdir()
    (runs / "file").write_text("x")
    assert Run.latest().path.name == "a"


@pytest.mark.parametrize(
    ("name", "content"),
    [("recipe.json", "{}"), ("recipe.json", "half"), ("metrics.json", "{}"), ("metrics.json", "half")],
)
def test_latest_passes_over_a_run_that_it_cannot_read_and_says_so(tmp_path, monkeypatch, caplog, name, content):
    monkeypatch.chdir(tmp_path)
    finish(tmp_path / "runs" / "a", "2025-01-01T00:00:00.000+00:00")
    finish(tmp_path / "runs" / "b", "2025-01-02T00:00:00.000+00:00")
    (tmp_path / "runs" / "b" / name).write_text(content)
    assert Run.latest().path.name == "a"
    (said,) = caplog.messages
    assert_one_sentence(said)
    assert "runs/b is passed over" in said


@pytest.mark.parametrize("with_unfinished", [False, True])
def test_with_no_finished_run_the_latest_is_the_shipped_one(tmp_path, monkeypatch, with_unfinished):
    monkeypatch.chdir(tmp_path)
    if with_unfinished:
        Run.create(Recipe())
    assert Run.latest().path == pretrained()


def test_an_unfinished_run_has_no_metrics_and_says_how_to_go_on(tmp_path):
    run = Run.create(Recipe(), tmp_path / "run")
    assert run.history == []
    with pytest.raises(InputError, match=re.escape(f"mnist-fa train --resume {run.path}")):
        _ = run.metrics


# --- integrity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", run_module.CHECKED)
def test_a_flipped_bit_in_a_finished_run_is_found_where_it_is_read(run, tmp_path, name):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    reads = {
        "run.json": lambda: Run(copy).classes,
        "history.csv": lambda: Run(copy).history,
        "predictions.npy": lambda: Run(copy).predictions,
        "model.safetensors": lambda: load_run(copy),
        "sample.npz": lambda: Run(copy).read("sample.npz"),
    }
    error = refused(InputError, reads.get(name, lambda: Run(copy)))
    assert str(copy / name) in error


def test_a_changed_number_in_metrics_is_found(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    text = (copy / "metrics.json").read_text()
    (copy / "metrics.json").write_text(text.replace('"images": 400', '"images": 401', 1))
    assert "metrics.json" in refused(InputError, Run, copy)


def test_every_run_of_the_results_and_the_shipped_one_can_be_read():
    runs = [Run(path.parent) for path in (Path(__file__).parent.parent / "results").glob("runs/*/*/metrics.json")]
    assert len(runs) >= 120
    for each in [*runs, Run(pretrained())]:
        assert each.metrics["accuracy"] > 0
        assert len(each.predictions) == each.metrics["images"]
    assert Run(pretrained()).metrics["sha256"].keys() == {*run_module.CHECKED, "metrics.json"}
