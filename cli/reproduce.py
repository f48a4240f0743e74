"""mnist-fa reproduce"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.escape import printable
from mnist_fastai.recipes import GROUPS, LEARNING_RATE_001

from .options import Quiet, complete_recipe, find_modules_here, ignore_fastai_warning


def reproduce(
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|GROUP|FILE,…",
            help=f"Recipes, groups of them ({', '.join(GROUPS)}), or recipe files, separated by commas.",
            show_default="all groups",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=complete_recipe,
            help="Compare every row with this recipe, which is run as well.",
            show_default=f"{LEARNING_RATE_001.name} with a recipe file; else as the groups say",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs per row.", show_default="5, or 2 with --smoke")] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Parallel runs, each on one thread.", show_default="one per core"),
    ] = None,
    backend: Annotated[
        Literal["loky", "dask", "ray"],
        typer.Option(envvar="MNIST_FA_BACKEND", help="Where the runs are made: here, or on a Dask or Ray cluster."),
    ] = "loky",
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster: tcp://HOST:8786 of a Dask scheduler; auto, ray://HOST:10001 or local for Ray.",
            show_default="DASK_SCHEDULER_ADDRESS or RAY_ADDRESS",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the tables.")] = Path("runs/reproduce"),
    smoke: Annotated[bool, typer.Option("--smoke", help="Quick test: 512 images, one epoch.")] = False,
    verify: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Retrain N finished runs of --out, chosen at random, and compare."),
    ] = None,
    quiet: Quiet = False,
):
    """Reproduce the results table, or compare recipes: several seeds per row, means, intervals and tests.

    An interrupted call continues when it is repeated.
    """
    if verify and (rows or against or seeds):
        raise InputError("--verify chooses from the runs of --out; leave --rows, --against and --seeds out")
    if backend == "loky" and address:
        raise InputError(f"--address {address} is of a cluster; add --backend dask or --backend ray")
    if backend != "loky" and jobs:
        raise InputError(
            f"--jobs is for this machine; a {backend} cluster makes as many runs at once as it has workers"
        )
    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import reproduce
    from mnist_fastai.results import write_results

    console = None if quiet else Console()
    if verify:
        verified = reproduce.verify(
            out, verify, jobs=jobs, smoke=smoke, backend=backend, address=address, console=console
        )
        print(*(printable(text) for _, text in verified), sep="\n")
        if different := sum(not same for same, _ in verified):
            raise RunError(f"{different} of {verify} runs came out different")
        return
    recipes, groups = reproduce.select([row.strip() for row in (rows or "").split(",") if row.strip()], against)
    find_modules_here(any(recipe.imports for recipe in recipes))
    try:
        tasks = reproduce.run_grid(
            recipes, out, seeds=seeds, jobs=jobs, smoke=smoke, backend=backend, address=address, console=console
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; run the same command again to continue") from None
    unmade = {task.row.name: task.error for task in tasks if task.error}
    if all(task.error for task in tasks):  # the tables of before are as good
        raise RunError("no run could be made: " + "; ".join(dict.fromkeys(unmade.values())))
    write_results(out, groups=groups, unmade=unmade)
    if not quiet:
        print((out / "results.md").read_text("utf-8"))
