"""One forward pass over a split, and the metrics that come from it."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from torch import Tensor

from .errors import InputError


class Forward(NamedTuple):
    """The results of a forward pass, on the CPU, one row per image in the order of the DataLoader."""

    logits: Tensor  # float32 [n, classes]
    labels: Tensor  # int64 [n]
    features: np.ndarray | None  # float32 [n, d]: the output of the layer that was asked for, flattened


@torch.no_grad()
def forward(learner: Learner, dl: TfmdDL | None = None, layer: str | None = None) -> Forward:
    """Run the model once over `dl`, `learner.dls.valid` by default, in evaluation mode.

    `layer` is a name of torch's `named_modules`: of the package's architectures, "0" is the body, "0.3" a layer in it,
    and "1" the head. Raises InputError for an unknown layer, and for one that does not give one row per image.
    """
    layers = dict(learner.model.named_modules())
    layers.pop("")  # the whole model
    if layer is not None and layer not in layers:
        raise InputError(f"layer {layer!r} is not known; take one of {', '.join(layers)}")
    outputs, batches = [], []

    def hook(_module, _inputs, output) -> None:  # the next layer may write in place
        outputs.append(output.to("cpu", torch.float32, copy=True) if isinstance(output, Tensor) else output)

    modes = [(module, module.training) for module in learner.model.modules()]
    handle = layers[layer].register_forward_hook(hook) if layer else None
    learner.model.eval()
    try:
        for xb, yb in learner.dls.valid if dl is None else dl:
            logits = learner.model(xb.as_subclass(Tensor)).float().cpu()
            features = [x.reshape(len(x), -1) for x in outputs if isinstance(x, Tensor) and x.shape[:1] == xb.shape[:1]]
            if layer and not len(outputs) == len(features) == 1:
                raise InputError(f"layer {layer!r} does not give one row per image; take one of {', '.join(layers)}")
            outputs.clear()
            batches.append((logits, yb.as_subclass(Tensor).cpu(), *features))
    finally:
        if handle:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    logits, labels, *features = map(torch.cat, zip(*batches, strict=True))
    return Forward(logits, labels, features[0].numpy() if layer else None)


def metrics(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict:
    """Accuracy and error rate in [0, 1] and the mean cross-entropy in nats, over all images and per class.

    A class without images has None for each.
    """
    correct = logits.argmax(1) == labels
    losses = F.cross_entropy(logits.double(), labels, reduction="none")

    def over(chosen: Tensor) -> dict:
        if not chosen.any():
            return {"images": 0, "accuracy": None, "error_rate": None, "valid_loss": None}
        n, right, loss = int(chosen.sum()), int(correct[chosen].sum()), losses[chosen].mean().item()
        return {"images": n, "accuracy": right / n, "error_rate": (n - right) / n, "valid_loss": loss}

    total = over(torch.ones_like(correct))
    return total | {"per_class": {name: over(labels == i) for i, name in enumerate(classes)}}
