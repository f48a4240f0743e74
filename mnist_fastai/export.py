"""Models that leave the run: each is checked against the Learner, in a fresh process, before it is called done."""

import io
import json
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from fastai.learner import Learner
from torch import Tensor, nn

from . import __version__
from .errors import InputError, RunError
from .evaluate import metrics, predict_logits
from .files import atomic_file, check_folder, make_folder, write_bytes
from .recipes import NORMALIZE
from .run import Run
from .train import load_run

FILES = {  # what each format is known by
    "learner": "learner.pkl",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
}
INT8 = "model-int8.onnx"
RUN_FILES = "metrics.json", "model.safetensors", "recipe.json"  # a folder that has them is a finished run
OPSET, IR = 18, 8  # of the same year, 2022: the oldest that the exporter writes without converting
TIE = 1e-5  # of an image's largest logit; on the test images, rounding changes it by 6e-7 at most
MAX_DROP = 0.001  # of the accuracy, by int8
CALIBRATION = 50  # training images of each class


@dataclass(frozen=True)
class Tie:
    """An image on which the Learner's own logits of the two classes are equal, to the precision of float32."""

    image: int  # index into the validation images
    run: str  # the class that the run predicts
    exported: str


@dataclass(frozen=True)
class Exported:
    """A file that answers as the Learner does."""

    format: str
    path: Path
    bytes: int
    images: int  # compared
    max_logit_difference: float
    ties: tuple[Tie, ...]  # the only images whose predicted class differs


@dataclass(frozen=True)
class Measured:
    """How good an ONNX file is, and how fast with one thread and batches of 500."""

    path: Path
    bytes: int
    images_per_second: float
    accuracy: float


class Answers:
    """What the Learner of a finished run answers on its validation images."""

    def __init__(self, run: Run):
        self.learner = load_run(run.path)
        self.classes = tuple(self.learner.dls.vocab)
        self.images = self.learner.dls.valid.tensors[0][:, 0].numpy()  # uint8 [n, 28, 28]
        logits, self.labels = predict_logits(self.learner)
        self.logits = logits.numpy()  # float32 [n, classes]


# --- what is written ----------------------------------------------------------------------------------------------


class ImageModel(nn.Module):
    """uint8 images [batch, 28, 28] → logits and probabilities [batch, classes] and features, all float32.

    What the DataLoaders do to the images, scaling and normalising, is inside.
    """

    def __init__(self, model: nn.Sequential, normalize: tuple[float, float] | None):
        super().__init__()
        self.body, self.head = model
        self.mean, self.std = normalize or (0.0, 1.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body((images[:, None].float() / 255 - self.mean) / self.std)
        logits = self.head(features)
        return logits, logits.softmax(1), features


_TWO = (torch.zeros(2, 28, 28, dtype=torch.uint8),)  # a batch of one would be taken for a constant
_DYNAMIC = ({0: torch.export.Dim("batch")},)


def write_learner(learner: Learner, path: Path) -> None:
    """Write what `load_learner` reads. It is a pickle: to load one is to run code, so load only what you trust."""
    with atomic_file(path) as tmp:
        try:
            # fastai's default, cloudpickle, writes some of fastai's functions by value: as bytecode of this very
            # Python, with paths of this machine
            learner.export(tmp.resolve(), pickle_module=pickle)
        except RuntimeError as e:  # of torch's zip writer, where the disk is full
            raise OSError("the disk may be full") from e


def to_program(model: ImageModel) -> torch.export.ExportedProgram:
    """The model's graph, for any batch size."""
    program = torch.export.export(model.eval(), _TWO, dynamic_shapes=_DYNAMIC)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names paths of this machine
    return program


def to_onnx(model: ImageModel, about: dict[str, str]):
    """The model as an `onnx.ModelProto` for any batch size, `onnx.checker` clean, with `about` in its metadata."""
    import onnx

    proto = torch.onnx.export(
        model.eval(), _TWO, dynamo=True, dynamic_shapes=_DYNAMIC, opset_version=OPSET, verbose=False,
        input_names=["images"], output_names=["logits", "probabilities", "features"],
    ).model_proto  # fmt: skip
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # they name paths of this machine
    proto.ir_version = IR
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def metadata(run: Run, answers: Answers, found: dict) -> dict[str, str]:
    """What a model says of itself, each value as JSON: class names, recipe, normalisation, `found` as its metrics."""
    recipe = run.recipe.to_dict()
    about = {
        "mnist_fastai": __version__,
        "classes": answers.classes,
        "recipe": recipe | {"data": Path(recipe["data"]).name},  # no path of this machine
        "normalize": NORMALIZE[run.recipe.normalize],
        "metrics": found,
    }
    return {key: json.dumps(value) for key, value in about.items()}


def _learner(run: Run, answers: Answers, folder: Path) -> None:
    write_learner(answers.learner, folder / "learner.pkl")


def _safetensors(run: Run, answers: Answers, folder: Path) -> None:
    for name in RUN_FILES:
        write_bytes(folder / name, (run.path / name).read_bytes())


def _onnx(run: Run, answers: Answers, folder: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as e:
            raise RunError(f"ONNX needs the package {name}, which is not there ({e}); `pip install {name}`") from e
    proto = to_onnx(_image_model(run, answers), metadata(run, answers, run.metrics))
    write_bytes(folder / "model.onnx", proto.SerializeToString(deterministic=True))


def _torch_export(run: Run, answers: Answers, folder: Path) -> None:
    content = io.BytesIO()  # on a full disk, torch's own zip writer would end the process
    about = metadata(run, answers, run.metrics)
    torch.export.save(to_program(_image_model(run, answers)), content, extra_files=about)
    write_bytes(folder / "model.pt2", content.getvalue())


def _image_model(run: Run, answers: Answers) -> ImageModel:
    return ImageModel(answers.learner.model, NORMALIZE[run.recipe.normalize])


WRITERS = {"learner": _learner, "safetensors": _safetensors, "onnx": _onnx, "torch-export": _torch_export}

# --- how it is checked: what a user's script does, and no more ------------------------------------------------------

_PREDICT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
path, images = sys.argv[1], np.load(sys.argv[2])
batches = [images[i : i + 500] for i in range(0, len(images), 500)]
{}
np.save(sys.argv[3], logits)
"""

_LOGITS = {
    # nothing of this package is imported but by the pickle itself
    "learner": """
from fastai.learner import load_learner
from fastcore.basics import noop
learner = load_learner(path)
with learner.no_bar():
    logits = learner.get_preds(dl=learner.dls.test_dl(list(images), bs=500, num_workers=0), act=noop)[0].numpy()
""",
    "safetensors": """
from pathlib import Path
from mnist_fastai import load_run
from mnist_fastai.evaluate import predict_logits
logits = predict_logits(load_run(Path(path).parent))[0].numpy()
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
logits = np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in batches])
""",
    "torch-export": """
