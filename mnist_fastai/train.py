"""A recipe in, a run directory out."""

import io
import math
import platform
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import fastai.callback.progress  # noqa: F401  Learner.no_bar
import numpy as np
import safetensors.torch
import torch
from fastai.callback.core import Callback, GatherPredsCallback
from fastai.learner import Learner
from rich.console import Console
from torch import nn

from . import plots
from .callbacks import ProgressBar, RunRecorder, SeedEpoch, say
from .checkpoint import find_checkpoints, load_checkpoint, weights_of
from .dataloader import EVAL_BATCH, dataloaders, empty_dataloaders, find_normalize
from .datasets import Data, load_data
from .distributed import divided, from_first, is_first, is_lost, join, processes
from .errors import InputError, RunError
from .evaluation import Forward, forward, metrics
from .files import owned, temporary_folder, write_bytes
from .learner import check_data, find_device, find_schedule, make_learner, read_data, write_learner
from .models import Ensemble
from .recipes import Recipe
from .resolve import describe
from .run import FORMAT, Run, check_new, versions

SAMPLE = 20  # images of each class that are kept in the run
_one_at_a_time = threading.Lock()  # the generators that fastai and torch draw from are the process's


def fit(
    recipe: Recipe | None = None,  # the published table's last row by default
    *,
    model: nn.Module | Callable[[int], nn.Module] | None = None,  # or what makes one for so many classes
    opt_func: Callable | None = None,  # a fastai opt_func, or a class of torch.optim
    loss_func: Callable | None = None,  # (logits, labels) → a scalar
    cbs: Callback | Iterable[Callback] = (),
    metrics: Iterable | None = None,  # fastai's, or functions of (logits, labels); accuracy and error rate by default
    augment=None,  # a fastai batch transform or several, or a function of images, float32 [n, 1, 28, 28] in [0, 1]
    normalize=None,  # mean and standard deviation
    data: Data | None = None,  # in place of reading `recipe.data`
    out: str | Path | None = None,  # the run directory; a new one below ./runs by default
    device: str = "auto",
    console: Console | None = None,  # where to show progress; nowhere by default
) -> Run:
    """Train by a recipe, and by what is passed in its place, and return the run directory.

    On the CPU the same recipe gives the same weights to the last bit on the same machine with as many threads.
    Raises InputError before anything is written, and RunError where the loss is no longer finite or a file cannot be
    written; the run directory then keeps the last whole epoch, as it does at a KeyboardInterrupt.
    """
    recipe, target = recipe or Recipe(), find_device(device)
    join(target)
    if out is not None:
        from_first(lambda: check_new(out))
    passed = Passed(model, opt_func, loss_func, cbs, metrics, augment, normalize)
    data = data.hold_out(recipe.valid_fraction) if data and recipe.valid_fraction else data
    data = data or load_data(recipe.data, recipe.valid_fraction)
    return start(recipe, data, out, passed, target, console)


def start(
    recipe: Recipe,
    data: Data,  # of which what the recipe holds out is held out
    out: str | Path | None,
    passed: "Passed | None" = None,
    device: torch.device | None = None,
    console: Console | None = None,
) -> Run:
    """`fit`, once its arguments are made."""
    passed, device = passed or Passed(), device or find_device()
    recipe = replace(recipe, data=data.source)
    if not len(data.reported[1]):
        raise InputError("there is nothing to report on; give test or valid images, or hold some out")
    if recipe.batch_size * processes() > len(data.train):
        raise InputError(
            f"a batch size of {recipe.batch_size} is more than the {len(data.train)} training images"
            f"{f' of {processes()} processes' * (processes() > 1)}; give less"
        )
    with _exclusive():
        learner = passed.learner(recipe, data, device)
        stats = find_normalize(recipe.normalize if passed.normalize is None else passed.normalize)
        facts = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            "classes": data.classes,
            "splits": data.digests,
            "source": recipe.data,
            "input": {"normalize": stats, "format": data.format},
            "passed": passed.described(),
        }
        if isinstance(model := passed.parts["model"], Ensemble):
            facts["members"] = model.recipes
        if processes() > 1:
            facts["processes"] = processes()
        return _train(from_first(lambda: _opened(Run.create(recipe, out, facts))), learner, passed, data, console)


