"""What a layer makes of every image of a split, taken by a forward hook."""

import numpy as np
import torch
from fastai.callback.hook import Hook
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from torch import Tensor

from .errors import InputError

BODY = "0"  # the architectures are nn.Sequential(body, head): its output is what the head sees


@torch.no_grad()
def extract(learner: Learner, dl: TfmdDL, layer: str = BODY) -> np.ndarray:
    """The output of a layer, float32 [n, features], for each image of `dl` in its order, in evaluation mode.

    `layer` is a name of torch's `named_modules`: "0" is the body, "0.3" a layer in it, "1" the head. What it gives of
    an image is made flat. Nothing but the result is kept of a batch. Raises InputError where there is no such layer.
    """
    layers = dict(learner.model.named_modules())
    layers.pop("")  # the whole model
    if layer not in layers:
        raise InputError(f"layer {layer!r} is not known; take one of {', '.join(layers)}")
    found, done = None, 0

    def keep(_module, _inputs, output: Tensor) -> None:
        nonlocal found, done
        batch = output.flatten(1).cpu().numpy()
        if found is None:
            found = np.empty((len(dl.dataset), batch.shape[1]), np.float32)
        found[done : done + len(batch)] = batch  # a copy, since the next layer may write in place
        done += len(batch)

    learner.model.eval()
    with Hook(layers[layer], keep):
        for xb, *_ in dl:
            learner.model(xb.as_subclass(Tensor))
    return found
