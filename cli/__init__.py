"""The command line: the app, and how it says what went wrong. Each command imports what it needs inside itself."""

import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from mnist_fastai.errors import InputError, RunError

from .export import export
from .predict import predict
from .reproduce import reproduce
from .train import train
from .tsne import tsne


class Commands(TyperGroup):
    """Reports an error in one sentence on stderr, with exit code 2 for a mistake in the call and 1 for a failure."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as e:
            code, message = 2, e
        except RunError as e:
            code, message = 1, e
        except ModuleNotFoundError as e:  # where only what predict needs was installed
            code, message = 1, f"{e.name} is not installed; `pip install` this package with its dependencies"
        except KeyboardInterrupt as e:
            code, message = 130, str(e) or "stopped"
        print(f"mnist-fa: {message}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (train, reproduce, export, tsne, predict):
    app.command()(command)


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


def main():
    app()
