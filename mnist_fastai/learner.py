"""From a recipe, or a run, to a fastai Learner."""

import contextlib
import inspect
import io
import os
import pickle
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from fastai.callback.core import Callback, CancelEpochException, _inner_loop
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Recorder
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, error_rate
from fastai.optimizer import OptimWrapper
from fastai.torch_core import num_distrib
from safetensors import SafetensorError
from torch import Tensor, nn

from .dataloader import LazyDataLoaders, TensorDL, dataloaders, empty_dataloaders
from .datasets import Data, load_data
from .errors import InputError, MissingData
from .files import write_bytes
from .models import ARCHS, Ensemble
from .recipes import PASSED, Recipe
from .resolve import is_importable, resolve
from .run import Run

# --- optimizers, schedules, loss --------------------------------------------------------------------------------------


def adam(params, lr: float, weight_decay: float = 0) -> OptimWrapper:
    """PyTorch's Adam (Kingma & Ba 2014) as a fastai `opt_func`; fastai's own differs in beta2, eps and weight decay."""
    return OptimWrapper(params, torch.optim.Adam, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)


def sgd(params, lr: float, momentum: float = 0.9, weight_decay: float = 0, nesterov: bool = False) -> OptimWrapper:
    """PyTorch's SGD with momentum as a fastai `opt_func`."""
    hypers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return OptimWrapper(params, torch.optim.SGD, fused=True, **hypers)


