"""The state after a whole epoch, in one file, so that it is never half of one and half of another.

Tensors are stored as safetensors and everything else as JSON in its metadata: no pickle is read.
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastcore.foundation import L
from safetensors import SafetensorError
from torch import Tensor

from .errors import InputError
from .files import write_bytes

CHECKPOINT = "checkpoint.safetensors"
FORMAT = 1
SETTINGS = Path, torch.device, torch.dtype, torch.distributions.Distribution, DataLoader, DataLoaders


class _Unstorable(Exception):
    """A value that neither a tensor nor JSON can hold."""


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A contiguous copy of the model's weights on the CPU, by name: shared memory is stored once for each name."""
    return {k: _copy(v) for k, v in model.state_dict().items()}


def _copy(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype).copy_(t.detach())


def _pack(value, tensors: dict[str, Tensor], name: str):
    """The value as JSON in which the tensors are names; they are added to `tensors`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        numpy = not isinstance(value, Tensor)
        if numpy and np.asarray(value).dtype.kind not in "biuf":
            raise _Unstorable
        tensors[name] = _copy(torch.as_tensor(np.asarray(value)) if numpy else value)
        return {"array" if numpy else "tensor": name}
    if type(value) in (list, tuple, L):
        return {type(value).__name__: [_pack(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]}
    if type(value) in (dict, OrderedDict):
        items = enumerate(value.items())
        return {"dict": [[_pack(k, {}, ""), _pack(v, tensors, f"{name}.{i}")] for i, (k, v) in items]}
    raise _Unstorable


def _unpack(value, tensors: dict[str, Tensor]):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("tensor", "array"):
        return tensors[content] if kind == "tensor" else tensors[content].numpy()
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    return {"list": list, "tuple": tuple, "L": L}[kind](_unpack(v, tensors) for v in content)


# --- callbacks --------------------------------------------------------------------------------------------------------


def _pack_callback(cb: Callback, tensors: dict[str, Tensor], name: str) -> dict:
    """What a callback knows: its attributes, and those that have a state_dict by that. `lost` names what is neither.

    Functions, types and SETTINGS are no state, nor is what can be closed, since `before_fit` opens it anew.
    """
    values, states, lost = {}, {}, []
    for key, value in vars(cb).items():
        if key == "learn" or value is cb.learn:
            continue
        where = f"{name}.{key}"
        try:
            if hasattr(type(value), "state_dict") and hasattr(type(value), "load_state_dict"):
                states[key] = _pack(dict(value.state_dict()), tensors, where)
            else:
                values[key] = _pack(value, tensors, where)
        except _Unstorable:
            if not _is_setting(value):
                lost.append(key)
    return {"values": values, "states": states, "lost": lost}


def _is_setting(value) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return all(map(_is_setting, value.values() if isinstance(value, dict) else value))
    return callable(value) or isinstance(value, SETTINGS) or hasattr(value, "close")


def _unpack_callback(cb: Callback, packed: dict, tensors: dict[str, Tensor]) -> None:
    if packed["lost"]:
        raise InputError(
            f"the callback {cb!r} has state that a checkpoint cannot hold ({', '.join(packed['lost'])}), so that the "
            "run cannot be resumed; train anew, or give that attribute a state_dict and load_state_dict"
        )
    for key, value in packed["values"].items():
        setattr(cb, key, _unpack(value, tensors))
    for key, value in packed["states"].items():
        getattr(cb, key).load_state_dict(_unpack(value, tensors))


# --- the file ---------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, learner: Learner, cbs: list[Callback], facts: dict) -> None:
    """Write weights, optimizer, the callbacks' state and the `facts` as JSON. Raises RunError on a full disk."""
    tensors = {f"model.{k}": v for k, v in weights_of(learner.model).items()}
    # gradients that are accumulated over more than an epoch; else there are none after a step
    grads = {k: p.grad for k, p in learner.model.named_parameters() if p.grad is not None}
    tensors |= {f"grad.{k}": _copy(grad) for k, grad in grads.items()}
    try:
        optimizer = _pack(dict(learner.opt.state_dict()), tensors, "optimizer")
    except _Unstorable:
        optimizer = None
    content = {
        "format": FORMAT,
        **facts,
        "optimizer": optimizer,
        "callbacks": [_pack_callback(cb, tensors, f"callback.{i}") for i, cb in enumerate(cbs)],
    }
    write_bytes(path / CHECKPOINT, safetensors.torch.save(tensors, metadata={"content": json.dumps(content)}))


class Checkpoint:
    """A checkpoint that was read. Raises InputError where it is damaged."""

    def __init__(self, path: Path):
        self.path = path / CHECKPOINT
        try:
            with safetensors.safe_open(self.path, "pt") as f:
                self.content = json.loads((f.metadata() or {})["content"])
                self.tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  it is no dict
            self.history: list[dict] = self.content["history"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as e:
            raise self._damaged() from e

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} is damaged or of another recipe; remove it to train the run from its start")

    def restore_weights(self, learner: Learner) -> None:
        weights = {k.removeprefix("model."): v for k, v in self.tensors.items() if k.startswith("model.")}
        try:
            learner.model.load_state_dict(weights)
        except RuntimeError as e:
            raise self._damaged() from e

    def restore_training(self, learner: Learner, cbs: list[Callback]) -> None:
        """Put back the optimizer's and the callbacks' state, once `before_fit` has set them up."""
        if self.content["optimizer"] is None:
            raise InputError(f"the optimizer of {self.path.parent} has state that a checkpoint cannot hold; train anew")
        if len(self.content["callbacks"]) != len(cbs):
            before = len(self.content["callbacks"])
            raise InputError(f"{self.path.parent} was trained with {before} callbacks; give the same, not {len(cbs)}")
        try:
            learner.opt.load_state_dict(_unpack(self.content["optimizer"], self.tensors))
            for cb, packed in zip(cbs, self.content["callbacks"], strict=True):
                _unpack_callback(cb, packed, self.tensors)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as e:
            raise e if isinstance(e, InputError) else self._damaged() from e
        state = vars(learner.opt).get("opt", learner.opt).state
        for (
            name,
            p,
        ) in learner.model.named_parameters():  # in the parameter's own memory format, as the optimizer makes it
            for key, value in state.get(p, {}).items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[p][key] = torch.empty_like(p).copy_(value)
            if f"grad.{name}" in self.tensors:
                p.grad = torch.empty_like(p).copy_(self.tensors[f"grad.{name}"])
