"""Static int8 quantization of an exported model.onnx."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import MissingData, RunError
from ..evaluation import metrics
from ..files import owned, temporary_folder, write_bytes
from ..run import Run
from .check import Reference, predict, run_child, save_array
from .detector import find_scale
from .formats import find_folder, metadata, serialize

INT8 = "model-int8.onnx"
MAX_DROP = 0.001  # of the accuracy
CALIBRATION = 50  # training images of each class


@dataclass(frozen=True)
class Measured:
    """The accuracy of an ONNX file, and its speed with one thread and batches of 500."""

    path: Path
    bytes: int
    images_per_second: float
    accuracy: float


def quantize(
    run: Run,
    out: str | Path | None = None,  # folder that has the run's exported model.onnx; the run's own by default
    *,
    reference: Reference | None = None,  # of the run
) -> tuple[Measured, Measured]:
    """Write model-int8.onnx beside the run's exported model.onnx, and measure the two, the float one first.

    8-bit weights per channel and 8-bit activations, calibrated on training images of each class alike. Raises
    InputError where the training images are missing, and RunError where the accuracy drops by more than 0.1 points;
    what stood there is then kept.
    """
    import onnx

    out = find_folder(run, out)
    reference = reference or Reference(run)
    try:
        images, labels = reference.learner.dls.train.tensors
    except MissingData as e:
        raise MissingData(f"int8 needs the training images of {run.path}; give them with --data") from e
    chosen = torch.cat([(labels == i).nonzero()[:CALIBRATION, 0] for i in range(len(run.classes))])
    full, what = out / "model.onnx", f"the int8 model of {run.path}"
    with temporary_folder() as folder:
        paths = full.resolve(), folder / INT8
        calibration = save_array(folder / "calibration.npy", images[chosen, 0].numpy())
        args = paths[0], calibration, folder / "prepared.onnx", paths[1]
        run_child("quantize.py", *args, what=f"{what} could not be made")
        logits = [torch.from_numpy(predict("onnx", p, reference, folder, what)) for p in paths]
        both = [metrics(each, reference.labels, run.classes) for each in logits]
        before, after = (m["accuracy"] for m in both)
        if before - after > MAX_DROP + 1e-9:  # the difference of two floats
            raise RunError(
                f"{what} classifies {after:.2%} of the images correctly and the float one {before:.2%}, more than "
                f"{100 * MAX_DROP:g} points less; {full} is kept, and no int8 file was written"
            )
        speeds = run_child("time_onnx.py", *paths, folder / "images.npy", what=f"{what} could not be timed")
        proto = onnx.load(paths[1])
        if reference.calibrated and reference.calibrated.detector:
            _scale_novelty(proto, reference.images)
        properties = metadata(run, run.metrics | both[1] | {"quantized": "int8"}, reference.calibrated)
        with owned(out):
            write_bytes(out / INT8, serialize(proto, properties))
    return tuple(
        Measured(path, path.stat().st_size, round(speed), accuracy)
        for path, speed, accuracy in zip((full, out / INT8), json.loads(speeds), (before, after), strict=True)
    )


def _scale_novelty(proto, images: np.ndarray) -> None:
    """Give an `onnx.ModelProto` whose features were rounded the novelty that `find_scale` has for held-out images."""
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString())
    scores = [session.run(["novelty"], {"images": part})[0] for part in np.array_split(images, -(-len(images) // 500))]
    graph = proto.graph
    for node in graph.node:
        node.output[:] = ["unscaled" if name == "novelty" else name for name in node.output]
    for name, value in zip(("usual", "width"), find_scale(np.concatenate(scores)), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    graph.node.append(onnx.helper.make_node("Sub", ["unscaled", "usual"], ["above"], "above"))
    graph.node.append(onnx.helper.make_node("Div", ["above", "width"], ["novelty"], "novelty"))
