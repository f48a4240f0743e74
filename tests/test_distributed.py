"""One run in two processes, as torchrun starts them: the same as one process of twice the batch size."""

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_sentence, python, same_weights, without_seconds
from fastai.learner import load_learner
from safetensors.torch import load_file
from zygote import Call, Outcome, call

from mnist_fastai import Run, dataloaders
from mnist_fastai.distributed import Share
from mnist_fastai.learner import seed_everything

RANK = """
import os, sys
rank, port = sys.argv[1:3]
os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
sys.argv[:] = ["mnist-fa", *sys.argv[3:]]
from mnist_fastai.cli import main
main()
"""


def start(folder: Path, *args) -> list[Call]:
    """Start two processes of a training, each in a folder of its own, "0" and "1"."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "rank.py").write_text(RANK)
    return [Call(folder / str(i), [i, port, "train", *args], script=str(folder / "rank.py")) for i in range(2)]


def train(folder: Path, *args) -> list[Outcome]:
    return [one.wait() for one in start(folder, *args)]


@pytest.fixture(scope="module")
def args(recipe) -> list:
    """The training of the fixture `run`, with half the batch size."""
    assert recipe.batch_size == 32
    return ["--data", recipe.data, "-a", "lenet", "-o", "adam", "-n", recipe.num_epochs, "-b", 16, "--device", "cpu"]


@pytest.fixture(scope="module")
def two(args, tmp_path_factory) -> Path:
    """The folders of two processes that made the training. To read only."""
    folder = tmp_path_factory.mktemp("two")
    first, second = train(folder, *args, "--out", "run")
    assert (first.code, first.err, second) == (0, "", second._replace(code=0, out="", err=""))
    assert "2 processes on cpu, 1 thread each" in first.out
    return folder


def test_two_processes_make_what_one_makes_of_twice_the_batch_size(two, run):
    made = Run(two / "0/work/run")
    weights, expected = (load_file(path / "model.safetensors") for path in (made.path, run.path))
    assert weights.keys() == expected.keys()
    assert max((weights[k] - expected[k]).abs().max().item() for k in weights) < 1e-4
    for row, other in zip(made.history, run.history, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert row["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-3)
    assert made.metrics["images"] == len(made.predictions) == run.metrics["images"]
    assert (made.predictions != run.predictions).sum() <= 1
    assert (made.facts["processes"], "processes" in run.facts) == (2, False)


def test_only_the_first_process_writes(two, run):
    assert not [*(two / "1" / "work").iterdir()]
    assert {p.name for p in (two / "0/work/run").iterdir()} == {p.name for p in run.path.iterdir()}
    with pytest.warns(UserWarning, match="pickle"):
        assert type(load_learner(two / "0/work/run/learner.pkl").model).__name__ == "Sequential"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_ends_the_others_in_one_sentence_and_the_run_resumes(dying, two, args, tmp_path):
    ranks = start(tmp_path, *args, "--out", "run")
    path = tmp_path / "0/work/run"
    wait_for(path / "checkpoint-2.safetensors")
    ranks[dying].process.kill()
    ranks[dying].process.join()
    left = ranks[1 - dying].wait()
    if left.code == 0:  # it was done before it was killed
        pytest.skip("the training was faster")
    assert left.code == 1
    assert_one_sentence(left.err.strip())
    assert "another process of the training ended after" in left.err
    command = "torchrun --nproc-per-node 2 -m mnist_fastai train --resume run"
    assert command in left.err
    alone = call(tmp_path / "0", "train", "--resume", "run")
    assert alone.code == 2
    assert f"was trained in 2 processes so far, not 1; use `{command}`" in alone.err
    outcomes = train(tmp_path, "--resume", "run", "--quiet")
    assert [(o.code, o.out, o.err) for o in outcomes] == [(0, "", "")] * 2
    assert same_weights(path, two / "0/work/run")
    assert without_seconds(Run(path).history) == without_seconds(Run(two / "0/work/run").history)


def test_a_loss_that_is_not_finite_ends_all_processes_in_one_sentence(args, tmp_path):
    first, second = train(tmp_path, *args, "-a", "deep", "-o", "sgd", "-l", "1e6", "--out", "run", "--quiet")
    assert (first.code, second.code, second.err) == (1, 1, "")
    assert_one_sentence(first.err.strip())
    assert "the loss became" in first.err
    again = train(tmp_path, *args, "--out", "run", "--quiet")  # which stands there
    assert [o.code for o in again] == [2, 1]
    assert "exists already" in again[0].err
    assert again[1].err == ""


def test_torchrun_starts_them_and_images_need_not_divide_evenly(args, tmp_path):
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    args = *args, "-n", "1", "--valid-fraction", "0.055", "--out", "run", "--json", "--quiet"
    done = python("-W", "ignore", *launcher, "-m", "mnist_fastai", "train", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 33
    assert Run(tmp_path / "run").facts["splits"]["train"]["images"] % 2 == 1


@pytest.mark.parametrize(("images", "world"), [(600, 2), (33, 2), (34, 4)])
def test_shares_are_the_images_in_their_order_and_of_one_size(small, images, world):
    data = type(small)(small.train[:images], small.test, small.classes)
    shares, seen, drawn = [], [], []
    for rank in range(world):
        share = Share(dataloaders(data, batch_size=16).train, rank, world)
        seed_everything(0, 1)
        whole = share.all_idxs()
        seed_everything(0, 1)
        batches = [labels for _, labels in share]
        drawn.append(torch.rand(1).item())
        assert len(batches) == len(share)
        seen.append(torch.cat(batches).tolist())
        seed_everything(0, 1)
        shares.append(share.get_idxs())
    assert len({len(share) for share in shares}) == 1
    together = np.array(shares).T.ravel().tolist()
    assert together == whole + whole[: len(together) - images]
    assert [data.train.labels[share].tolist() for share in shares] == seen
    assert len(set(drawn)) == world  # augmentation differs
