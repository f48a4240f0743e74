"""`mnist-fa draw`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from mnist_fastai.escape import printable

from .options import AllowImport, DataPath, find_modules_here, ignore_fastai_warning


def draw(
    run: Annotated[Path | None, typer.Argument(help="Run directory.", show_default="the shipped model")] = None,
    out: Annotated[Path, typer.Option(help="Output file.")] = Path("draw.html"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Let drawings be labelled, and downloaded as a folder for train --data.")
    ] = False,
    data: DataPath = None,
    allow_import: AllowImport = False,
):
    """Make a page on which you draw a digit and see the network work: one file, without server and network."""
    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai.exports.page import draw as draw_page
    from mnist_fastai.run import Run, pretrained

    find_modules_here(allow_import)
    page = draw_page(
        Run(run or pretrained()), out, collect=collect, data=data, allow_import=allow_import, console=Console()
    )
    novelty = "" if page.novelty else ", without novelty (see --valid-fraction of train)"
    same = f"its network predicts as the Learner does on all {page.images:,} {page.split} images"
    print(printable(f"{page.path}: {page.bytes:,} bytes; {same}, weights in {page.weights}{novelty}"))
    if show:
        webbrowser.open(out.resolve().as_uri())