def find_opt_func(recipe: Recipe, opt_func: Callable | None = None) -> Callable:
    """The recipe's optimizer, or one of the user's own, as a fastai `opt_func`, with PyTorch's semantics.

    The user's own is a fastai `opt_func` or a class of torch.optim. It is given the learning rate, and the recipe's
    weight decay unless that is 0; momentum is its own.
    """
    if opt_func is None and ":" in recipe.opt:
        opt_func = resolve("opt", recipe.opt)
    if opt_func is not None:
        if not callable(opt_func):
            raise InputError(f"opt_func {opt_func!r} is neither a fastai opt_func nor a class of torch.optim")
        made = opt_func.func if isinstance(opt_func, partial) else opt_func
        if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
            if issubclass(made, torch.optim.LBFGS):
                raise InputError(
                    "LBFGS computes the loss several times a step, which fastai's loop does not; take another"
                )
            opt_func = partial(OptimWrapper, opt=opt_func)
        # fastai's own call it `wd`
        decay = "wd" if "wd" in inspect.signature(opt_func).parameters else "weight_decay"
        return partial(opt_func, **{decay: recipe.weight_decay}) if recipe.weight_decay else opt_func
    if recipe.opt == "adam":
        return partial(adam, weight_decay=recipe.weight_decay)
    nesterov = recipe.opt == "nesterov"
    return partial(sgd, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


def find_schedule(recipe: Recipe) -> ParamScheduler | None:
    """The callback that changes the learning rate from batch to batch, where the recipe has it change.

    One-cycle (Smith & Topin 2018) is that of fastai's `fit_one_cycle`, but for the momentum, which stays the recipe's.
    """
    if recipe.schedule == "constant":
        return None
    lr = recipe.learning_rate
    return ParamScheduler({"lr": combined_cos(0.25, lr / 25, lr, lr / 1e5)})


class CrossEntropyLoss(CrossEntropyLossFlat):
    """`CrossEntropyLossFlat` that takes logits [n, classes] and labels [n] as they are.

    fastai makes the logits a TensorBase, and each operation on the loss then goes through Python: 0.4 ms of a step
    (benchmarks/step.md).
    """

    def __call__(self, inp: Tensor, targ: Tensor, **kwargs) -> Tensor:
        return self.func(inp, targ, **kwargs)


# --- the Learner ------------------------------------------------------------------------------------------------------


class LeanRecorder(Recorder):
    """A `Recorder` that takes the learning rate alone at each batch, where fastai makes lists of all values.

    In one process on a CPU it smooths the loss itself, without the general way to average, gather and move it.
    """

    name = "recorder"

    def before_train(self):
        super().before_train()
        self.alone = not num_distrib()

    def after_batch(self):
        learn, loss, smooth = self.learn, self.learn.loss, self.smooth_loss
        if not learn.training or self.train_metrics or not learn.yb or not isinstance(learn.opt, OptimWrapper):
            return super().after_batch()
        if self.alone and loss.is_cpu and not loss.ndim:
            smooth.count += 1
            smooth.val = torch.lerp(loss.detach(), smooth.val, smooth.beta)
        else:
            smooth.accumulate(learn)
        self.lrs.append(learn.opt.opt.param_groups[-1]["lr"])
        learn.smooth_loss = smooth.value
        self.losses.append(learn.smooth_loss)
        return None


class LeanLearner(Learner):
    """A `Learner` that, within a batch, calls only the callbacks that handle the event.

    fastai asks every callback at each of a batch's eight events, which costs 0.3 ms: a tenth of a LeNet step
    (benchmarks/step.md). A batch that is on the device already is not sent there. Epochs before `first_epoch` are left
    out, and no callback hears of them: fastai's own `start_epoch` calls `after_epoch` for each.
    """

    first_epoch = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.remove_cb(self.recorder)
        self.add_cb(LeanRecorder())

    def _set_device(self, b):
        here = isinstance(self.dl, TensorDL) and self.dl.device == next(self.model.parameters()).device
        return b if here else super()._set_device(b)

    def add_cb(self, cb):
        self._handlers = {}
        return super().add_cb(cb)

    def remove_cb(self, cb):
        self._handlers = {}
        return super().remove_cb(cb)

    def __call__(self, event_name):
        if event_name in ("before_epoch", "after_cancel_epoch", "after_epoch") and self.epoch < self.first_epoch:
            if event_name == "before_epoch":
                raise CancelEpochException
            return None
        if event_name not in _inner_loop:
            return super().__call__(event_name)
        handlers = self._handlers.get(event_name)
        if handlers is None:
            handlers = self._handlers[event_name] = [cb for cb in self.cbs.sorted("order") if handles(cb, event_name)]
        for cb in handlers:
            cb(event_name)
        return None


def handles(cb: Callback, event_name: str) -> bool:
    own_call = type(cb).__call__ is not Callback.__call__
    return own_call or hasattr(type(cb), event_name) or event_name in vars(cb)


def make_learner(
    recipe: Recipe,
    dls: DataLoaders,
    *,
    model: nn.Module | Callable[[int], nn.Module] | None = None,  # or what makes one for so many classes
    opt_func: Callable | None = None,  # a fastai opt_func, or a class of torch.optim
    loss_func: Callable | None = None,  # (logits, labels) → a scalar
    cbs: Iterable[Callback] = (),
    metrics: Iterable | None = None,  # fastai's, or functions of (logits, labels); accuracy and error rate by default
) -> Learner:
    """A fastai Learner for the recipe, its random weights by the recipe's seed, on the DataLoaders' device.

    What is given replaces what the recipe names. Raises InputError where the model does not take images
    [n, 1, 28, 28] to logits [n, classes].
    """
    seed_everything(recipe.seed, 0)
    classes = len(dls.vocab)
    net, own = _build(recipe, classes, model)
    if recipe.init == "xavier":
        net.apply(_init_xavier)
    # without channels_last, a step of `deep` takes 17% longer on a CPU (benchmarks/step.md); a user's own model may
    # call `view`, which then fails
    net = net.to(dls.device) if own else net.to(dls.device, memory_format=torch.channels_last)
    if own:
        _check_output(net, classes, dls.device)
    return LeanLearner(
        dls,
        net,
        loss_func=loss_func or CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        opt_func=find_opt_func(recipe, opt_func),
        lr=recipe.learning_rate,
        cbs=list(cbs),
        metrics=[accuracy, error_rate] if metrics is None else list(metrics),
    )


def _build(recipe: Recipe, classes: int, model) -> tuple[nn.Module, bool]:
    """The model on the CPU, and whether it is the user's own."""
    if model is None and recipe.arch in ARCHS:
        return ARCHS[recipe.arch](classes), False
    make = resolve("arch", recipe.arch) if model is None else model
    if isinstance(make, nn.Module):
        return make, True
    try:
        net = make(classes)
    except Exception as e:  # whatever the user's code raises
        what = getattr(make, "__name__", repr(make))
        raise InputError(f"{what}({classes}), the model for {classes} classes, failed ({type(e).__name__}: {e})") from e
    if not isinstance(net, nn.Module):
        raise InputError(f"{make!r} makes a {type(net).__name__} for {classes} classes; give a torch.nn.Module")
    return net, True


def _check_output(model: nn.Module, classes: int, device: torch.device) -> None:
    training = model.training
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, 1, 28, 28, device=device)).shape)
    except Exception as e:  # whatever the user's code raises
        raise InputError(f"the model does not take images [n, 1, 28, 28] ({type(e).__name__}: {e})") from e
    finally:
        model.train(training)
    if shape != (2, classes):
        raise InputError(f"the model makes {list(shape)} of 2 images, not [2, {classes}]: a logit for each class")


