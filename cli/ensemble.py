"""mnist-fa ensemble"""

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowImport, DataPath, find_modules_here, ignore_fastai_warning


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="a new one below ./runs")] = None,
    data: DataPath = None,
    allow_import: AllowImport = False,
):
    """Write several runs as one, whose model gives the mean of their probabilities; other commands take it as any."""
    find_modules_here(allow_import)
    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai.ensembling import ensemble

    ensemble(runs, out, data=data, allow_import=allow_import, console=Console())
