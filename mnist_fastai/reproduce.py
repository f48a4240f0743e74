"""Recipes × seeds: run directories made in parallel, resumed where they were stopped, and verified."""

import os
import random
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from .callbacks import say
from .cluster import Cluster, connect
from .datasets import Data, load_data
from .errors import InputError, RunError
from .files import HIDDEN, end_with, life, owned, read_bytes, temporary_folder, write_bytes
from .recipes import GROUPS, LEARNING_RATE_001, MNIST, RECIPES, WITH_STROKES, Group, Recipe, load_recipe, load_recipes
from .results import row_folder
from .run import METRICS, Run, is_new
from .train import proceed, start

SEEDS = 5  # runs per row
SMOKE = 512  # images of each split in the quick form


@dataclass
class Task:
    """One run of the grid."""

    row: Recipe  # as it was given
    recipe: Recipe  # with a seed of its own, and shorter in the quick form
    path: Path
    error: str = ""


def select(rows: list[str], against: str | None = None) -> tuple[list[Recipe], dict[str, Group]]:
    """The recipes to run and the groups to compare them in.

    `rows`: names of recipes, keys of GROUPS, recipe files; all of GROUPS if empty. With a file among them, or with
    `against`, they are one group, compared with the recipe of that name or file (0.001-learning-rate by default).
    Raises InputError for unknown rows, and for recipes that cannot be compared.
    """
    chosen: list[Recipe] = []
    for row in rows or GROUPS:
        if row not in GROUPS and row not in RECIPES and not Path(row).exists():
            raise InputError(f"row {row!r} is neither a recipe file nor one of {', '.join({**GROUPS, **RECIPES})}")
        chosen += GROUPS[row].recipes if row in GROUPS else (recipe.but(seed=0) for recipe in load_recipes(row))
    if against is None and all(row in GROUPS or row in RECIPES for row in rows):
        return list(dict.fromkeys(chosen)), GROUPS
    named = {recipe.name: recipe for recipe in chosen}
    other = named.get(against) or load_recipe(against or LEARNING_RATE_001.name).but(seed=0)
    chosen = list(dict.fromkeys([other, *chosen]))
    for i, recipe in enumerate(chosen):
        if recipe.name in [r.name for r in chosen[:i]]:
            raise InputError(f"two recipes are named {recipe.name}; rename one")
        if recipe.reported != other.reported:
            raise InputError(
                f"{recipe.name} and {other.name} report on different images; give --against a recipe of the same data"
            )
    return chosen, {"own": Group(f"Compared with {other.name}", tuple(chosen), other)}


def run_grid(
    recipes: list[Recipe],
    out: str | Path,
    *,
    seeds: int | None = None,  # runs per recipe, with seeds from 0; SEEDS by default
    jobs: int | None = None,  # runs at once with loky; one per core by default, and one on CUDA
    smoke: bool = False,  # few images, one epoch and two seeds: does it work?
    backend: str = "loky",  # one of cluster.BACKENDS
    address: str
    | None = None,  # of the Dask scheduler or the Ray cluster; by default in DASK_SCHEDULER_ADDRESS, RAY_ADDRESS
    console: Console | None = None,
) -> list[Task]:
    """Finish every run of the grid, in `<out>/runs/<row>/s<seed>`. Finished runs are kept, others are resumed.

    Every run has one thread, so that its bits do not depend on `jobs` or `backend`. A run that fails (no weights to
    download, a loss that is not finite) leaves its error in its Task and stops no other. Modules that the recipes name
    are imported. Raises InputError where a directory of the grid has another recipe or other images, or where there is
    no such cluster.
    """
    tasks = []
    for row in recipes:
        short = {"num_epochs": min(row.num_epochs, 1), "valid_fraction": 0.0} if smoke else {}
        for seed in range(seeds or (2 if smoke else SEEDS)):
            tasks.append(Task(row, replace(row, seed=seed, **short), row_folder(out, row) / f"s{seed}"))
    _check(tasks, smoke)
    _train(tasks, jobs, smoke, backend, address, console)
    return tasks


