"""Runs on a cluster: two Dask workers in processes and folders of their own, which read no file of the caller's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import assert_one_sentence, same_weights, start_cli, without_seconds
from distributed import LocalCluster
from zygote import Call, call

from mnist_fastai import Run, cluster
from mnist_fastai.reproduce import run_grid

WORKER = """
import asyncio, sys
import mnist_fastai.reproduce as reproduce
from distributed import Worker

def refuse(*_):
    raise AssertionError("reads the caller's files")

def work(i, task, smoke, data=None):
    print(id(data), flush=True)
    return here(i, task, smoke, data)

async def main():
    async with Worker(sys.argv[1], nthreads=int(sys.argv[2]), local_directory=".", dashboard=False) as worker:
        await worker.finished()

reproduce.load_data, here, reproduce._work = refuse, reproduce._work, work
asyncio.run(main())
"""
SEEDS = 5


@pytest.fixture(scope="module")
def scheduler():
    """A Dask cluster without workers."""
    with LocalCluster(n_workers=0, protocol="tcp://", host="127.0.0.1", dashboard_address=None) as scheduler:
        yield scheduler


@contextmanager
def workers(scheduler, folder: Path, *names: str, threads: int = 1):
    """Workers, each in its folder."""
    calls = []
    try:
        for name in names:
            (folder / name / "work").mkdir(parents=True)
            (folder / name / "work" / "worker.py").write_text(WORKER)
            calls.append(Call(folder / name, [scheduler.scheduler_address, threads], script="worker.py"))
        yield calls
    finally:
        for one in calls:
            one.process.kill()
            one.process.join()


@pytest.fixture
def mine(recipe, tmp_path) -> Path:
    """A recipe file, of two quick epochs."""
    path = tmp_path / "mine.toml"
    path.write_text(f"[quick]\narch = 'lenet'\nopt = 'adam'\nnum_epochs = 2\ndata = '{recipe.data}'\n")
    return path


def wait_for(found, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def arguments(scheduler, mine: Path, seeds: int = SEEDS) -> list:
    where = "--backend", "dask", "--address", scheduler.scheduler_address
    return ["reproduce", "--rows", mine, "--against", "quick", "--seeds", seeds, *where, "--out", "out"]


def assert_same_bits(a: Path, b: Path) -> None:
    assert same_weights(a, b)
    assert (a / "predictions.npy").read_bytes() == (b / "predictions.npy").read_bytes()
    assert without_seconds(Run(a).history) == without_seconds(Run(b).history)


def test_a_worker_that_is_killed_costs_its_run_only_and_the_bits_are_the_local_ones(scheduler, mine, recipe, tmp_path):
    with workers(scheduler, tmp_path, "a", "b") as (a, b):
        caller = Call(tmp_path / "caller", arguments(scheduler, mine))
        wait_for(lambda: [*(tmp_path / "a" / "tmp").glob("*/run/recipe.json")])
        a.process.kill()
        done = caller.wait()
    assert done.code == 0, done.err
    assert f"{SEEDS}/{SEEDS}  quick s" in done.out
    runs = tmp_path / "caller/work/out/runs/quick"
    local = tmp_path / "local/runs/quick"
    run_grid([recipe.but(name="quick", num_epochs=2)], tmp_path / "local", seeds=SEEDS, jobs=1)
    for seed in range(SEEDS):
        assert_same_bits(runs / f"s{seed}", local / f"s{seed}")
        assert {p.name for p in (runs / f"s{seed}").iterdir()} == {p.name for p in (local / f"s{seed}").iterdir()}
    ids = [os.read(one.readers[0].fileno(), 2**16).decode().split() for one in (a, b)]
    assert SEEDS <= len(ids[0] + ids[1]) <= SEEDS + 1  # the one that was lost was made again
    assert [len(set(seen)) for seen in ids] == [1, 1]  # each worker got the images once
    assert not [*(tmp_path / "b" / "tmp").glob("*/run")]  # nothing stays there


def test_a_run_that_was_begun_here_goes_on_there(scheduler, mine, interrupted, run, tmp_path):
    mine.write_text(mine.read_text().replace("= 2", "= 4").replace("quick", "lenet-adam"))
    begun = tmp_path / "caller/work/out/runs/lenet-adam/s0"
    shutil.copytree(interrupted, begun)
    before = Run(begun)
    before, rows = before.facts["id"], before.history
    assert len(rows) == 2
    args = [arg.replace("quick", "lenet-adam") if arg == "quick" else arg for arg in arguments(scheduler, mine, 1)]
    with workers(scheduler, tmp_path, "a"):
        done = call(tmp_path / "caller", *args)
    assert done.code == 0, done.err
    assert_same_bits(begun, run.path)
    assert Run(begun).facts["id"] == before
    assert Run(begun).history[:2] == rows  # with the seconds that they took here
    assert not [*begun.glob("checkpoint-*")]


def test_ctrl_c_ends_in_one_sentence_and_the_same_command_continues(scheduler, mine, tmp_path):
    with workers(scheduler, tmp_path, "a"):
        caller = Call(tmp_path / "caller", arguments(scheduler, mine))
        out = tmp_path / "caller/work/out"
        wait_for(lambda: [*out.glob("runs/quick/*/metrics.json")])
        os.kill(caller.process.pid, signal.SIGINT)
        done = caller.wait()
        assert done.code == 128 + signal.SIGINT
        assert done.err == "mnist-fa: stopped; run the same command again to continue\n"
        first = {p: p.read_bytes() for p in out.glob("runs/quick/*/metrics.json")}
        assert len(first) < SEEDS
        again = call(tmp_path / "caller", *arguments(scheduler, mine))
    assert again.code == 0, again.err
    assert all(p.read_bytes() == content for p, content in first.items())
    assert len([*out.glob("runs/quick/*/metrics.json")]) == SEEDS


def test_a_scheduler_that_dies_ends_the_call_in_one_sentence(mine, tmp_path):
    file = tmp_path / "scheduler.json"
    command = "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
    started = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: file.exists() and file.stat().st_size)
        scheduler = SimpleNamespace(scheduler_address=json.loads(file.read_text())["address"])
        with workers(scheduler, tmp_path, "a"):
            caller = Call(tmp_path / "caller", arguments(scheduler, mine))
            wait_for(lambda: [*tmp_path.glob("caller/work/out/runs/quick/*/metrics.json")])
            started.kill()
            done = caller.wait()
    finally:
        started.kill()
        started.wait()
    assert done.code == 1
    assert done.err == "mnist-fa: the cluster has gone; run the same command again to continue\n"


def test_a_run_that_kills_its_workers_is_lost_alone(scheduler, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler.scheduler, "allowed_failures", 0)  # 3, else
    mine.write_text(f"{mine.read_text()}[deadly]\nbase = 'quick'\narch = 'nets:deadly'\n")
    with workers(scheduler, tmp_path, "a", "b"):
        for name in ("a", "b"):
            (tmp_path / name / "work" / "nets.py").write_text(
                "import os\n\ndef deadly(_):\n    os.kill(os.getpid(), 9)\n"
            )
        done = call(tmp_path / "caller", *arguments(scheduler, mine, 1))
    assert done.code == 0, done.err
    assert "**deadly** was not run: the cluster could not make it (KilledWorker" in done.out
    assert Run(tmp_path / "caller/work/out/runs/quick/s0").finished


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backend", "dask"], "give --address"),
        (["--backend", "dask", "--address", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
        (["--backend", "dask", "--address", "SCHEDULER"], "has no worker"),
        (["--backend", "dask", "--address", "SCHEDULER", "--jobs", "2"], "--jobs is for this machine"),
        (["--address", "SCHEDULER"], "add --backend dask"),
        (["--backend", "ray"], "give --address"),
    ],
)
def test_what_is_no_cluster_is_refused(cli, scheduler, mine, monkeypatch, args, message):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    if "ray" in args:
        pytest.importorskip("ray")
    args = [scheduler.scheduler_address if arg == "SCHEDULER" else arg for arg in args]
    code, _, err = cli("reproduce", "--rows", mine, "--against", "quick", *args)
    assert code == 2
    assert message in err
    assert_one_sentence(err.strip())


def test_a_worker_of_several_threads_is_refused_and_a_backend_that_is_missing(
    cli, scheduler, mine, tmp_path, monkeypatch
):
    args = arguments(scheduler, mine)
    with workers(scheduler, tmp_path, "a", threads=2):
        code, _, err = cli(*args)
    assert (code, "start each with --nthreads 1" in err) == (2, True)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv("MNIST_FA_BACKEND", "dask")
    code, _, err = cli(*(arg for arg in args if arg not in ("--backend", "dask")))
    assert (code, err) == (2, "mnist-fa: the backend dask is not installed; `pip install 'mnist-fastai[dask]'`\n")


def test_ray_makes_the_local_bits_though_a_worker_is_killed(mine, recipe, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15, else: beside the other tests, it would hardly go on
    where = "--backend", "ray", "--address", "local"
    caller = start_cli("reproduce", "--rows", mine, "--against", "quick", "--seeds", 3, *where, cwd=tmp_path)
    busy = []

    def is_busy() -> bool:
        for one in psutil.Process(caller.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                busy.extend([one] if "ray::_work_there" in " ".join(one.cmdline()) else [])
        return bool(busy)

    wait_for(is_busy)
    busy[0].kill()
    out, err = caller.communicate(timeout=120)
    assert (caller.returncode, err) == (0, "")
    assert "3/3  quick s" in out
    run_grid([recipe.but(name="quick", num_epochs=2)], tmp_path / "local", seeds=3, jobs=1)
    for seed in range(3):
        assert_same_bits(tmp_path / f"runs/reproduce/runs/quick/s{seed}", tmp_path / f"local/runs/quick/s{seed}")
