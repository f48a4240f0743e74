"""A Recipe in, a run directory out. fastai's loop does the training; what differs from it is a callback."""

import hashlib
import json
import math
import platform
import random
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path

import fastai.callback.progress  # noqa: F401  Learner.no_bar
import numpy as np
import safetensors.torch
import torch
from fastai.callback.core import Callback, CancelFitException, _inner_loop
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, error_rate
from fastai.optimizer import OptimWrapper
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch import Tensor, nn

from . import __version__, plots
from .data import EVAL_BATCH, Data, dataloaders, load_data
from .errors import InputError, RunError
from .evaluate import metrics, predict_logits
from .files import atomic_file, check_new, write_bytes, write_json
from .models import ARCHS
from .recipes import Recipe
from .run import Run

CHECKPOINT = "checkpoint.safetensors"
HEADER = "epoch  train_loss  valid_loss  accuracy  seconds"
LINE = "{epoch:>5}  {train_loss:>10.4f}  {valid_loss:>10.4f}  {accuracy:>8.4f}  {seconds:>7.1f}"
CHECK_EVERY = 50  # batches from one look at the loss to the next; on CUDA, each look waits for the device

# --- the Learner --------------------------------------------------------------------------------------------------


def adam(params, lr: float, weight_decay: float = 0) -> OptimWrapper:
    """PyTorch's Adam (Kingma & Ba 2014) as a fastai `opt_func`; fastai's own differs in beta2, eps and weight decay."""
    return OptimWrapper(params, torch.optim.Adam, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)


def sgd(params, lr: float, momentum: float = 0.9, weight_decay: float = 0, nesterov: bool = False) -> OptimWrapper:
    """PyTorch's SGD with momentum as a fastai `opt_func`."""
    hypers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return OptimWrapper(params, torch.optim.SGD, fused=True, **hypers)


