"""What a run on a cluster costs besides its training: bytes, the scheduler's time, and writing what comes back.

    python benchmarks/cluster.py [--calls 500] [--backend dask|ray]

Calls that do nothing, and that return as many bytes as a run, go the way of `mnist-fa reproduce --backend` to two
workers on this machine. The bytes of a run are those of one epoch: more epochs add a row of history each.
"""

import argparse
import pickle
import tempfile
import time
from pathlib import Path

from mnist_fastai import Recipe, fit
from mnist_fastai.cluster import connect
from mnist_fastai.reproduce import Task, _keep, _parallel, _read_files, _work_there


def call(number: int, files: dict[str, bytes]) -> tuple[int, str, dict[str, bytes]]:
    return number, "", files


def make(number: int, size: int) -> tuple[int, str, dict[str, bytes]]:
    return number, "", {"file": bytes(size)}


def seconds(results) -> float:
    began = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--backend", default="dask")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for arch in ("lenet", "deep"):
            recipe = Recipe(arch=arch, num_epochs=1)
            began = time.perf_counter()
            run = fit(recipe, out=Path(folder) / arch)
            took = time.perf_counter() - began
            files[arch] = _read_files(run.path)
            task = pickle.dumps((_work_there, 0, Task(recipe, recipe, run.path), False, {}, None))
            size = sum(map(len, files[arch].values()))
            print(f"{arch}: {size:,} bytes back, {len(task):,} bytes there, {took:.1f} s for one epoch", flush=True)
        measure(args, Path(folder), files["deep"])


def measure(args, folder: Path, files: dict[str, bytes]) -> None:
    import joblib

    size, n = sum(map(len, files.values())), args.calls
    address, close = "local", lambda: None
    if args.backend == "dask":
        from distributed import LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        address, close = cluster.scheduler_address, cluster.close
    with connect(args.backend, address):
        for what, each in (("nothing", 0), (f"{size:,} bytes", size)):
            for _ in range(2):  # the first warms up
                with _parallel([joblib.delayed(make)(i, each) for i in range(n)], pre_dispatch="all") as results:
                    took = seconds(results)
            print(f"{args.backend}: {1000 * took / n:.2f} ms per call that returns {what}", flush=True)
    close()
    todo = [Task(Recipe(), Recipe(), folder / "kept" / str(i)) for i in range(50)]
    took = seconds(_keep((call(i, files) for i in range(len(todo))), todo))
    print(f"{1000 * took / len(todo):.1f} ms to write a run")


if __name__ == "__main__":
    main()
