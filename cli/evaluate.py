"""`mnist-fa evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_fastai.errors import RunError

from .options import AllowImport, AsJson, Device, Quiet, find_modules_here, ignore_fastai_warning


def evaluate(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN|MODEL.ONNX]...",
            help="Run directories and ONNX models; several are compared.",
            show_default="the latest finished run in ./runs, else the shipped model",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="mnist-c|NAME|DIR",
            help="Test set, repeatable: mnist or another data set by name, a folder, or mnist-c, MNIST's test images "
            "in 15 corruptions.",
            show_default="the images that the run's own metrics are on; mnist for an ONNX model",
        ),
    ] = None,
    labels: Annotated[
        Literal["given", "corrected"],
        typer.Option(help="corrected: 10 of MNIST's test labels are changed and 5 images left out."),
    ] = "given",
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder.", show_default="RUN/evaluation; ./evaluation for anything else"),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="ACCURACY", help="Exit with 1 where a model is less accurate on a set."),
    ] = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
):
    """Report accuracy, misclassified images, calibration and comparisons, as a page and as tables."""
    ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import report
    from mnist_fastai.run import Run, pretrained

    chosen = models or [Run.latest().path]
    if out is None:
        own = len(chosen) == 1 and chosen[0].is_dir() and chosen[0].parent != pretrained().parent
        out = chosen[0] / "evaluation" if own else Path("evaluation")
    find_modules_here(allow_import)
    evaluation = report.evaluate(
        chosen, data=data or (), labels=labels, out=out, device=device, allow_import=allow_import,
        console=None if quiet else Console(stderr=as_json),
    )  # fmt: skip
    if as_json:
        print(json.dumps(evaluation.to_dict(), indent=2))
    low = min(evaluation.results, key=lambda result: result.accuracy)
    if fail_under is not None and low.accuracy < fail_under:
        model, images = evaluation.models[low.model]["name"], evaluation.sets[low.set].name
        raise RunError(f"{model} has an accuracy of {low.accuracy:.4%} on {images}, below --fail-under {fail_under}")