def verify(
    out: str | Path,
    n: int,
    *,
    jobs: int | None = None,
    smoke: bool = False,
    backend: str = "loky",
    address: str | None = None,
    console: Console | None = None,
) -> list[tuple[bool, str]]:
    """Train `n` finished runs below `<out>/runs`, chosen at random, anew in a temporary folder, and compare.

    Returns for each whether weights, predictions and accuracy are the same, as far as they are recorded, and a line
    of text. Runs whose recipe names a module are left out, since that is code. Raises InputError where there are too
    few runs, or where the images are not those of the run.
    """
    runs = [Run(path.parent) for path in sorted((Path(out) / "runs").glob("*/*/metrics.json"))]
    runs = [run for run in runs if not run.recipe.imports]
    if len(runs) < n:
        raise InputError(f"{Path(out) / 'runs'} has {len(runs)} finished runs, not {n}; give --out or a lower number")
    runs = random.sample(runs, n)
    _check([Task(run.recipe, run.recipe, run.path) for run in runs], smoke)
    with temporary_folder() as folder:
        tasks = [Task(run.recipe, run.recipe, folder / str(i)) for i, run in enumerate(runs)]
        _train(tasks, jobs, smoke, backend, address, console)
        return [_compare(run, task) for run, task in zip(runs, tasks, strict=True)]


def _compare(run: Run, task: Task) -> tuple[bool, str]:
    if task.error:
        return False, f"{run.path}: {task.error}"
    new, then, now = Run(task.path), run.metrics, Run(task.path).metrics
    digest = then.get("sha256", {}).get("model.safetensors")
    same = {
        "weights": digest == now["sha256"]["model.safetensors"] if digest else None,
        "predictions": np.array_equal(run.predictions, new.predictions),
        "accuracy": then["accuracy"] == now["accuracy"],
    }
    words = {True: "same", False: "different", None: "not recorded"}
    parts = [", ".join(f"{name} {words[value]}" for name, value in same.items())]
    before, after = (m["versions"] | {k: m.get(k) for k in ("processor", "device", "threads")} for m in (then, now))
    changed = [key for key, value in before.items() if value is not None and value != after.get(key)]
    parts += [f"{key} {before[key]} then, {after.get(key)} now" for key in changed]
    return False not in same.values(), f"{run.path}: {'; '.join(parts)}"


def _check(tasks: list[Task], smoke: bool) -> None:
    """Raise InputError where the directory of a task has another recipe, or other images than it would be given."""
    load = cache(_load)
    for task in tasks:
        if not is_new(task.path):
            run = Run(task.path)
            if run.recipe != task.recipe:
                raise InputError(f"{task.path} was made by another recipe; move it away, or give another --out")
            data = load(task.row.data, task.row.valid_fraction, smoke)
            digests = run.facts.get("splits", data.digests)
            if digests != data.digests or (run.finished and run.metrics["images"] != len(data.reported[1])):
                raise InputError(f"{task.path} was made from other images; move it away, or give another --out")


def _load(source: str, valid_fraction: float, smoke: bool) -> Data:
    data = load_data(source, valid_fraction)
    return replace(data, **{name: split[:SMOKE] for name, split in data.splits.items()}) if smoke else data


def _train(
    tasks: list[Task], jobs: int | None, smoke: bool, backend: str, address: str | None, console: Console | None
) -> None:
    """Finish the tasks, and show how far they are."""
    todo = [task for task in tasks if not (task.path / METRICS).exists()]
    if not todo:
        return
    if backend != "loky":
        with (
            connect(backend, address) as cluster,
            _parallel(_calls(cluster, todo, smoke), pre_dispatch="all") as work,  # more workers may join
        ):
            return _follow(_keep(work, todo), todo, tasks, console)
    jobs = min(jobs or (1 if torch.cuda.is_available() else joblib.cpu_count()), len(todo))
    # joblib may have kept workers of an earlier call, which was made from another folder
    absolute = [replace(task, path=Path(os.path.abspath(task.path))) for task in todo]
    calls = (joblib.delayed(_work)(i, task, smoke) for i, task in enumerate(absolute))
    try:
        with _workers() if jobs > 1 else nullcontext(), _parallel(calls, n_jobs=jobs) as work:
            _follow(work, todo, tasks, console)
    except BrokenProcessPool as e:
        raise RunError(
            "a worker process was killed, perhaps since memory ran out; run the same command again to continue, "
            "or with fewer --jobs"
        ) from e


