"""Options that several commands share, and those that are made of Recipe's fields."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from mnist_fastai.files import log
from mnist_fastai.recipes import RECIPES, Recipe

RunArgument = Annotated[
    Path | None,
    typer.Argument(help="Run directory.", show_default="the latest finished run in ./runs, else the shipped model"),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:1|mps", help="auto: CUDA where there is one.")]
DataPath = Annotated[
    str | None, typer.Option("--data", "-d", metavar="NAME|DIR", help="The run's data, or where it is now.")
]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="Import the modules that the run names, which are code.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]


def _silence(quiet: bool) -> bool:
    if quiet:
        log.setLevel(logging.WARNING)
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_silence, help="Show no progress.")]


def recipe_options(panel: str) -> Callable:
    """A decorator that adds an option for each field of Recipe to a command that takes **fields."""

    def decorate(command: Callable) -> Callable:
        parameters = []
        for f in fields(Recipe):
            limits = f.metadata
            choices = list(limits.get("choices", ()))
            option = typer.Option(
                *[f"--{f.name.replace('_', '-')}", *filter(None, [limits["flag"]])],
                help=limits["help"],
                metavar="|".join([*choices, *(["MODULE:NAME"] if limits.get("importable") else [])]) or None,
                autocompletion=completion(choices),
                rich_help_panel=panel,
            )
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(f.name, kind, default=f.default, annotation=Annotated[f.type, option]))
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = signature.replace(parameters=[*own, *parameters])
        command.__annotations__ = {p.name: p.annotation for p in (*own, *parameters)}
        return command

    return decorate


def completion(choices: Iterable[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


complete_recipe = completion(RECIPES)


def find_modules_here(needed: bool) -> None:
    """Let "module:name" be found in the current folder, in this process and in its children."""
    if needed and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def ignore_fastai_warning() -> None:
    """fastai 2.8 uses torch.jit.script, which torch has deprecated: here, and in the processes that start from here."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.jit._script")