def _init_xavier(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.weight.requires_grad:
        nn.init.xavier_uniform_(layer.weight)  # Glorot & Bengio 2010
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def seed_everything(seed: int, epoch: int) -> None:
    """Seed Python, NumPy and torch for an epoch: 1, 2, …; 0 is for the weights.

    What is random in an epoch follows from (seed, epoch) alone, so that a resumed run needs no generator's state.
    """
    n = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(n)
    np.random.seed(n)
    torch.manual_seed(n)


def find_device(name: str = "auto") -> torch.device:
    """The torch device for "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1" or "mps".

    Of several processes that torchrun starts on a machine, each has a CUDA device of its own.

    Raises InputError where there is no such device.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {name!r} is not known; take one of auto, cpu, cuda, cuda:1, mps")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= there:
        kind = device.type.upper()
        raise InputError(f"torch can use {there} {kind} devices here, not {name}; leave --device out, or --device cpu")
    return device


# --- a run as a Learner -----------------------------------------------------------------------------------------------


def load_run(
    path: str | Path,
    *,
    data: Data | str | Path | None = None,  # where the run's data is now, or images of the same classes
    device: str = "auto",
    model: nn.Module | Callable[[int], nn.Module] | None = None,  # for a run to which `fit` was given one
    allow_import: bool = False,  # the modules that the run names, which are code
) -> Learner:
    """The Learner of a finished run with its trained weights; no pickle is read.

    Data is read when a split is first asked for (`dls.train`, `dls.valid`, `show_results`), and its digest compared:
    to predict and to export needs none. What was passed to `fit`, but the model, and what is not imported is left out.
    Raises InputError where the run cannot be used, or needs what was not given.
    """
    run = Run(path)
    run.require_finished()
    recipe = run.recipe
    model = find_model(run, model, allow_import)
    if not allow_import:
        recipe = replace(recipe, opt="adam" if ":" in recipe.opt else recipe.opt)
    if isinstance(data, Data) and data.classes != run.classes:
        raise InputError(f"{run.path} knows the classes {_names(run.classes)}, not {_names(data.classes)}")
    own_augment = "augment" in run.facts.get("passed", {}) or (":" in recipe.augment and not allow_import)
    augment = "none" if own_augment else recipe.augment

    def read(device: torch.device) -> DataLoaders:
        found = _as_trained(run, data) if isinstance(data, Data) else read_data(run, data)
        return dataloaders(found, recipe.batch_size, run.normalize, augment, device=device)

    empty = empty_dataloaders(run.classes, run.normalize, run.format, device=find_device(device))
    learner = make_learner(recipe, LazyDataLoaders(empty, read), model=model)
    weights = run.read("model.safetensors")
    try:
        learner.model.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as e:
        file = run.path / "model.safetensors"
        raise InputError(f"{file} is damaged or of another recipe; train the run anew") from e
    run.clean()
    return learner


def _as_trained(run: Run, data: Data) -> Data:
    """What was passed to `fit`, passed again, with what was held out of it held out; other images as they are."""
    if run.recipe.valid_fraction and not len(data.valid):
        with contextlib.suppress(InputError):  # of images that cannot be held out, which then are others
            held_out = data.hold_out(run.recipe.valid_fraction)
            return held_out if held_out.digests == run.facts.get("splits") else data
    return data


def find_model(run: Run, model=None, allow_import: bool = False):
    """The `model` that make_learner needs for a run: the one given, or else what was passed to `fit`, or None.

    Raises InputError where it is neither given nor may be imported.
    """
    passed = run.facts.get("passed", {}).get("model", "")
    if members := run.facts.get("members"):
        return Ensemble((_member(run, values, allow_import) for values in members), members)
    if model is not None or not (passed or ":" in run.recipe.arch):
        return model
    if passed and not is_importable(passed):
        raise InputError(f"{run.path} has a model of its own, {passed}; give it as model=")
    if not allow_import:
        needed = passed or run.recipe.arch
        raise InputError(f"{run.path} needs {needed}, which is code; give --allow-import, or allow_import=True")
    return resolve("model", passed) if passed else None


def _member(run: Run, values: dict, allow_import: bool) -> nn.Module:
    """The model, with random weights, of the recipe of one of a run's members."""
    recipe = Recipe.from_dict(values)
    if recipe.imports and not allow_import:
        raise InputError(f"{run.path} needs {recipe.arch}, which is code; give --allow-import, or allow_import=True")
    return _build(recipe, len(run.classes), None)[0]


def read_data(run: Run, source: str | Path | None = None) -> Data:
    """The data that a run was trained on, where `source` says, or else where it was.

    Raises MissingData where it is not there, and InputError where it is not what it was.
    """
    recipe, recorded = run.recipe, run.facts.get("source", run.recipe.data)
    if source is None and recorded == PASSED:
        raise MissingData(f"the data of {run.path} was passed to fit; give it as data=")
    try:
        data = load_data(source if source is not None else recorded, recipe.valid_fraction)
    except MissingData as e:
        raise MissingData(f"the data of {run.path} is missing: {e}") from e
    check_data(run, data)
    return data


def check_data(run: Run, data: Data) -> None:
    """Raise InputError where these are not the classes and images that the run was trained on."""
    classes = run.classes if run.facts or run.finished else data.classes
    if data.classes != classes:
        raise InputError(f"{run.path} knows the classes {_names(classes)}, {data.source} has {_names(data.classes)}")
    for name, digest in run.facts.get("splits", {}).items():
        if data.digests.get(name) != digest:
            raise InputError(
                f"the {name} images of {data.source} are not those that {run.path} was trained with; "
                "give --data, or train anew"
            )


def _names(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:10]) + (f", … ({len(classes)})" if len(classes) > 10 else "")