def resume(
    path: str | Path,
    *,
    data: Data | str | Path | None = None,  # or the path where it is now
    device: str = "auto",
    console: Console | None = None,
    allow_import: bool = False,  # the modules that the recipe names, which are code
    **given,  # model, opt_func, loss_func, cbs, metrics, augment and normalize, as they were passed to `fit`
) -> Run:
    """Continue a run from its last whole epoch; a finished one is returned as it is.

    On the CPU the result has the weights and history of a run that was never interrupted. Raises InputError where
    something else is passed than to `fit`, or the data is not what it was.
    """
    join(find_device(device))
    run = from_first(lambda: _opened(Run(path)))
    if from_first(lambda: run.finished):
        return _said_finished(run, console)
    if (n := run.facts.get("processes", 1)) != processes():
        raise InputError(
            f"{run.path} was trained in {n} processes so far, not {processes()}; use `{run.how_to_resume}`"
        )
    if run.recipe.imports and not allow_import:
        names = ", ".join(run.recipe.imports.values())
        raise InputError(f"{run.path} needs {names}, which is code; give --allow-import if you trust it")
    passed = Passed(**given)
    before, now = run.facts.get("passed", {}), passed.described()
    if before != now:
        changed = min(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        was, given = before.get(changed, "nothing"), now.get(changed, "nothing")
        raise InputError(f"{run.path} was trained with {changed}={was}, and not with {given}; pass the same to resume")
    if isinstance(data, Data):
        data = data.hold_out(run.recipe.valid_fraction) if run.recipe.valid_fraction else data
    else:
        data = read_data(run, data)
    return proceed(run, data, passed, find_device(device), console)


def proceed(
    run: Run,
    data: Data,  # of which what the recipe holds out is held out
    passed: "Passed | None" = None,
    device: torch.device | None = None,
    console: Console | None = None,
) -> Run:
    """`resume`, once its arguments are made. Raises InputError where the data is not what it was."""
    passed, device = passed or Passed(), device or find_device()
    check_data(run, data)
    with _exclusive():
        return _train(run, passed.learner(run.recipe, data, device), passed, data, console)


def dry_run(recipe: Recipe, *, device: str = "auto", console: Console | None = None) -> dict:
    """Two batches through everything that `fit` does, in a temporary directory; the metrics at the end."""
    say(console, "a dry run: two batches through everything, and nothing is kept")
    data = load_data(recipe.data, recipe.valid_fraction)
    few = {"valid": data.valid[: 2 * EVAL_BATCH], "test": data.test[: 2 * EVAL_BATCH]}
    data = replace(data, train=data.train[: 2 * recipe.batch_size * processes()], **few)
    short = replace(recipe, num_epochs=min(recipe.num_epochs, 1), valid_fraction=0.0)
    with temporary_folder() as folder:
        run = fit(short, out=folder / "run", device=device, console=console, data=data)
        return run.metrics if is_first() else {}


class Passed:
    """What is passed besides the recipe."""

    def __init__(self, model=None, opt_func=None, loss_func=None, cbs=(), metrics=None, augment=None, normalize=None):
        cbs = [cbs] if isinstance(cbs, (Callback, type)) else list(cbs or ())
        metrics = metrics if metrics is None or isinstance(metrics, Iterable) else [metrics]
        self.cbs: list[Callback] = [cb() if isinstance(cb, type) else cb for cb in cbs]
        self.augment, self.normalize = augment, normalize
        self.parts = {"model": model, "opt_func": opt_func, "loss_func": loss_func, "metrics": metrics}

    @property
    def recorded(self) -> list[Callback]:
        """The callbacks that belong to the result, as trackers do not."""
        return [cb for cb in self.cbs if not getattr(cb, "tracker", False)]

    def described(self) -> dict[str, str]:
        given = self.parts | {"augment": self.augment, "normalize": self.normalize, "cbs": self.recorded or None}
        return {key: describe(value) for key, value in given.items() if value is not None}

    def learner(self, recipe: Recipe, data: Data, device: torch.device) -> Learner:
        for cb in self.cbs:
            monitor = vars(cb).get("monitor")
            if monitor is not None and monitor != "train_loss" and not len(data.valid):
                raise InputError(
                    f"{cb!r} would choose by {monitor} on the test images; hold images out with valid_fraction=0.1"
                )
        normalize = recipe.normalize if self.normalize is None else self.normalize
        augment = recipe.augment if self.augment is None else self.augment
        dls = dataloaders(data, recipe.batch_size, normalize, augment, device=device)
        return make_learner(recipe, dls, **self.parts)


@contextmanager
def _exclusive():
    """One training at a time in a process. Raises InputError where another one runs."""
    if not _one_at_a_time.acquire(blocking=False):
        raise InputError(
            "another training runs in this process, and both would draw the same random numbers; "
            "use a process for each, as `mnist-fa reproduce` does"
        )
    try:
        yield
    finally:
        _one_at_a_time.release()


def _train(run: Run, learner: Learner, passed: Passed, data: Data, console: Console | None) -> Run:
    with owned(run.path) if is_first() else nullcontext():
        if not from_first(lambda: run.finished):
            return _continue(run, learner, passed, data, console)
    return _said_finished(run, console)  # by another process, which was waited for


def _opened(run: Run) -> Run:
    """The run, with what other processes need to know, which may be on other machines."""
    _ = run.facts
    return run


def _said_finished(run: Run, console: Console | None) -> Run:
    if not is_first():
        return run
    run.clean()
    say(console, f"{run.path} is finished already, with {run.metrics['accuracy']:.2%}")
    return run


def _continue(run: Run, learner: Learner, passed: Passed, data: Data, console: Console | None) -> Run:
    recipe, device = run.recipe, learner.dls.device
    checkpoint = from_first(lambda: load_checkpoint(run))
    if checkpoint:
        checkpoint.restore_weights(learner)
    recorder = RunRecorder(run, passed.recorded, console, checkpoint)
    parameters, threads = sum(p.numel() for p in learner.model.parameters()), torch.get_num_threads()
    on = f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device_name(device)
    on = f"{processes()} processes on {on} each" if processes() > 1 else on
    say(
        console,
        f"{recipe.name}: {parameters:,} parameters, {len(data.train):,} images, seed {recipe.seed}, {on}, {run.path}",
    )
    learner.path, learner.first_epoch = run.path, recipe.num_epochs if recorder.stopped else len(recorder.history)
    epochs = recipe.num_epochs - learner.first_epoch
    cbs = [SeedEpoch(recipe.seed), *passed.cbs, *filter(None, [find_schedule(recipe)]), recorder]
    # where nobody else may change what is validated, or the weights after it, the images need no second pass
    validated = GatherPredsCallback() if epochs and not passed.cbs and processes() == 1 else None
    if validated:
        validated.run_train = False
        cbs.append(validated)
    bar = ProgressBar(console, epochs) if console and console.is_terminal else None
    try:
        # also where no epoch is left: a callback may do something after the last one
        with divided(learner), learner.no_bar(), learner.no_logging(), bar.bar if bar else nullcontext():
            try:
                learner.fit(recipe.num_epochs, cbs=[*cbs, *filter(None, [bar])])
            except Exception:  # of another callback, which did not expect that the recorder stops here
                if not recorder.failure:
                    raise
        if recorder.failure:
            raise recorder.failure if is_first() else SystemExit(1)  # it is the same in all processes
        result = Forward(validated.preds.float(), validated.targets, None) if validated else None
        return from_first(lambda: _finish(run, learner, recorder, result or forward(learner), data, console))
    except RuntimeError as e:
        if not is_lost(e):
            raise
        done = f"after {len(recorder.history)} of {recipe.num_epochs} epochs"
        raise RunError(f"another process of the training ended {done}; continue with `{run.how_to_resume}`") from e
    except KeyboardInterrupt as e:
        done = f"stopped after {len(recorder.history)} of {recipe.num_epochs} epochs"
        e.args = (f"{done}; continue with `{run.how_to_resume}`",)
        raise


def _finish(
    run: Run, learner: Learner, recorder: RunRecorder, result: Forward, data: Data, console: Console | None
) -> Run:
    recipe = run.recipe
    scores = metrics(result.logits, result.labels, data.classes)
    if not math.isfinite(scores["valid_loss"]):  # where a callback ended the training
        raise recorder.diverged(scores["valid_loss"], "at the end")
    split, reported = data.reported
    predictions = result.logits.argmax(1).numpy().astype(np.min_scalar_type(len(data.classes)))
    _save_array(run.path / "predictions.npy", np.save, arr=predictions)
    order = torch.cat([(reported.labels == i).nonzero()[:SAMPLE, 0] for i in range(len(data.classes))]).sort().values
    _save_array(run.sample, np.savez_compressed, images=reported.images[order], labels=reported.labels[order])
    write_bytes(run.path / "model.safetensors", safetensors.torch.save(weights_of(learner.model)))
    device = learner.dls.device
    # no augmentation, which may not pickle
    learner.dls = empty_dataloaders(data.classes, run.normalize, run.format, device=device)
    try:
        write_learner(learner, run.path / "learner.pkl")
    except InputError as e:
        say(console, f"no learner.pkl: {e}")
    title = f"{recipe.name}, seed {recipe.seed}: {scores['accuracy']:.2%} of {scores['images']:,} images"
    write_bytes(run.path / "curves.png", plots.to_bytes(plots.curves(recorder.history, title)))
    if recorder.history:
        run.write_history(recorder.history)
    epochs = len(recorder.history)
    facts = {
        "split": split,
        "epochs": epochs,
        "seconds": round(recorder.seconds, 3),
        "images_per_second": round(epochs * len(data.train) / recorder.train_seconds, 1)
        if recorder.train_seconds
        else None,
        "seed": recipe.seed,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "versions": versions(),
        "processor": platform.machine(),
        "git_commit": git_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    run.write_metrics(scores | facts)
    for path in find_checkpoints(run.path):
        path.unlink(missing_ok=True)
    say(
        console,
        f"{scores['accuracy']:.2%} of the {scores['images']:,} {split} images right, in {facts['seconds']:.0f} s",
    )
    return run


def _save_array(path: Path, save: Callable, **arrays) -> None:
    content = io.BytesIO()
    save(content, **arrays)
    write_bytes(path, content.getvalue())


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def git_commit() -> str | None:
    """The commit of this package's source, with "-dirty" where the package has changed since; None elsewhere."""
    here = Path(__file__).parent

    def git(*args):
        return subprocess.run(
            ["git", "-C", here, *args], capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a virtual environment may lie in another repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
