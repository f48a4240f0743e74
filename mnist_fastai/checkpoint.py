"""The state after a whole epoch, in one file, so that it is never half of one and half of another.

Tensors are stored as safetensors and everything else as JSON in its metadata, with a SHA-256 of it all: no pickle is
read, and no damaged file is continued from.
"""

import hashlib
import json
import re
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
from torch import Tensor

from .distributed import unwrapped
from .errors import InputError
from .files import log, read_bytes, write_bytes
from .run import Run, versions

KEPT = 2  # checkpoints: the one before, should the last be damaged
FORMAT = 2
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
        object.__setattr__(cb, key, _unpack(value, tensors))  # fastai warns of names that the Learner has too
    for key, value in packed["states"].items():
        getattr(cb, key).load_state_dict(_unpack(value, tensors))


# --- the file ---------------------------------------------------------------------------------------------------------


def save_checkpoint(run: Run, learner: Learner, cbs: list[Callback], facts: dict) -> None:
    """Write weights, optimizer, the callbacks' state and the `facts` as JSON. Raises RunError on a full disk."""
    model = unwrapped(learner.model)
    tensors = {f"model.{k}": v for k, v in weights_of(model).items()}
    # gradients that are accumulated over more than an epoch; else there are none after a step
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    tensors |= {f"grad.{k}": _copy(grad) for k, grad in grads.items()}
    try:
        optimizer = _pack(dict(learner.opt.state_dict()), tensors, "optimizer")
    except _Unstorable:
        optimizer = None
    content = {
        "format": FORMAT,
        "recipe": run.recipe.to_dict(),
        "facts": run.facts,
        "versions": versions(),
        **facts,
        "optimizer": optimizer,
        "callbacks": [_pack_callback(cb, tensors, f"callback.{i}") for i, cb in enumerate(cbs)],
    }
    metadata = {"content": json.dumps(content)}
    metadata["sha256"] = _digest(metadata["content"], tensors)
    epoch = len(facts["history"])
    write_bytes(run.path / f"checkpoint-{epoch}.safetensors", safetensors.torch.save(tensors, metadata=metadata))
    for path in find_checkpoints(run.path)[KEPT:]:
        path.unlink(missing_ok=True)


def _digest(content: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def find_checkpoints(folder: Path) -> list[Path]:
    """Those of a run directory, the last epoch's first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)\.safetensors", path.name), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(m[1]), path) for m, path in found if m), reverse=True)]


def load_checkpoint(run: Run) -> "Checkpoint | None":
    """That of the last epoch which is whole, or None before the first.

    Raises InputError where all are damaged, and where the recipe or run.json has been changed since.
    """
    paths = find_checkpoints(run.path)
    for path in paths:
        try:
            checkpoint = Checkpoint(path)
        except InputError as e:
            log.warning("%s", e)
            continue
        checkpoint.check_run(run)
        return checkpoint
    if paths:
        raise InputError(f"every checkpoint of {run.path} is damaged; remove them to train the run from its start")
    return None


class Checkpoint:
    """A checkpoint that was read. Raises InputError where it is damaged."""

    def __init__(self, path: Path):
        self.path = path
        try:
            content = read_bytes(path)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            metadata = header["__metadata__"]
            self.tensors = safetensors.torch.load(content)
            if metadata["sha256"] != _digest(metadata["content"], self.tensors):
                raise ValueError("its SHA-256 differs")
            self.content = json.loads(metadata["content"])
            self.history: list[dict] = self.content["history"]
        except Exception as e:  # whatever the damaged bytes lead safetensors and torch to
            raise InputError(f"{path} is damaged; the one before it is used, if there is one") from e

    def check_run(self, run: Run) -> None:
        """Raise InputError where the run is not that of the epochs so far, and say which versions are others."""
        then = {"recipe.json": self.content["recipe"], "run.json": self.content["facts"]}
        now = {"recipe.json": run.recipe.to_dict(), "run.json": run.facts}
        for name in now:
            if changed := [key for key in {**then[name], **now[name]} if then[name].get(key) != now[name].get(key)]:
                before, after = (values[name].get(changed[0], "nothing") for values in (then, now))
                raise InputError(
                    f"{run.path / name} has {changed[0]} {after!r}, and the {len(self.history)} epochs so far were "
                    f"trained with {before!r}; restore it, or train a new run"
                )
        before, after = self.content["versions"], versions()
        for key in (key for key in after if before.get(key) != after[key]):
            log.warning(
                "%s was trained with %s %s so far, and goes on with %s", run.path, key, before.get(key), after[key]
            )

    def restore_weights(self, learner: Learner) -> None:
        weights = {k.removeprefix("model."): v for k, v in self.tensors.items() if k.startswith("model.")}
        try:
            learner.model.load_state_dict(weights)
        except RuntimeError as e:
            raise self._foreign() from e

    def _foreign(self) -> InputError:
        return InputError(f"{self.path} does not fit the model, optimizer or callbacks of this call; pass the same")

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
            raise e if isinstance(e, InputError) else self._foreign() from e
        state = vars(learner.opt).get("opt", learner.opt).state
        # in the parameter's own memory format, as the optimizer makes it
        for name, p in unwrapped(learner.model).named_parameters():
            for key, value in state.get(p, {}).items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[p][key] = torch.empty_like(p).copy_(value)
            if f"grad.{name}" in self.tensors:
                p.grad = torch.empty_like(p).copy_(self.tensors[f"grad.{name}"])