# --- learner.pkl ------------------------------------------------------------------------------------------------------


class _Portable:
    """The `pickle_module` of a file that any operating system loads.

    Unlike the cloudpickle of `Learner.export`, it writes none of fastai's functions by value, as bytecode of this very
    Python with paths of this machine.
    """

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            # by itself, a Path is pickled as the class of this system, which no other one can make
            return (Path, value.parts) if isinstance(value, Path) else NotImplemented


def write_learner(learner: Learner, path: Path) -> None:
    """Write what `load_learner` reads: the model, and what brings an image to it.

    It is a pickle: to load one is to run code, so load only what you trust. Raises InputError where it would name a
    class that no other process could find, and RunError where it cannot be written.
    """
    if local := _local_class(learner.model):
        raise InputError(f"learner.pkl cannot name {local}, which no other process finds; put it into a module")
    clean = LeanLearner(
        learner.dls.new_empty(), learner.model, loss_func=CrossEntropyLoss(), opt_func=adam, lr=learner.lr,
        metrics=[accuracy, error_rate],
    )  # fmt: skip
    content = io.BytesIO()
    try:
        torch.save(clean, content, pickle_module=_Portable)
    except Exception as e:  # whatever the model's own way to be pickled raises
        raise InputError(f"the model cannot be pickled ({e}); leave learner.pkl out, or change the model") from e
    write_bytes(path, content.getvalue())


def _local_class(model: nn.Module) -> str | None:
    for module in model.modules():
        cls = type(module)
        if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            return cls.__qualname__
    return None
