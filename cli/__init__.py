"""The command line: the app, and how it says what went wrong. Each command imports what it needs inside itself."""

import logging
import os
import signal
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Annotated

import typer
from typer.core import TyperGroup

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.escape import printable
from mnist_fastai.files import log, remove_abandoned

from .data import data
from .draw import draw
from .ensemble import ensemble
from .evaluate import evaluate
from .export import export
from .predict import predict
from .reproduce import reproduce
from .train import train
from .tsne import tsne

_signals: list[int] = []  # that this process received


class Commands(TyperGroup):
    """Reports an error in one sentence on stderr, with exit code 2 for a mistake in the call and 1 for a failure."""

    def invoke(self, ctx):
        try:
            _check_current_folder()
            remove_abandoned()
            super().invoke(ctx)
            sys.stdout.flush()
            return
        except InputError as e:
            code, message = 2, e
        except RunError as e:
            code, message = 1, e
        except ModuleNotFoundError as e:  # where only what predict needs was installed
            code, message = 1, f"{e.name} is not installed; `pip install` this package with its dependencies"
        except OSError as e:  # of a file or folder that is lost within the work
            code, message = 1, f"{e.filename or 'a file'} cannot be used ({e.strerror or e}); repeat the command"
        except KeyboardInterrupt as e:
            code, message = 128 + (_signals[-1] if _signals else signal.SIGINT), str(e) or "stopped"
            if os.environ.get("RANK", "0") != "0":  # under torchrun, which ends all processes: the first says so
                raise typer.Exit(code) from None
        _report(message)
        raise typer.Exit(code)


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as e:
        raise InputError("the current folder has been removed; change to another one") from e


def _report(message) -> None:
    with suppress(OSError):
        print(f"mnist-fa: {printable(message)}", file=sys.stderr, flush=True)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (train, reproduce, ensemble, evaluate, export, tsne, draw, predict):
    app.command()(command)
app.add_typer(data, name="data")


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


# --- the process ------------------------------------------------------------------------------------------------------


class Stdout:
    """stdout, whose failure is an error of its own: a reader that has gone (`| head -1`), a full disk, a closed one."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with _written():
            return self.stream.write(text)

    def flush(self) -> None:
        with _written():
            self.stream.flush()


@contextmanager
def _written():
    try:
        yield
    except OSError as e:
        with suppress(OSError):  # what is left in its buffer would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise RunError(f"cannot write to stdout ({e.strerror}); what was finished is kept") from e


def main():
    for descriptor in (0, 1, 2):  # a closed one would be the next file that is opened, and print would write into that
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY)
    stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    for stream in filter(None, (stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a name may have what the console's encoding lacks
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:  # which nohup has changed
            signal.signal(number, _interrupt)
    notices = logging.StreamHandler()
    notices.format = lambda record: f"mnist-fa: {printable(record.getMessage())}"
    log.handlers = [notices]
    log.setLevel(logging.INFO)
    with redirect_stdout(Stdout(stdout)):
        try:
            app()
        except RunError as e:  # from the help, before there is a command
            _report(e)
            sys.exit(1)


def _interrupt(number: int, _frame):
    _signals.append(number)
    raise KeyboardInterrupt