import torch
model = torch.export.load(path).module()
with torch.no_grad():
    logits = torch.cat([model(torch.from_numpy(batch))[0] for batch in batches]).numpy()
""",
}


def _run_script(script: str, *args: Path, what: str) -> str:
    """Run it in a fresh process, away from here; what it printed. Raises RunError where it ends badly."""
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, cwd=args[-1].parent, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RunError(f"{what} ({_first_sentence(last[0])}); it was not written")
    return done.stdout


def _first_sentence(text: str) -> str:
    return re.split(r"[.!?]?(?:\s*\n|\s*$)|[.!?]\s", text.strip())[0]


def _predict(format: str, path: Path, answers: Answers, folder: Path, what: str) -> np.ndarray:
    """The logits that a fresh process gets from the file at `path`, float32 [n, classes]."""
    images, logits = folder / "images.npy", folder / "logits.npy"
    _save(images, answers.images)
    _run_script(_PREDICT.format(_LOGITS[format]), path, images, logits, what=f"{what} does not load")
    return np.load(logits)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as tmp, open(tmp, "wb") as f:
        np.save(f, array)


def compare(expected: np.ndarray, found: np.ndarray, classes: tuple[str, ...]) -> tuple[list[int], tuple[Tie, ...]]:
    """The images, as indices, on which the logits [n, classes] predict another class, and the ties, which are not
    among them: the class that is found there has, in `expected`, the largest logit to the precision of float32."""
    ours, theirs = expected.argmax(1), found.argmax(1)
    differ = np.flatnonzero((ours != theirs) | ~np.isfinite(found).all(1))
    margin = expected[differ, ours[differ]] - expected[differ, theirs[differ]]
    tied = (margin <= TIE * np.abs(expected[differ]).max(1)) & np.isfinite(found[differ]).all(1)
    ties = tuple(Tie(int(i), classes[ours[i]], classes[theirs[i]]) for i in differ[tied])
    return differ[~tied].tolist(), ties


# --- export -------------------------------------------------------------------------------------------------------


def find_folder(run: Run, out: str | Path | None) -> Path:
    """The folder to write to, the run's own by default. Raises InputError where it cannot be, or is another run's."""
    out = Path(out) if out is not None else run.path
    check_folder(out)
    is_run = (out / "recipe.json").exists()
    if is_run and any(_content(out / name) != _content(run.path / name) for name in RUN_FILES):
        raise InputError(f"{out} holds another run than {run.path}; choose another --out")
    return out


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def export_model(
    run: Run,
    format: str = "learner",  # a key of FILES
    out: str | Path | None = None,  # folder; the run's own by default
    answers: Answers | None = None,  # of the run, where several formats share them
) -> Exported:
    """Write the run's model in a format, once a fresh process has loaded it and predicted every validation image.

    Each predicted class must equal the Learner's. Raises RunError where one does not, but for a tie, and then leaves
    what was there as it was. safetensors comes with JSON, as a folder that is a run directory itself.
    """
    if format not in FILES:
        raise InputError(f"format {format!r} is not known; take one of {', '.join(FILES)}")
    run.require_finished()
    out = find_folder(run, out)
    answers = answers or Answers(run)
    what = f"the exported {FILES[format]} of {run.path}"
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial"
        trial.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what torch's exporters themselves have deprecated
                WRITERS[format](run, answers, trial)
        except RunError:
            raise
        except RuntimeError as e:  # torch has no narrower one for a model that it cannot export
            raise RunError(f"{what} could not be made ({_first_sentence(str(e))}); it was not written") from e
        found = _predict(format, trial / FILES[format], answers, Path(folder), what)
        wrong, ties = compare(answers.logits, found, answers.classes)
        if wrong:
            raise RunError(f"{what} differs from the run on {len(wrong)} images; it was not written")
        _put(trial, out)
    path = out / FILES[format]
    difference = float(np.abs(found - answers.logits).max())
    return Exported(format, path, path.stat().st_size, len(found), difference, ties)


def _put(trial: Path, out: Path) -> None:
    make_folder(out)
    for file in sorted(trial.iterdir()):  # recipe.json, which makes a run of a folder, is the last
        content = file.read_bytes()
        if content != _content(out / file.name):
            write_bytes(out / file.name, content)


# --- int8 ---------------------------------------------------------------------------------------------------------

_QUANTIZE = """
import sys
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

