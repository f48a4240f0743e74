"""The formats of an exported model, and `export`, which writes and checks one."""

import io
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..errors import InputError, RunError
from ..files import check_folder, owned, read_bytes, temporary_folder, write_bytes
from ..learner import write_learner
from ..models import split
from ..reader.seal import seal
from ..run import Run
from .check import DataSource, Model, Reference, compare, first_sentence, predict
from .detector import Calibrated, Taps

FORMATS = {  # the file of each
    "learner": "learner.pkl",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
}
CALIBRATED = "onnx", "torch-export"  # those that give probabilities, which held-out images calibrate
RUN_FILES = "model.safetensors", "metrics.json", "run.json", "sample.npz", "recipe.json"  # the last makes it a run
OPSET, IR = 18, 8  # both of 2022: the oldest that torch's exporter writes without a conversion


@dataclass(frozen=True)
class Exported:
    """A file whose predictions match the run's."""

    format: str
    path: Path
    bytes: int
    split: str  # the images that were compared: "test", "held out", or "sample" where the run's data is missing
    images: int  # their number
    max_logit_difference: float
    ties: int  # images whose predicted class differs, between two logits that are equal to the precision of float32
    calibrated: int  # held-out images by which its probabilities and novelty are; 0 where these are not


class ImageModel(nn.Module):
    """uint8 images [n, 28, 28] → logits and probabilities [n, classes], features [n, d] and novelty [n], all float32.

    Scales and normalises the images itself. A model without the body/head seam gives no features; one without held-out
    images gives no novelty (`detector.Detector`), and its probabilities are as it was trained.
    """

    def __init__(self, model: nn.Module, normalize: tuple[float, float] | None, calibrated: Calibrated | None = None):
        super().__init__()
        body, self.head = split(model) or (model, None)
        self.taps = Taps(body)
        self.detector = calibrated.detector if calibrated else None
        self.temperature = calibrated.temperature if calibrated else 1.0
        every = ["logits", "probabilities", "features", "novelty"]
        self.outputs = every[: 2 if self.head is None else 3 if self.detector is None else 4]
        self.mean, self.std = normalize or (0.0, 1.0)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, taps = self.taps((images[:, None].float() / 255 - self.mean) / self.std)
        logits = features if self.head is None else self.head(features)
        novelty = () if self.detector is None else (self.detector(taps),)
        return (logits, (logits / self.temperature).softmax(1), features, *novelty)[: len(self.outputs)]


_TWO = (torch.zeros(2, 28, 28, dtype=torch.uint8),)  # a batch of one would be taken for a constant
_DYNAMIC = ({0: torch.export.Dim("batch")},)


def to_onnx(model: ImageModel, properties: dict[str, str]) -> bytes:
    """The model as an ONNX file for any batch size, `onnx.checker` clean, with metadata properties."""
    import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001  reports a missing package before the work

    proto = torch.onnx.export(
        model.eval(), _TWO, dynamo=True, dynamic_shapes=_DYNAMIC, opset_version=OPSET, verbose=False,
        input_names=["images"], output_names=model.outputs,
    ).model_proto  # fmt: skip
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # they name paths of this machine
    proto.ir_version = IR
    return serialize(proto, properties)


def serialize(proto, properties: dict[str, str]) -> bytes:
    """An `onnx.ModelProto` as a file with metadata properties and its SHA-256, once `onnx.checker` accepts it."""
    import onnx

    onnx.helper.set_model_props(proto, properties)
    onnx.checker.check_model(proto, full_check=True)
    return seal(proto.SerializeToString(deterministic=True))


def to_torch_export(model: ImageModel, properties: dict[str, str]) -> bytes:
    """The model's graph as `torch.export.load` reads it, for any batch size, with properties as extra files."""
    program = torch.export.export(model.eval(), _TWO, dynamic_shapes=_DYNAMIC)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names paths of this machine
    content = io.BytesIO()  # on a full disk, torch's own zip writer would end the process
    torch.export.save(program, content, extra_files=properties)
    return content.getvalue()