@contextmanager
def _parallel(calls: Iterable, **options) -> Iterator[Iterator[tuple]]:
    """The results of joblib's calls as they come. Those that are left at an exception are given up."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ tasks ", module="joblib")  # who pressed Ctrl-C knows
        with closing(joblib.Parallel(return_as="generator_unordered", batch_size=1, **options)(calls)) as work:
            yield work


@contextmanager
def _workers() -> Iterator[None]:
    """Have joblib's worker processes end with this one, and import nothing from the current folder by mistake."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # else a numpy.py that lies there would be run; sys.path is handed on as it is
    try:
        with joblib.parallel_config("loky", initializer=end_with, initargs=(str(life()),)):
            yield
    finally:
        os.environ.pop("PYTHONSAFEPATH") if before is None else os.environ.update(PYTHONSAFEPATH=before)


def _follow(work: Iterator[tuple[int, str]], todo: list[Task], tasks: list[Task], console: Console | None) -> None:
    columns = BarColumn(), MofNCompleteColumn(), "runs,", TimeElapsedColumn(), "so far,", TimeRemainingColumn(), "left"
    hidden = console is None or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task("", total=len(tasks), completed=len(tasks) - len(todo))
        for done, (i, error) in enumerate(work, start=len(tasks) - len(todo) + 1):
            task = todo[i]
            task.error = error
            outcome = error or "{accuracy:.2%} in {seconds:.0f} s".format(**Run(task.path).metrics)
            say(console, f"{done}/{len(tasks)}  {task.row.name} s{task.recipe.seed}: {outcome}")
            progress.advance(bar)


def _work(i: int, task: Task, smoke: bool, data: Data | None = None) -> tuple[int, str]:
    """Finish one run, in a worker process unless there is but one. Returns its number, and what went wrong."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = data or _load(task.row.data, task.row.valid_fraction, smoke)
        try:
            start(task.recipe, data, task.path)
        except InputError:
            if not (task.path / "recipe.json").exists():
                raise
            proceed(Run(task.path), data)  # what an earlier call, or another one now, has begun
    except Exception as e:
        if isinstance(e, (InputError, RunError)):
            return i, str(e)
        if not task.recipe.imports:
            raise
        return i, f"{type(e).__name__}: {e}"  # in the user's own code
    finally:
        torch.set_num_threads(threads)
    return i, ""


# --- on a cluster, which shares no files with this machine ------------------------------------------------------------


def _calls(cluster: Cluster, todo: list[Task], smoke: bool) -> list:
    """A call for each task, with what there is of its run. Images that are not in the package are shared once."""

    @cache
    def shared(source: str, valid_fraction: float):
        try:
            return None if source in (MNIST, WITH_STROKES) else cluster.share(_load(source, valid_fraction, smoke))
        except InputError:  # what a worker says as well, of each run
            return None

    return [
        joblib.delayed(_work_there)(i, t, smoke, _read_files(t.path), shared(t.row.data, t.row.valid_fraction))
        for i, t in enumerate(todo)
    ]


def _work_there(
    i: int, task: Task, smoke: bool, files: dict[str, bytes], data: Data | None
) -> tuple[int, str, dict[str, bytes]]:
    """Finish one run in a folder of the worker's own. Returns the run directory's files as well."""
    with temporary_folder() as folder:
        path = folder / "run"
        _write_files(path, files)
        i, error = _work(i, replace(task, path=path), smoke, data)
        return i, error, {} if error else _read_files(path)


def _keep(work: Iterator[tuple[int, str, dict[str, bytes]]], todo: list[Task]) -> Iterator[tuple[int, str]]:
    """Write what the workers give back."""
    for i, error, files in work:
        if not error:
            with owned(todo[i].path):
                if not (todo[i].path / METRICS).exists():  # else another call was faster
                    _write_files(todo[i].path, files)
            Run(todo[i].path).clean()
        yield i, error


def _read_files(folder: Path) -> dict[str, bytes]:
    """The content of a run directory, in an order in which, written in part, it is a run that can be resumed."""
    order = {"run.json": 0, "recipe.json": 1, METRICS: 3}
    paths = [p for p in folder.glob("*") if p.is_file() and not p.name.startswith(HIDDEN)]
    return {p.name: read_bytes(p) for p in sorted(paths, key=lambda p: order.get(p.name, 2))}


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        write_bytes(folder / Path(name).name, content)
