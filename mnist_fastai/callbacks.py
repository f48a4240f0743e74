"""What `fit` adds to fastai's loop: the run's recorder with its checkpoint, and a progress bar."""

import contextlib
import ctypes
import math
import time

from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import find_bs
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from .checkpoint import Checkpoint, save_checkpoint
from .distributed import is_first, total
from .errors import InputError, RunError
from .escape import printable
from .files import log
from .learner import seed_everything
from .run import Run

CHECK_EVERY = 50  # batches between two looks at the loss; on CUDA, each look waits for the device


class SeedEpoch(Callback):
    """Seeds each epoch before any other callback draws a random number."""

    order = -1000

    def __init__(self, seed: int):
        self.seed = seed

    def before_epoch(self):
        seed_everything(self.seed, self.epoch + 1)


class RunRecorder(Callback):
    """Guards the loss, and after each epoch leaves a checkpoint and a row of history in the run directory.

    It comes after all other callbacks, so that the checkpoint has what they made of the epoch. An exception that is
    raised inside a callback comes out of fastai with another text: `failure` keeps it as it was.
    """

    order, run_valid = 1000, False

    def __init__(self, run: Run, cbs: list[Callback], console: Console | None, checkpoint: Checkpoint | None):
        self.run_dir, self.user_cbs, self.console, self.checkpoint = run, cbs, console, checkpoint
        before = checkpoint.content if checkpoint else {}
        self.history: list[dict] = before.get("history", [])
        self.train_seconds, self.seconds_before = before.get("train_seconds", 0.0), before.get("seconds", 0.0)
        self.stopped: bool = before.get("stopped", False)  # by a callback, before the last epoch
        self.failure: Exception | None = None
        self.complete = False  # the epoch, with its validation
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between an interruption and its resumption."""
        return self.seconds_before + time.perf_counter() - self.began

    @property
    def first_iter(self) -> int:
        """The number of training batches before this call of `fit`."""
        return len(self.history) * len(self.dls.train)

    def before_fit(self):
        self.learn.train_iter = self.first_iter
        if self.checkpoint:
            try:
                self.checkpoint.restore_training(self.learn, self.user_cbs)
            except InputError as e:
                self._stop(e)
            self.checkpoint = None  # its tensors are no longer needed
        names = list(self.recorder.metric_names[1:-1])  # without epoch and time
        self.names = [n if n not in names[:i] else f"{n}_{i}" for i, n in enumerate(names)]
        header = f"epoch  {'  '.join(f'{name:>10}' for name in self.names)}  seconds"
        self._say(header, *map(self._line, self.history))

    def before_epoch(self):
        self.epoch_began, self.complete = time.perf_counter(), False

    def before_train(self):
        # the sum of losses since the last look, on the device, which need not know float64; the number of images
        self.total, self.sums = 0.0, [0.0, 0]

    def after_batch(self):
        learn, sums = self.learn, self.sums  # what is read or written as an attribute of a Callback takes 1 to 10 µs
        n = find_bs(learn.yb)
        sums[0] = sums[0] + learn.loss.detach() * n
        sums[1] += n
        if learn.iter % CHECK_EVERY == 0:
            self._check_loss(f"within {CHECK_EVERY} batches of batch {learn.iter + 1}")

    def after_train(self):
        self._check_loss("at the end")  # which also waits until the device is done
        self.sums[1] = total(self.sums[1])
        self.train_seconds += time.perf_counter() - self.epoch_began

    def after_validate(self):
        self.complete = True

    def after_epoch(self):
        return_memory()
        self._record()

    def after_cancel_fit(self):
        if not self.failure:
            self.stopped = True
            if self.complete and len(self.history) == self.epoch:  # stopped by a callback's `after_epoch`
                self._record(cancel=False)

    def _record(self, cancel: bool = True):
        values = [float(v) if v is not None else math.nan for v in self.recorder.values[-1]]
        # a callback may have cancelled a part, whose values fastai leaves out: the first ones, or the last
        missing = [math.nan] * (len(self.names) - len(values))
        values = missing + values if self.recorder.cancel_train else values + missing
        validated = self.complete and not self.recorder.cancel_valid
        values = [float(f"{v:.7g}") for v in values]  # fastai's means are float32
        row = {"epoch": self.epoch + 1, **dict(zip(self.names, values, strict=True))}
        row |= {"train_loss": self.total / max(self.sums[1], 1)}  # of all images; fastai's is smoothed
        row |= {"seconds": round(time.perf_counter() - self.epoch_began, 3)}
        if validated and not math.isfinite(row["valid_loss"]):
            self._stop(self.diverged(row["valid_loss"], "in validation"))
        rows = [*self.history, row]
        facts = {"history": rows, "train_seconds": self.train_seconds, "seconds": self.seconds, "stopped": self.stopped}
        try:
            if is_first():
                save_checkpoint(self.run_dir, self.learn, self.user_cbs, facts)
            self.history = rows  # what counts as done, should Ctrl-C come now
        except RunError as e:
            return self._stop(e, cancel)
        if not is_first():
            return None
        try:
            self.run_dir.write_history(rows)
        except RunError as e:  # a spreadsheet may have it open; the checkpoint has the rows, for the end to write
            log.warning("%s", e)
        return self._say(self._line(row), cancel=cancel)

    def _say(self, *lines: str, cancel: bool = True):
        try:
            say(self.console, *lines)
        except RunError as e:  # stdout is closed or full
            self._stop(RunError(f"{e}; continue with `{self.run_dir.how_to_resume}`"), cancel)

    def _stop(self, error: Exception, cancel: bool = True):
        self.failure = error
        if cancel:
            raise CancelFitException

    def _line(self, row: dict) -> str:
        return f"{row['epoch']:>5}  {'  '.join(f'{row[n]:>10.4f}' for n in self.names)}  {row['seconds']:>7.1f}"

    def _check_loss(self, where: str):
        self.total, self.sums[0] = self.total + total(float(self.sums[0])), 0.0
        if not math.isfinite(self.total):
            self._stop(self.diverged(self.total, where))

    def diverged(self, loss: float, where: str) -> RunError:
        kind, lr = "NaN" if math.isnan(loss) else "infinite", self.run_dir.recipe.learning_rate
        return RunError(
            f"the loss became {kind} in epoch {len(self.history) + 1} ({where}) with learning rate {lr:g}; "
            f"try a smaller --learning-rate ({self.run_dir.path} keeps the epochs before)"
        )


def return_memory() -> None:
    """Return memory that is free to the system, where the C library is glibc.

    Between batches of several sizes glibc 2.36 finds ever fewer of its free blocks large enough: without this, `best`
    grows by 0.7 to 1.4 GB an epoch.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class ProgressBar(Callback):
    """A bar with the time left, below the lines of the epochs."""

    order = 60

    def __init__(self, console: Console, epochs: int):
        columns = "epoch {task.fields[epoch]}", BarColumn(), TimeElapsedColumn(), "+", TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, transient=True)
        self.epochs, self.done, self.drawn = epochs, 0, 0.0

    def before_fit(self):
        self.task = self.bar.add_task("", total=self.epochs * (len(self.dls.train) + len(self.dls.valid)), epoch="")

    def after_batch(self):
        self.done += 1
        if time.perf_counter() - self.drawn > 0.1:  # seconds
            self.drawn = time.perf_counter()
            self.bar.update(self.task, completed=self.done, epoch=f"{self.epoch + 1}/{self.n_epoch}")


def say(console: Console | None, *lines: str) -> None:
    if console:
        console.print("\n".join(map(printable, lines)), markup=False, highlight=False, soft_wrap=True)
