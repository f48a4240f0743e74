"""Rows × seeds of run directories, resumable and in parallel: each made by the code that `mnist-fa train` uses."""

import math
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from .data import Data, load_data
from .errors import InputError, RunError
from .recipes import FAILED, IMPROVED, PUBLISHED, READINGS, RECIPES, STARTS, Recipe
from .run import Run
from .train import fit, resume

GROUPS = {"table": tuple(PUBLISHED), "improved": (IMPROVED,), "starts": STARTS, "failed": FAILED, "readings": READINGS}
SEEDS = {"table": 5, "improved": 5, "starts": 5, "failed": 3, "readings": 3}
SMOKE = 512  # images to train on, and as many to test, in the quick form


@dataclass
class Task:
    """One run of the grid: where it is, and how far."""

    recipe: Recipe
    path: Path
    error: str = ""

    @property
    def epoch_seconds(self) -> list[float]:
        return [row["seconds"] for row in Run(self.path).history] if self.path.exists() else []

    @property
    def metrics(self) -> dict | None:
        run = self.path / "metrics.json"
        return Run(self.path).metrics if run.exists() else None


def select(rows: list[str]) -> list[Recipe]:
    """The recipes that are named, singly or by group (a key of GROUPS); all where none is."""
    chosen = []
    for row in rows or GROUPS:
        if row not in GROUPS and row not in RECIPES:
            raise InputError(f"row {row!r} is not known; take one of {', '.join([*GROUPS, *RECIPES])}")
        chosen += GROUPS.get(row) or [RECIPES[row]]
    return list(dict.fromkeys(chosen))


def seeds_of(recipe: Recipe) -> int:
    return next(SEEDS[group] for group, recipes in GROUPS.items() if recipe in recipes)


def reproduce(
    recipes: list[Recipe],
    out: str | Path,
    *,
    seeds: int | None = None,  # of each row, from 0; as SEEDS says by default
    jobs: int | None = None,  # runs at once; one a core by default, and one on CUDA
    smoke: bool = False,  # few images and one epoch: does it work?
    console: Console | None = None,
) -> list[Task]:
    """Bring every run of the grid to its end, in `<out>/runs/<row>/s<seed>`; finished ones are kept, others go on.

    A run that cannot be made (no weights to download, a loss that is no longer finite) leaves its error in its Task and
    stops no other. Raises InputError where a directory of the grid was made by another recipe.
    """
    tasks = []
    for recipe in recipes:
        for seed in range(seeds or (2 if smoke else seeds_of(recipe))):
            wanted = replace(recipe, seed=seed, num_epochs=min(recipe.num_epochs, 1 if smoke else recipe.num_epochs))
            task = Task(wanted, Path(out) / "runs" / recipe.name / f"s{seed}")
            if task.path.exists() and Run(task.path).recipe != wanted:
                raise InputError(f"{task.path} was made by another recipe; move it away, or give another --out")
            tasks.append(task)
    todo = [t for t in tasks if not t.metrics]
    if not todo:
        return tasks

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = min(jobs or (1 if torch.cuda.is_available() else cores), len(todo))
    threads = max(1, cores // jobs)
    work = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(_work)(i, t.recipe, t.path, threads, SMOKE if smoke else None, os.getpid())
        for i, t in enumerate(todo)
    )
    clock = _Clock(tasks, jobs)
    terminal = console is not None and console.is_terminal
    live = Live(get_renderable=clock.table, console=console, refresh_per_second=1) if terminal else None
    try:
        if live:
            live.start()
        for i, error in work:
            todo[i].error = error
            if console and not live:
                console.print(clock.line(todo[i]), markup=False, highlight=False, soft_wrap=True)
    finally:
        if live:
            live.stop()
    return tasks


def _work(i: int, recipe: Recipe, path: Path, threads: int, images: int | None, parent: int) -> tuple[int, str]:
    """One run to its end, in a worker process unless there is but one. Returns which it was, and what went wrong."""
    if os.getpid() != parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        torch.set_num_threads(threads)
    data = load_data(recipe.data)
    if images:
        data = Data(data.train[:images], data.valid[:images], data.classes)
    try:
        if path.exists():
            resume(path, data=data)
        else:
            fit(recipe, path, data=data)
    except (InputError, RunError) as e:
        return i, str(e)
    return i, ""


def _end_with(parent: int) -> None:
    """End this worker when the process that started it is gone: killed, it could not end its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Clock:
    """What is done, and an estimate of the time left."""

    def __init__(self, tasks: list[Task], jobs: int):
        self.tasks, self.jobs, self.began = tasks, jobs, time.monotonic()

    def left(self) -> float:
        """Seconds, from the epochs so far of the same row, else of the same architecture, else of all."""
        spent = [(t.recipe, t.epoch_seconds) for t in self.tasks]
        if not any(seconds for _, seconds in spent):
            return float("nan")

        def epoch(recipe: Recipe) -> float:
            for alike in (lambda r: r.name == recipe.name, lambda r: r.arch == recipe.arch, lambda r: True):
                known = [s for r, seconds in spent if alike(r) for s in seconds]
                if known:
                    return sum(known) / len(known)

        todo = [t for t in self.tasks if not t.metrics and not t.error]
        return sum(epoch(t.recipe) * (t.recipe.num_epochs - len(t.epoch_seconds)) for t in todo) / self.jobs

    def line(self, task: Task) -> str:
        name = f"{task.recipe.name} s{task.recipe.seed}"
        finished = sum(bool(t.metrics or t.error) for t in self.tasks)
        what = f"{task.metrics['accuracy']:.2%} in {task.metrics['seconds']:.0f} s" if task.metrics else task.error
        return f"{finished}/{len(self.tasks)}  {name}: {what}; {_duration(self.left())} left"

    def table(self) -> Table:
        caption = f"{_duration(time.monotonic() - self.began)} so far, {_duration(self.left())} left"
        table = Table("row", "runs", "epochs", "mean accuracy", caption=caption)
        rows: dict[str, list[Task]] = {}
        for task in self.tasks:
            rows.setdefault(task.recipe.name, []).append(task)
        for name, tasks in rows.items():
            accuracies = [t.metrics["accuracy"] for t in tasks if t.metrics]
            epochs = sum(len(t.epoch_seconds) for t in tasks)
            mean = f"{sum(accuracies) / len(accuracies):.2%}" if accuracies else ""
            error = next((t.error for t in tasks if t.error), "")
            table.add_row(
                name,
                f"{len(accuracies)}/{len(tasks)}",
                f"{epochs}/{sum(t.recipe.num_epochs for t in tasks)}",
                "not run" if error else mean,
            )
        return table


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
