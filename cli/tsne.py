"""`mnist-fa tsne`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_fastai.errors import InputError

from .options import (
    AllowImport,
    AsJson,
    DataPath,
    Device,
    Quiet,
    RunArgument,
    find_modules_here,
    ignore_fastai_warning,
)


def tsne(
    run: RunArgument = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Layer whose output is mapped, by its name in PyTorch's named_modules.",
            show_default="0, the layers before the last, of the package's architectures",
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="Number of images, evenly from each class.", show_default="1000 at most"),
    ] = None,
    perplexity: Annotated[
        float | None, typer.Option(help="Perplexity of t-SNE.", show_default="30, or less for few images")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations after 250 with early exaggeration.")] = 500,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, max=2**32 - 1, help="Random seed.")] = 0,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Draw the images in place of dots where there is room.")
    ] = False,
    format: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", "-f", help="Picture format.")] = "png",
    data: DataPath = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="RUN/tsne; ./tsne for the shipped model")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
):
    """Map test images by t-SNE: raw pixels, the network with random weights, and the trained network."""
    if samples not in (None, "all") and not samples.isdecimal():
        raise InputError(f"--samples takes a number of images, or all, and not {samples!r}")
    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai.maps import draw_maps
    from mnist_fastai.run import Run, pretrained

    chosen = Run(run) if run else Run.latest()
    if out is None:
        out = Path("tsne") if chosen.path.parent == pretrained().parent else chosen.path / "tsne"
    find_modules_here(allow_import)
    result = draw_maps(
        chosen, out, layer=layer, samples=int(samples) if samples not in (None, "all") else samples,
        perplexity=perplexity, iterations=iterations, seed=seed, format=format, thumbnails=thumbnails, data=data,
        device=device, allow_import=allow_import, console=None if quiet else Console(stderr=as_json),
    )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
