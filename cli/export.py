"""mnist-fa export"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.escape import printable

from .options import AllowImport, AsJson, DataPath, RunArgument, find_modules_here, ignore_fastai_warning


def export(
    run: RunArgument = None,
    format: Annotated[
        Literal["learner", "safetensors", "onnx", "torch-export", "all", "hub"],
        typer.Option(
            "--format",
            "-f",
            help="learner: learner.pkl, for fastai's load_learner. safetensors: a run directory, weights and JSON. "
            "onnx: model.onnx, images to probabilities. torch-export: the same as model.pt2. all: all four. "
            "hub: a folder for the Hugging Face Hub, with a model card.",
        ),
    ] = "learner",
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder.", show_default="the run, or RUN/hub; here, or ./hub, for the shipped model"),
    ] = None,
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Also write model-int8.onnx and compare it; refused where it costs over 0.1 points."),
    ] = None,
    data: DataPath = None,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
):
    """Export a run's model. Each file is loaded in a fresh process and its predictions are compared with the run's."""
    if quantize and format not in ("onnx", "all"):
        raise InputError(f"--quantize makes an ONNX file, not one of --format {format}; add --format onnx")
    from mnist_fastai.run import Run, pretrained

    source = Run(run) if run else Run.latest()
    source.require_finished()
    if out is None and source.path.parent == pretrained().parent:
        out = Path("hub" if format == "hub" else "")  # not the installed package
    find_modules_here(allow_import)
    ignore_fastai_warning()
    from mnist_fastai import exports

    if format != "hub":
        exports.find_folder(source, out)  # before the predictions, which take seconds
    reference = exports.Reference(source, data=data, allow_import=allow_import)
    written, failed = [], []
    for name in exports.FORMATS if format == "all" else [format]:
        try:
            if name == "hub":
                exported = exports.export_hub(source, out, reference=reference)
            else:
                exported = [exports.export(source, name, out, reference=reference)]
            written += map(asdict, exported)
            if not as_json:
                print(*(printable(_line(one, source.path)) for one in exported), sep="\n")
            if name == "hub" and not as_json:
                print(printable(f"{exported[0].path.parent / 'README.md'}: the model card; read it before you upload"))
            if quantize and name == "onnx":
                measured = exports.quantize(source, out, reference=reference)
                written.append({"format": "int8", **asdict(measured[1]), "float": asdict(measured[0])})
                if not as_json:
                    print(*map(printable, _table(measured)), sep="\n")
        except (InputError, RunError) as e:
            failed.append(e)
    if as_json:
        print(json.dumps(written, indent=2, default=str))
    if failed:
        raise type(failed[0])("; ".join(map(str, failed)))


def _line(exported, run: Path) -> str:
    from mnist_fastai.exports.formats import CALIBRATED

    images = f"all {exported.images:,} {exported.split} images"
    if exported.split == "sample":
        images = f"the {exported.images:,} images of its sample (its data is missing; --data says where it is)"
    ties = f", {exported.ties} tie{'s' * (exported.ties > 1)}" if exported.ties else ""
    calibrated = ""
    if exported.calibrated:
        calibrated = f", calibrated by {exported.calibrated:,} held-out images"
    elif exported.format in CALIBRATED:
        calibrated = ", not calibrated and without novelty (see --valid-fraction of train)"
    return (
        f"{exported.path}: predictions match {run} on {images}, "
        f"logits within {exported.max_logit_difference:.1g}{ties}{calibrated}"
    )


def _table(measured) -> list[str]:
    width = max(len(str(m.path)) for m in measured)
    rows = [f"{'':{width}}      bytes  images/second  accuracy"]
    rows += [f"{m.path!s:{width}}  {m.bytes:>9,}  {m.images_per_second:>13,}  {m.accuracy:>8.2%}" for m in measured]
    return rows