def metadata(run: Run, metrics: dict, calibrated: Calibrated | None) -> dict[str, str]:
    """What a file says of its model, as JSON: classes, recipe, normalisation, format, metrics, calibration."""
    recipe = run.recipe.to_dict()
    values = {
        "mnist_fastai": __version__,
        "classes": run.classes,
        "recipe": recipe | {"data": Path(recipe["data"]).name},  # no path of this machine
        "normalize": run.normalize,
        "format": run.format,
        "metrics": {key: value for key, value in metrics.items() if key != "sha256"},  # of the run's own files
    }
    if calibrated:
        values |= {"temperature": calibrated.temperature, "low_confidence": calibrated.low_confidence}
    return {key: json.dumps(value) for key, value in values.items()}


def export(
    run: Run,
    format: str = "learner",  # a key of FORMATS
    out: str | Path | None = None,  # folder; the run's own by default
    *,
    reference: Reference | None = None,  # of the run, where several formats share it; in place of the next three
    data: DataSource | None = None,  # where the run's data is now
    model: Model | None = None,  # for a run to which fit(model=…) was given
    allow_import: bool = False,  # of modules that the run names
) -> Exported:
    """Write the run's model in a format, once a fresh process has loaded the file and predicted the same classes.

    Compares all images of the split that the run's metrics are on, or the sample kept in the run where its data is
    missing. safetensors is a byte-by-byte copy of the weights and their JSON, itself a run directory.

    Raises RunError where a predicted class differs, ties aside, or the file does not load, and InputError for an
    unknown format, an unfinished run, changed data, and what `load_run` refuses; what stood there is then kept.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known; take one of {', '.join(FORMATS)}")
    run.require_finished()
    out = find_folder(run, out)
    reference = reference or Reference(run, data=data, model=model, allow_import=allow_import)
    file, logits, ties = FORMATS[format], reference.logits, 0
    if format == "safetensors":
        contents = {name: run.read(name) if (run.path / name).exists() else None for name in RUN_FILES}
    else:
        what = f"the exported {file} of {run.path}"
        with temporary_folder() as folder:
            path = folder / file
            _write(format, run, reference, path, what)
            logits = predict(format, path, reference, folder, what)
            contents = {file: path.read_bytes()}
        wrong, ties = compare(reference.logits, logits)
        if wrong:
            raise RunError(f"{what} differs from the run on {wrong} images; it was not written")
    with owned(out):
        find_folder(run, out)  # again, now that nobody else writes there
        for name, content in contents.items():
            if content not in (None, _content(out / name)):  # older runs have neither run.json nor sample.npz
                write_bytes(out / name, content)
            if content != _content(out / name):
                raise RunError(f"{out / name} does not have the bytes that were written; check the disk")
    difference = float(np.abs(logits - reference.logits).max())
    calibrated = reference.calibrated.images if format in CALIBRATED and reference.calibrated else 0
    size = (out / file).stat().st_size
    return Exported(format, out / file, size, reference.split, len(logits), difference, ties, calibrated)


def _write(format: str, run: Run, reference: Reference, path: Path, what: str) -> None:
    if format == "learner":
        return write_learner(reference.learner, path)
    calibrated = reference.calibrated
    model = ImageModel(reference.learner.model, run.normalize, calibrated)
    properties = metadata(run, run.metrics, calibrated)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporters use what torch has deprecated
            content = (to_onnx if format == "onnx" else to_torch_export)(model, properties)
    except ImportError as e:
        raise RunError(f"{what} needs the package {e.name}, which is missing; `pip install {e.name}`") from e
    except RuntimeError as e:  # torch has no narrower one for a model that it cannot export
        raise RunError(f"{what} could not be made ({first_sentence(str(e))}); it was not written") from e
    return write_bytes(path, content)


def find_folder(run: Run, out: str | Path | None) -> Path:
    """The folder to write to, the run's own by default. Raises InputError where it cannot be, or is another run's."""
    out = Path(out) if out is not None else run.path
    check_folder(out)
    if (out / "recipe.json").exists() and any(_content(out / n) != _content(run.path / n) for n in RUN_FILES):
        raise InputError(f"{out} holds another run than {run.path}; choose another --out")
    return out


def _content(path: Path) -> bytes | None:
    return read_bytes(path) if os.path.exists(path) else None