def opt_func(recipe: Recipe):
    """The recipe's optimizer as a fastai `opt_func`, with PyTorch's semantics."""
    if recipe.opt == "adam":
        return partial(adam, weight_decay=recipe.weight_decay)
    nesterov = recipe.opt == "nesterov"
    return partial(sgd, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


def schedule(recipe: Recipe) -> ParamScheduler | None:
    """The callback that changes the learning rate from batch to batch, where the recipe has it change.

    One-cycle (Smith & Topin 2018) is that of fastai's `fit_one_cycle`, but for the momentum, which stays the recipe's.
    """
    if recipe.schedule == "constant":
        return None
    lr = recipe.learning_rate
    return ParamScheduler({"lr": combined_cos(0.25, lr / 25, lr, lr / 1e5)})


class CrossEntropyLoss(CrossEntropyLossFlat):
    """`CrossEntropyLossFlat` that leaves plain tensors plain.

    fastai makes the logits a TensorBase, and each operation on the loss then goes through Python: 0.1 ms of a LeNet
    step, 0.4 ms of one of `deep` (benchmarks/step.md).
    """

    def _contiguous(self, x: Tensor) -> Tensor:
        return x


class LeanLearner(Learner):
    """A `Learner` that, within a batch, calls only the callbacks that handle the event.

    fastai asks every callback at each of a batch's eight events, which costs 0.3 ms: a tenth of a LeNet step
    (benchmarks/step.md).
    """

    def add_cb(self, cb):
        self._handlers = {}
        return super().add_cb(cb)

    def remove_cb(self, cb):
        self._handlers = {}
        return super().remove_cb(cb)

    def __call__(self, event_name):
        if event_name not in _inner_loop:
            return super().__call__(event_name)
        handlers = self._handlers.get(event_name)
        if handlers is None:
            handlers = self._handlers[event_name] = [
                cb for cb in self.cbs.sorted("order") if hasattr(type(cb), event_name) or event_name in vars(cb)
            ]
        for cb in handlers:
            cb(event_name)


def make_learner(recipe: Recipe, dls: DataLoaders) -> Learner:
    """A fastai Learner for the recipe, its random weights by the recipe's seed, on the DataLoaders' device."""
    seed_everything(recipe.seed, 0)
    model = ARCHS[recipe.arch](len(dls.vocab))
    if recipe.init == "xavier":
        model.apply(_init_xavier)
    # without channels_last, a step of `deep` takes 17% longer on a CPU (benchmarks/step.md)
    model = model.to(dls.device, memory_format=torch.channels_last)
    return LeanLearner(
        dls,
        model,
        loss_func=CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        opt_func=opt_func(recipe),
        lr=recipe.learning_rate,
        metrics=[accuracy, error_rate],
    )


def _init_xavier(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)  # Glorot & Bengio 2010
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
    """The torch device for "auto" (CUDA where there is one), "cpu" or "cuda". Raises InputError where there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is not known; take one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that torch can use here; leave --device out, or give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


# --- callbacks ----------------------------------------------------------------------------------------------------


class KeepRun(Callback):
    """Seeds each epoch, guards its loss, and after it leaves a checkpoint and a row of history in the run directory.

    An exception that is raised inside a callback comes out of fastai with another text. `failure` keeps it as it was.
    """

    order, run_valid = 55, False  # after the Recorder

    def __init__(self, run: Run, digest: str, console: Console | None):
        self.run_dir, self.digest, self.console, self.failure = run, digest, console, None
        self.history, self.train_seconds, self.seconds_before = [], 0.0, 0.0
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began, the time between an interruption and its resumption left out."""
        return self.seconds_before + time.perf_counter() - self.began

    def before_epoch(self):
        self.epoch_began = time.perf_counter()
        seed_everything(self.run_dir.recipe.seed, self.epoch + 1)

    def before_train(self):
        self.total, self.count = torch.zeros((), dtype=torch.float64, device=self.dls.device), 0

    def after_batch(self):
        n = len(self.yb[0])
        self.total += self.loss.detach() * n
        self.count += n
        if self.iter % CHECK_EVERY == 0:
            self._check_loss(self.total.item(), f"within {CHECK_EVERY} batches of batch {self.iter + 1}")

    def after_train(self):
        self._check_loss(self.total.item(), "at the end")  # which also waits until the device is done
        self.train_seconds += time.perf_counter() - self.epoch_began

    def after_epoch(self):
        if self.epoch < len(self.history):
            return  # done before the run was resumed
        n = len(self.dls.valid_ds)
        _, valid_loss, right, _ = self.learn.final_record
        hits = round(right * n)  # fastai's mean is a float32
        self._check_loss(valid_loss, "in validation")
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self.total.item() / self.count,
            "valid_loss": valid_loss,
            "accuracy": hits / n,
            "error_rate": (n - hits) / n,
            "seconds": round(time.perf_counter() - self.epoch_began, 3),
        }
        rows = [*self.history, row]
        try:
            save_checkpoint(self.learn, self, rows)
            self.history = rows  # what counts as done, should Ctrl-C come now
            self.run_dir.write_history(rows)
        except RunError as e:
            self._stop(e)
        say(self.console, LINE.format(**row))

    def _check_loss(self, loss: float, where: str):
        if not math.isfinite(loss):
            run, kind = self.run_dir, "NaN" if math.isnan(loss) else "infinite"
            self._stop(
                RunError(
                    f"the loss became {kind} in epoch {self.epoch + 1} ({where}) with learning rate "
                    f"{run.recipe.learning_rate:g}; try a smaller --learning-rate ({run.path} keeps what was done)"
                )
            )

    def _stop(self, error: RunError):
        self.failure = error
        raise CancelFitException


class ShowBar(Callback):
    """A bar with the time left, below the lines of the epochs."""

    order = 60

    def __init__(self, bar: Progress):
        self.bar, self.done, self.drawn = bar, 0, 0.0

    def before_fit(self):
        epochs = self.n_epoch - len(self.keep_run.history)
        self.task = self.bar.add_task("", total=epochs * (len(self.dls.train) + len(self.dls.valid)), epoch="")

    def after_batch(self):
        self.done += 1
        if time.perf_counter() - self.drawn > 0.1:  # seconds
            self.drawn = time.perf_counter()
            self.bar.update(self.task, completed=self.done, epoch=f"{self.epoch + 1}/{self.n_epoch}")


def say(console: Console | None, text: str) -> None:
    if console:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


# --- the checkpoint: the state after a whole epoch, in one file, so that it is never half of one and half of another --


