"""A run → a page on which a person draws a digit and sees the network work.

The page computes in plain JavaScript what is taken apart here: a chain of layers with rounded weights, the detector of
what is no digit, and a map of training images. The rounded network is compared with the Learner before the page is
written.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from rich.console import Console
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..callbacks import say
from ..dataloader import EVAL_BATCH, dataloaders
from ..datasets import Data, Split
from ..embedding import DIMENSIONS, embed
from ..errors import InputError, RunError
from ..evaluation import Forward, forward
from ..files import check_folder
from ..learner import read_data
from ..maps import choose
from ..models import MaxAndMean
from ..pages.draw import write_page
from ..reader.form import JOIN
from ..reader.image import SIZE
from ..reader.session import LOW_CONFIDENCE
from ..run import Run
from .check import DataSource, Reference, compare
from .detector import Detector

WEIGHTS = "int8", "float16"  # the first that changes no class is taken
SAMPLES = 500, 2000  # training images on the map, the least and the most, so that the page has less than BYTES
BYTES = 1_000_000
SCRIPTS = 130_000  # bytes of the page beside its arrays, and of the axes of the features
SAMPLE = 200  # bytes of an image on the map with its features
MISCLASSIFIED = 40  # test images to mend, at most
SKIPPED = nn.Dropout, nn.Dropout2d, nn.Identity  # which do nothing in evaluation
LAYERS = (
    nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten,
    MaxAndMean, *SKIPPED,
)  # fmt: skip
FUNCTIONS = {  # what a `forward` may call in place of a layer
    F.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.flatten: nn.Flatten, "flatten": nn.Flatten,
    F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A page whose network predicts what the run's does."""

    path: Path
    bytes: int
    weights: str  # one of WEIGHTS
    split: str  # the images that were compared: "test", or "held out" where there are no test images
    images: int  # their number
    novelty: bool  # whether the page says that something is no digit


