"""mnist-fa train"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_fastai.errors import InputError
from mnist_fastai.recipes import GROUPS, LEARNING_RATE_001, Recipe, load_recipe

from .options import (
    AllowImport,
    AsJson,
    Device,
    Quiet,
    complete_recipe,
    find_modules_here,
    ignore_fastai_warning,
    recipe_options,
)


def _list(asked: bool):
    if asked:
        for group in GROUPS.values():
            print(group.title)
            for recipe in group.recipes:
                size = f"batch size {recipe.batch_size}, {recipe.num_epochs} epochs"
                print(f"  {recipe.name:<26}{recipe.arch}, {recipe.opt} {recipe.learning_rate:g}, {size}")
        raise typer.Exit


@recipe_options("Recipe (an option changes what --recipe says)")
def train(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE|RUN",
            autocompletion=complete_recipe,
            help="A named recipe, a .toml or .json file, or a run.",
        ),
    ] = LEARNING_RATE_001.name,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run directory.", show_default="runs/<date-time>-<arch>-<opt>-s<seed>")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Continue this run from its last whole epoch.")
    ] = None,
    allow_import: AllowImport = False,
    log_to: Annotated[
        Literal["tensorboard", "wandb"] | None, typer.Option(help="Log to a tracker as well, below the run directory.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two batches through everything, nothing kept.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="List the named recipes and exit.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    **options,
):
    """Train a model and write a run directory. With no option: the published table's last row."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    if resume is not None:
        wrong = sorted(given - {"resume", "device", "as_json", "quiet", "data", "allow_import", "log_to"})
        if wrong:
            option = wrong[0].replace("_", "-")
            raise InputError(f"--resume takes its recipe and its directory from {resume}; leave --{option} out")
        find_modules_here(allow_import)
    else:
        chosen = load_recipe(recipe).but(**{f.name: options[f.name] for f in fields(Recipe) if f.name in given})
        find_modules_here(bool(chosen.imports))

    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import train
    from mnist_fastai.distributed import is_first
    from mnist_fastai.run import check_new
    from mnist_fastai.trackers import make_tracker

    console = None if quiet or not is_first() else Console(stderr=as_json)
    if dry_run and out:
        check_new(out)
    cbs = [make_tracker(log_to)] if log_to and is_first() else []
    if dry_run:
        metrics, path = train.dry_run(chosen, device=device, console=console), None
    else:
        if resume is not None:
            data = options["data"] if "data" in given else None
            run = train.resume(resume, data=data, cbs=cbs, device=device, console=console, allow_import=allow_import)
        else:
            run = train.fit(chosen, cbs=cbs, out=out, device=device, console=console)
        metrics, path = run.metrics if is_first() else {}, str(run.path)
    if as_json and is_first():
        print(json.dumps({"run": path, **metrics}, indent=2))
