"""The command line. Each command imports what it needs inside itself, so that help answers at once."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.recipes import ARCHS, NORMALIZE, OPTS, Recipe


class Commands(TyperGroup):
    """Says an error in one sentence on stderr, with exit code 2 for a mistake of the caller's and 1 for a failure."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as e:
            code, message = 2, e
        except RunError as e:
            code, message = 1, e
        except KeyboardInterrupt as e:
            code, message = 130, str(e) or "stopped"
        print(f"mnist-fa: {message}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool):
    if asked:
        from mnist_fastai import __version__

        print(f"mnist-fa {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
):
    """Train digit classifiers on MNIST with fastai, look into them, and ship them."""


_RECIPE, _RUN, _OUTPUT = "Recipe", "Run", "Output"
_default = Recipe()


@app.command()
def train(
    ctx: typer.Context,
    arch: Annotated[
        Literal[ARCHS], typer.Option("--arch", "-a", help="Architecture.", rich_help_panel=_RECIPE)
    ] = _default.arch,
    opt: Annotated[
        Literal[OPTS],
        typer.Option("--opt", "-o", help="Optimizer: Adam, or SGD with momentum 0.9.", rich_help_panel=_RECIPE),
    ] = _default.opt,
    num_epochs: Annotated[
        int,
        typer.Option("--num-epochs", "-n", help="Epochs; 0 leaves the weights random.", rich_help_panel=_RECIPE),
    ] = _default.num_epochs,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "-l", help="Learning rate.", rich_help_panel=_RECIPE)
    ] = _default.learning_rate,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Images in a training batch.", rich_help_panel=_RECIPE)
    ] = _default.batch_size,
    normalize: Annotated[
        Literal[tuple(NORMALIZE)],
        typer.Option(
            help="Mean and standard deviation that pixels are normalised with: 0 and 1, 0.5 and 0.5, or MNIST's own.",
            rich_help_panel=_RECIPE,
        ),
    ] = _default.normalize,
    seed: Annotated[
        int,
        typer.Option("--seed", "-s", help="Of the weights and of the images' order.", rich_help_panel=_RECIPE),
    ] = _default.seed,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="mnist, or a folder of IDX files or of images by class.",
            rich_help_panel=_RECIPE,
        ),
    ] = _default.data,
    valid_fraction: Annotated[
        float,
        typer.Option(
            help="Hold out this part of the training images and report on it, not on the test images.",
            rich_help_panel=_RECIPE,
        ),
    ] = _default.valid_fraction,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="auto: CUDA where there is one.", rich_help_panel=_RUN),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory.", show_default="runs/<date-time>-<arch>-<opt>-s<seed>", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run from its last whole epoch.", rich_help_panel=_RUN),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Two batches through everything, and nothing kept.", rich_help_panel=_RUN),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the metrics and the run as JSON on stdout.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_OUTPUT)] = False,
):
    """Train a model, and leave a run directory. With no option: the published table's last row."""
    recipe_options = {
        "arch": arch, "opt": opt, "num_epochs": num_epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "normalize": normalize, "seed": seed, "data": data, "valid_fraction": valid_fraction,
    }  # fmt: skip
    if resume is not None:
        given = [n for n in (*recipe_options, "out", "dry_run") if ctx.get_parameter_source(n).name == "COMMANDLINE"]
        if given:
            option = given[0].replace("_", "-")
            raise InputError(
                f"--resume goes on with the recipe and the directory that {resume} has; leave --{option} out"
            )
    else:
        recipe_options["data"] = data if data == "mnist" else str(Path(data).resolve())
        recipe = Recipe(**recipe_options)

    _ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import train

    console = None if quiet else Console(stderr=as_json)
    if dry_run:
        metrics, path = train.dry_run(recipe, device=device, console=console), None
    else:
        if resume is not None:
            run = train.resume(resume, device=device, console=console)
        else:
            run = train.fit(recipe, out, device=device, console=console)
        metrics, path = run.metrics, str(run.path)
    if as_json:
        print(json.dumps({"run": path, **metrics}, indent=2))


@app.command()
def export(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory.", show_default="the latest finished run in ./runs")
    ] = None,
    format: Annotated[
        Literal["learner"],
        typer.Option("--format", "-f", help="learner: learner.pkl, for fastai's load_learner."),
    ] = "learner",
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="the run directory")] = None,
):
    """Write a run's model in a form that others load, checked in a fresh process against the run."""
    from mnist_fastai.run import Run

    found = Run(run) if run else Run.latest()
    found.require_finished()
    _ignore_fastai_warning()
    from mnist_fastai.export import export_learner

    path, difference = export_learner(found, out)
    print(f"{path}: every prediction equals the run's, probabilities to within {difference:.1g}")


def _ignore_fastai_warning():
    import warnings

    # fastai 2.8 uses torch.jit.script, which torch has deprecated
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")


def main():
    app()