def draw(
    run: Run,
    out: str | Path,  # a file
    *,
    collect: bool = False,  # what is drawn can be labelled and downloaded
    data: DataSource | None = None,  # as `load_run` takes it, and so the next
    allow_import: bool = False,
    console: Console | None = None,
) -> Drawn:
    """Write the page of a run's network, once the network in it gives each test image the Learner's class.

    Raises InputError where the run or its data cannot be used, and for a network of other layers than LAYERS, and
    RunError where a class differs; what stood at `out` is then kept.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file with --out, such as draw.html")
    check_folder(out.parent)
    run.require_finished()
    source = data if isinstance(data, Data) else read_data(run, data)
    name, images = source.evaluated
    reference = Reference(run, data=source, allow_import=allow_import)
    learner = reference.learner
    layers = fuse(flatten(learner.model.eval()))
    say(console, f"{run.path}: comparing the page's network with the Learner on {len(images):,} {name} images")
    expected = forward(learner, dataloaders(replace(source, valid=images), normalize=run.normalize).valid)
    for weights in WEIGHTS:
        network = nn.Sequential(*(rounded(layer, weights) for layer in layers))
        wrong, _ = compare(expected.logits.numpy(), outputs(network, images, run).numpy())
        if not wrong:
            break
    else:
        raise RunError(f"the page's network gives {wrong} images another class than {run.path}; it was not written")
    calibrated = reference.calibrated
    mean, std = run.normalize or (0.0, 1.0)
    contents: dict = {
        "classes": list(run.classes),
        "layers": [describe(layer, weights) for layer in layers],
        "mean": mean,
        "std": std,
        "temperature": calibrated.temperature if calibrated else 1.0,
        "lowConfidence": calibrated.low_confidence if calibrated else LOW_CONFIDENCE,
        "detector": None,
        "join": JOIN.tolist(),
        "misclassified": find_misclassified(expected, images),
        "collect": collect,
    }
    if calibrated and calibrated.detector:
        taps = find_taps(learner.model[0], last_linear(network))
        contents["detector"] = {"taps": taps, **describe_detector(calibrated.detector)}
    room = BYTES - SCRIPTS - 4 / 3 * sum(array.nbytes for array in find_arrays(contents))
    n = min(int(np.clip(room / SAMPLE, *SAMPLES)), len(source.train))
    sample = source.train[choose(source.train.labels.numpy(), n, seed=0)]
    say(console, f"mapping {n:,} training images")
    contents["sample"] = describe_sample(outputs(network[: last_linear(network)], sample, run).numpy(), sample)
    correct = float((expected.logits.argmax(1) == expected.labels).float().mean())
    parameters = sum(p.numel() for p in learner.model.parameters())
    facts = f"{run.recipe.name}: {parameters:,} parameters, {correct:.2%} of {len(images):,} {name} images right"
    write_page(out, contents, sample.images.numpy(), facts)
    return Drawn(out, out.stat().st_size, weights, name, len(images), contents["detector"] is not None)


# --- the network ------------------------------------------------------------------------------------------------------


def flatten(module: nn.Module) -> list[nn.Module]:
    """The layers of a chain of modules, in order. Raises InputError where it is no chain, or has others than LAYERS."""
    if type(module) in LAYERS:
        return [module]
    if type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in flatten(child)]
    if type(module).__module__.startswith("torch.nn."):
        raise _unfit(type(module).__name__)
    try:
        graph = torch.fx.symbolic_trace(module).graph
    except Exception as e:  # tracing runs the user's code, which may raise anything
        raise _unfit(type(module).__name__) from e
    layers: list[nn.Module] = []
    previous: list = []
    for node in graph.nodes:
        if node.all_input_nodes != previous:
            raise _unfit(f"{type(module).__name__}, which is no chain of layers")
        previous = [node]
        if node.op == "call_module":
            layers += flatten(module.get_submodule(node.target))
        elif node.op.startswith("call"):
            try:
                layers.append(FUNCTIONS[node.target](*node.args[1:], **node.kwargs))
            except (KeyError, TypeError) as e:
                raise _unfit(getattr(node.target, "__name__", str(node.target))) from e
    return layers


def _unfit(what: str) -> InputError:
    names = ", ".join(layer.__name__ for layer in LAYERS)
    return InputError(f"the page cannot compute {what}; give a run whose layers are of {names}")


def fuse(layers: list[nn.Module]) -> nn.Sequential:
    """The layers that the page computes: batch norm folded into the layer before it, or into
    one that changes nothing else, and what does nothing left out.

    Raises InputError where a layer has settings that the page lacks.
    """
    out: list[nn.Module] = []
    x = torch.zeros(1, 1, SIZE, SIZE)
    for layer in layers:
        before = out[-1] if out else None
        if not _fits(layer, x):
            raise _unfit(f"{layer} at this place")
        if isinstance(layer, nn.BatchNorm2d):
            conv = out.pop() if isinstance(before, nn.Conv2d) else _pointwise(layer.num_features)
            out.append(fuse_conv_bn_eval(conv, layer))
        elif isinstance(layer, nn.BatchNorm1d):
            linear = out.pop() if isinstance(before, nn.Linear) else _identity(layer.num_features)
            out.append(fuse_linear_bn_eval(linear, layer))
        elif not isinstance(layer, SKIPPED):
            out.append(layer)
        with torch.no_grad():
            x = layer(x)
    return nn.Sequential(*out)


def _pointwise(channels: int) -> nn.Conv2d:
    """A convolution that changes nothing, to fold into it a batch norm that follows no convolution."""
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv.eval()


def _identity(features: int) -> nn.Linear:
    linear = nn.Linear(features, features, bias=False)
    nn.init.eye_(linear.weight)
    return linear.eval()


def _fits(layer: nn.Module, x: Tensor) -> bool:
    match layer:
        case nn.Conv2d():
            return (
                layer.groups == 1
                and layer.dilation == (1, 1)
                and layer.padding_mode == "zeros"
                and (not isinstance(layer.padding, str))
            )
        case nn.Linear():
            return x.dim() == 2
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return layer.track_running_stats
        case nn.MaxPool2d():
            simple = not layer.ceil_mode and not layer.return_indices
            return simple and _pair(layer.padding) == (0, 0) and _pair(layer.dilation) == (1, 1)
        case nn.AvgPool2d():
            return not layer.ceil_mode and _pair(layer.padding) == (0, 0) and layer.divisor_override is None
        case nn.Flatten():
            return (layer.start_dim, layer.end_dim) == (1, -1)
    return True


def _pair(value) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def last_linear(network: nn.Sequential) -> int:
    """The index of the layer whose input is the features: the last Linear; the number of layers where there is none."""
    return max((i for i, layer in enumerate(network) if isinstance(layer, nn.Linear)), default=len(network))


def scaled(values: Tensor, axis: int, format: str) -> tuple[Tensor, Tensor]:
    """Values as int8 or float16, and what to multiply them with, float32, one number per index of an axis."""
    others = [i for i in range(values.dim()) if i != axis]
    scale = values.abs().amax(others, keepdim=True).clamp(min=1e-30)
    if format == "int8":
        scale = scale / 127
        return (values / scale).round().to(torch.int8), scale
    return (values / scale).half(), scale


def rounded(layer: nn.Module, format: str) -> nn.Module:
    """The layer with its weights as `scaled` makes them."""
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        return layer
    layer = deepcopy(layer)
    stored, scale = scaled(layer.weight.data, 0, format)
    layer.weight.data = stored.float() * scale
    return layer


@torch.no_grad()
def outputs(network: nn.Module, images: Split, run: Run) -> Tensor:
    """What a network makes of images, float32 [n, d]."""
    mean, std = run.normalize or (0.0, 1.0)
    batches = images.images[:, None].split(EVAL_BATCH)
    return torch.cat([network((x.float() / 255 - mean) / std).flatten(1) for x in batches])


# --- what the page is given -------------------------------------------------------------------------------------------


def describe(layer: nn.Module, format: str) -> dict:
    """A layer as the page computes it: maps are [h, w, channels], weights [kernel h, kernel w, inputs, outputs]."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        stored, scale = scaled(layer.weight.data, 0, format)
        bias = layer.bias.data if layer.bias is not None else torch.zeros(len(scale))
        weights = {
            "weight": (stored.permute(2, 3, 1, 0) if stored.dim() == 4 else stored.T).numpy(),
            "scale": scale.flatten().numpy(),
            "bias": bias.numpy(),
        }
        if isinstance(layer, nn.Linear):
            return {"kind": "linear", **weights}
        return {"kind": "conv", **weights, "stride": layer.stride, "padding": layer.padding}
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        kind = "max" if isinstance(layer, nn.MaxPool2d) else "average"
        return {"kind": kind, "size": _pair(layer.kernel_size), "stride": _pair(layer.stride)}
    return {"kind": type(layer).__name__.lower()}