def save_checkpoint(learner: Learner, kept: KeepRun, history: list[dict]) -> None:
    tensors = {f"model.{k}": v.contiguous() for k, v in learner.model.state_dict().items()}
    for name, p in learner.model.named_parameters():
        tensors |= {f"opt.{key}.{name}": v.contiguous() for key, v in learner.opt.opt.state[p].items()}
    about = {
        "history": history,
        "train_seconds": kept.train_seconds,
        "seconds": kept.seconds,
        "data_digest": kept.digest,
    }
    content = safetensors.torch.save(tensors, metadata={"about": json.dumps(about)})
    write_bytes(kept.run_dir.path / CHECKPOINT, content)


def load_checkpoint(learner: Learner, kept: KeepRun) -> None:
    """Put the Learner and the record of its run where the checkpoint left them; nothing where there is none."""
    path = kept.run_dir.path / CHECKPOINT
    if not path.exists():
        return
    try:
        with safetensors.safe_open(path, "pt") as f:
            about = json.loads(f.metadata()["about"])
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  it is no dict
        if about["data_digest"] != kept.digest:
            where = kept.run_dir
            raise InputError(f"{where.recipe.data} is no longer the data that {where.path} began with; train anew")
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        learner.model.load_state_dict(weights)
        learner.create_opt()
        parameters = dict(learner.model.named_parameters())
        for key in tensors.keys() - {f"model.{k}" for k in weights}:
            _, what, name = key.split(".", 2)
            p, v = parameters[name], tensors[key]
            # in the parameter's own memory format, as the optimizer would have made it
            learner.opt.opt.state[p][what] = torch.empty_like(p).copy_(v) if v.shape == p.shape else v.to(p.device)
        kept.history, kept.train_seconds = about["history"], about["train_seconds"]
        kept.seconds_before = about["seconds"]
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError) as e:  # unread, damaged, of another recipe
        raise InputError(f"{path} is damaged or of another recipe; remove it to train the run from its start") from e


# --- fit ----------------------------------------------------------------------------------------------------------


def fit(
    recipe: Recipe | None = None,  # the published table's last row by default
    out: str | Path | None = None,  # the run directory; under ./runs by default
    *,
    device: str = "auto",
    console: Console | None = None,  # where to show progress; nowhere by default
    data: Data | None = None,  # in place of reading `recipe.data`
) -> Run:
    """Train by a recipe and return the run directory that it leaves.

    On the CPU the same recipe gives the same weights to the last bit on the same machine with as many threads.
    Raises InputError before anything is written, and RunError where the loss is no longer finite or a file cannot be
    written; the run directory then keeps the last whole epoch, as it does at a KeyboardInterrupt.
    """
    recipe = recipe or Recipe()
    if out is not None:
        check_new(out)
    found = find_device(device)
    data = data or load_data(recipe.data, recipe.valid_fraction)
    if recipe.batch_size > len(data.train):
        raise InputError(
            f"a batch size of {recipe.batch_size} is more than the {len(data.train)} training images; give less"
        )
    learner = _learner(recipe, data, found)
    return _fit(Run.create(recipe, out), learner, data, console)


def resume(path: str | Path, *, device: str = "auto", console: Console | None = None, data: Data | None = None) -> Run:
    """Go on with a run from its last whole epoch; a finished one is returned as it is.

    On the CPU it ends with the weights and history of a run that was never interrupted.
    """
    run = Run(path)
    if run.finished:
        say(console, f"{run.path} is finished already, with {run.metrics['accuracy']:.2%}")
        return run
    data = data or load_data(run.recipe.data, run.recipe.valid_fraction)
    return _fit(run, _learner(run.recipe, data, find_device(device)), data, console)


def dry_run(recipe: Recipe, *, device: str = "auto", console: Console | None = None) -> dict:
    """Two batches through everything that `fit` does, in a temporary directory; the metrics that it ended with."""
    say(console, "a dry run: two batches through everything, and nothing is kept")
    found = load_data(recipe.data, recipe.valid_fraction)
    data = replace(found, train=found.train[: 2 * recipe.batch_size], valid=found.valid[: 2 * EVAL_BATCH])
    short = replace(recipe, num_epochs=min(recipe.num_epochs, 1))
    with tempfile.TemporaryDirectory() as folder:
        return fit(short, Path(folder) / "run", device=device, console=console, data=data).metrics