class Images(CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter({"images": batch} for batch in np.array_split(images, -(-len(images) // 100)))

    def get_next(self):
        return next(self.batches, None)

path, images, prepared, out = sys.argv[1:]
quant_pre_process(path, prepared, skip_symbolic_shape=True)
# the head is less than 1% of the multiplications, and 8 bits are too few for probabilities
last = [node.name for node in onnx.load(prepared).graph.node if {"logits", "probabilities"} & set(node.output)]
quantize_static(
    prepared, out, Images(np.load(images)), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=last,
)
"""

# the files take turns, so that what else the machine does meets each alike
_SPEED = """
import json, sys, time
import numpy as np
import onnxruntime
*paths, images = sys.argv[1:]
batch = np.resize(np.load(images), (500, 28, 28))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
sessions = [onnxruntime.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in paths]
seconds = []
for _ in range(8):
    seconds.append([])
    for session in sessions:
        began = time.perf_counter()
        session.run(["logits"], {"images": batch})
        seconds[-1].append(time.perf_counter() - began)
print(json.dumps((len(batch) / np.median(seconds[1:], 0)).tolist()))
"""


def quantize(run: Run, out: str | Path | None = None, answers: Answers | None = None) -> tuple[Measured, Measured]:
    """Write model-int8.onnx beside the run's exported model.onnx, and measure the two, the float one first.

    Static, with 8-bit weights by channel and 8-bit activations, calibrated on training images of each class alike.
    Raises RunError, and leaves what was there as it was, where the accuracy is more than 0.1 points less.
    """
    out = find_folder(run, out)
    answers = answers or Answers(run)
    normal, what = out / "model.onnx", f"the int8 model of {run.path}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trial = folder / INT8
        images, labels = (t.cpu() for t in answers.learner.dls.train.tensors)
        chosen = torch.cat([(labels == i).nonzero()[:CALIBRATION, 0] for i in range(len(answers.classes))])
        _save(folder / "calibration.npy", images[chosen, 0].numpy())
        args = normal.resolve(), folder / "calibration.npy", folder / "prepared.onnx", trial
        _run_script(_QUANTIZE, *args, what=f"{what} could not be made")
        found = [
            metrics(torch.from_numpy(logits), answers.labels, answers.classes)
            for logits in (_predict("onnx", path.resolve(), answers, folder, what) for path in (normal, trial))
        ]
        before, after = (one["accuracy"] for one in found)
        if before - after > MAX_DROP + 1e-9:  # of a difference of floats
            raise RunError(
                f"{what} has {after:.2%} of the images right where the float one has {before:.2%}, "
                f"more than {100 * MAX_DROP:g} points less; {normal} is kept, and no int8 file was written"
            )
        _describe(trial, metadata(run, answers, run.metrics | found[1] | {"quantized": "int8"}))
        args = normal.resolve(), trial, folder / "images.npy"
        speeds = json.loads(_run_script(_SPEED, *args, what=f"{what} could not be timed"))
        write_bytes(out / INT8, trial.read_bytes())
    paths = normal, out / INT8
    return tuple(
        Measured(path, path.stat().st_size, round(speed), one["accuracy"])
        for path, speed, one in zip(paths, speeds, found, strict=True)
    )


def _describe(path: Path, about: dict[str, str]) -> None:
    import onnx

    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(path, proto.SerializeToString(deterministic=True))