def find_arrays(value) -> list[np.ndarray]:
    """The arrays in dicts and lists."""
    if isinstance(value, np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [array for part in parts for array in find_arrays(part)]


def find_taps(body: nn.Module, features: int) -> list[dict]:
    """Which layers of the page give what `detector.Taps` takes of a body, whose output is layer `features` - 1."""
    if not isinstance(body, nn.Sequential):
        return [{"layer": features - 1, "mean": False}]
    taps, last, x = [], -1, torch.zeros(1, 1, SIZE, SIZE)
    for i, child in enumerate(body):
        index = len(fuse(flatten(body[: i + 1]))) - 1
        with torch.no_grad():
            before, x = x, child(x)
        if x.shape != before.shape or any(True for _ in child.parameters()):
            last = index
        elif x.dim() == 4:
            taps.append({"layer": index, "mean": True})
    return [*taps, {"layer": last, "mean": False}]


def describe_detector(detector: Detector) -> dict:
    """Its arrays, large ones as float16; those that whiten are lower triangles."""
    axes, axes_scale = scaled(detector.axes, 0, "float16")
    whiten, whiten_scale = scaled(detector.whiten, 0, "float16")
    rows, columns = np.tril_indices(whiten.shape[1])
    return {
        "mean": detector.mean.numpy(),
        "axes": axes.numpy(),  # [e, k]
        "axesScale": axes_scale.flatten().numpy(),
        "whiten": whiten.numpy()[:, rows, columns],  # [classes, k (k + 1) / 2]
        "whitenScale": whiten_scale.flatten().numpy(),
        "centres": detector.centres.numpy(),  # [classes, k]
        "offsets": detector.offsets.numpy(),
        "scale": detector.scale.numpy(),
    }


def describe_sample(features: np.ndarray, sample: Split) -> dict:
    """Where training images lie: on a map, by t-SNE, and among each other, by PCA of their features [n, d]."""
    positions = embed(features).positions
    span = np.ptp(positions, axis=0).max() or 1
    pca = PCA(min(DIMENSIONS, *features.shape), random_state=0).fit(features)
    stored, scale = scaled(torch.from_numpy(pca.transform(features))[None], 0, "int8")
    return {
        "labels": sample.labels.numpy().astype(np.uint16),
        "positions": np.rint((positions / span + 0.5) * 65535).astype(np.uint16),  # of a square
        "mean": pca.mean_.astype(np.float32),
        "axes": pca.components_.T.astype(np.float16),  # [d, k]
        "features": stored[0].numpy(),  # [n, k]
        "scale": float(scale),
    }


def find_misclassified(expected: Forward, images: Split) -> dict:
    """The images that the run gets wrong, those first of which it is surest."""
    confidence, predictions = expected.logits.softmax(1).max(1)
    wrong = (predictions != expected.labels).nonzero()[:, 0]
    index = wrong[(-confidence[wrong]).argsort(stable=True)][:MISCLASSIFIED]
    return {
        "index": index.tolist(),
        "images": images.images[index].numpy(),
        "labels": expected.labels[index].tolist(),
        "predictions": predictions[index].tolist(),
    }