def load_run(path: str | Path, *, device: str = "cpu", data: Data | None = None) -> Learner:
    """The Learner of a finished run with its trained weights, on the run's data. No pickle is read."""
    run = Run(path)
    run.require_finished()
    learner = _learner(run.recipe, data or load_data(run.recipe.data, run.recipe.valid_fraction), find_device(device))
    weights = run.path / "model.safetensors"
    try:
        learner.model.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as e:
        raise InputError(f"{weights} is missing, damaged or of another recipe; train the run anew") from e
    return learner


def _learner(recipe: Recipe, data: Data, device: torch.device) -> Learner:
    return make_learner(recipe, dataloaders(data, recipe.batch_size, recipe.normalize, recipe.augment, device=device))


def _fit(run: Run, learner: Learner, data: Data, console: Console | None) -> Run:
    recipe, device = run.recipe, learner.dls.device
    kept = KeepRun(run, data.digest, console)
    load_checkpoint(learner, kept)
    parameters = sum(p.numel() for p in learner.model.parameters())
    threads = torch.get_num_threads()
    cpu = f"cpu, {threads} thread{'s' * (threads > 1)}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    say(
        console,
        f"{recipe.name}: {parameters:,} parameters, {len(data.train):,} images, "
        f"seed {recipe.seed}, {where}, {run.path}",
    )
    say(console, "\n".join([HEADER, *(LINE.format(**row) for row in kept.history)]))
    cbs = [c for c in (kept, schedule(recipe)) if c]
    columns = "epoch {task.fields[epoch]}", BarColumn(), TimeElapsedColumn(), "so far,", TimeRemainingColumn(), "left"
    bar = Progress(*columns, console=console, transient=True) if console and console.is_terminal else None
    if bar:
        cbs.append(ShowBar(bar))
    try:
        with learner.no_bar(), learner.no_logging(), bar or nullcontext():
            learner.fit(recipe.num_epochs, start_epoch=len(kept.history), cbs=cbs)
        if kept.failure:
            raise kept.failure
        return _finish(run, learner, kept, data, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {len(kept.history)} of {recipe.num_epochs} epochs; go on with `{run.how_to_resume}`"
        ) from None


def _finish(run: Run, learner: Learner, kept: KeepRun, data: Data, console: Console | None) -> Run:
    from .export import write_learner  # export needs load_run

    recipe = run.recipe
    logits, labels = predict_logits(learner)
    found = metrics(logits, labels, data.classes)
    predictions = logits.argmax(1).numpy()
    with atomic_file(run.path / "predictions.npy") as tmp, open(tmp, "wb") as f:
        np.save(f, predictions.astype(np.min_scalar_type(len(data.classes))))
    weights = safetensors.torch.save({k: v.contiguous() for k, v in learner.model.state_dict().items()})
    write_bytes(run.path / "model.safetensors", weights)
    untouched = make_learner(recipe, learner.dls)  # without the Recorder's 2,000 losses an epoch
    untouched.model = learner.model
    write_learner(untouched, run.path / "learner.pkl")
    title = f"{recipe.name}, seed {recipe.seed}: {found['accuracy']:.2%} of {found['images']:,} images"
    with atomic_file(run.path / "curves.png") as tmp:
        plots.curves(kept.history, title).savefig(tmp, format="png", dpi=150)
    run.write_history(kept.history)
    trained = recipe.num_epochs * len(data.train)
    about = {
        "split": "held out" if recipe.valid_fraction else "test",
        "epochs": recipe.num_epochs,
        "seconds": round(kept.seconds, 3),
        "images_per_second": round(trained / kept.train_seconds, 1) if trained else None,
        "seed": recipe.seed,
        "device": torch.cuda.get_device_name() if learner.dls.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "versions": {"mnist_fastai": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "fastai", "numpy")},
        "git_commit": git_commit(),
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
        "data_digest": kept.digest,
        "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }
    write_json(run.path / "metrics.json", found | about)
    (run.path / CHECKPOINT).unlink(missing_ok=True)
    say(
        console,
        f"{found['accuracy']:.2%} of the {found['images']:,} {about['split']} images right, in {kept.seconds:.0f} s",
    )
    return run


def git_commit() -> str | None:
    """The commit of this package's source, with "-dirty" where the package has changed since; None elsewhere."""
    here = Path(__file__).parent

    def git(*args):
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a virtual environment may lie in another repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
