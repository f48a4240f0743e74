"""Experiment trackers by fastai's own callbacks, which log into the run directory.

A resumed run goes on in the same log: its id and its step come from the run.
"""

from importlib import import_module

from fastai.callback.core import Callback

from .errors import InputError

TRACKERS = ("tensorboard", "wandb")


def make_tracker(name: str) -> Callback:
    """The callback for a name in TRACKERS. Raises InputError where its package is missing."""
    if name not in TRACKERS:
        raise InputError(f"tracker {name!r} is not known; take one of {', '.join(TRACKERS)}, or pass a callback in cbs")
    try:
        import_module(name)
    except ImportError as e:
        raise InputError(f"--log-to {name} needs a package that is not installed; `pip install {name}`") from e
    return _tensorboard() if name == "tensorboard" else _wandb()


def _tensorboard() -> Callback:
    from fastai.callback.tensorboard import TensorBoardCallback
    from torch.utils.tensorboard import SummaryWriter

    class TensorBoard(TensorBoardCallback):
        tracker, run_valid = True, False

        def _setup_writer(self):
            self.writer = SummaryWriter(self.learn.path / "tensorboard", purge_step=self.run_recorder.first_iter + 1)

        def after_batch(self):  # fastai's logs every hyperparameter, and fails on torch's None
            self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)
            self.writer.add_scalar("learning_rate", self.opt.hypers[-1]["lr"], self.train_iter)

    return TensorBoard(trace_model=False, log_preds=False)


def _wandb() -> Callback:
    import wandb
    from fastai.callback.wandb import WandbCallback

    class Wandb(WandbCallback):
        tracker = True

        def before_fit(self):
            run = self.run_recorder.run_dir
            wandb.init(
                project="mnist-fastai", id=run.facts["id"], name=run.path.name, resume="allow", dir=run.path,
                config=run.recipe.to_dict(), reinit="finish_previous",
            )  # fmt: skip
            self.learn.gather_args = dict  # fastai's would gather every image; the recipe says it all
            super().before_fit()
            del self.learn.gather_args
            self._wandb_step, self._wandb_epoch = self.run_recorder.first_iter - 1, len(self.run_recorder.history)

        def after_fit(self):
            super().after_fit()
            wandb.finish()

    return Wandb(log_preds=False)
