"""Milliseconds of one training step of a batch of 32, with each thing that makes it fast taken out in turn.

    python benchmarks/step.py --out step.md   # three minutes on two idle cores

Each contender is this package's own Learner but for one thing. It is timed over 60 steps, after 10 that do not count,
right after the whole package, 15 times, so that a machine that slows down slows both; the difference is the median of
the 15. The bare loop has the same layers, memory format, fused optimizer and batches in memory, (a′) of epoch.py.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from epoch import Clock, in_memory, torch_loop
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner, Recorder
from fastai.losses import CrossEntropyLossFlat

import mnist_fastai.dataloader
import mnist_fastai.learner
from mnist_fastai import Data, dataloaders, load_data
from mnist_fastai.recipes import LEARNING_RATE_0005, LEARNING_RATE_001, Recipe
from mnist_fastai.train import git_commit

WARM_UP, STEPS, TURNS = 10, 60, 15
WHOLE, BARE = "nothing", "fastai: a bare loop"


class Steps(Callback):
    """Times STEPS steps after WARM_UP, and ends the fit."""

    run_valid = False

    def before_fit(self):
        self.n = 0

    def after_batch(self):
        self.n += 1
        if self.n == WARM_UP:
            self.began = time.perf_counter()
        if self.n == WARM_UP + STEPS:
            self.milliseconds = 1000 * (time.perf_counter() - self.began) / STEPS
            raise CancelFitException


def unfused(optimizer: type) -> Callable:
    return lambda params, fused, **hypers: optimizer(params, **hypers)


WITHOUT = {  # what is taken out: what stands in its place meanwhile
    WHOLE: [],
    BARE: [],
    "callbacks called only for the events they handle": [(mnist_fastai.learner, "LeanLearner", Learner)],
    "a recorder that takes the learning rate and the loss alone": [(mnist_fastai.learner, "LeanRecorder", Recorder)],
    "batches left on their device": [(mnist_fastai.learner.LeanLearner, "_set_device", Learner._set_device)],
    "a loss on plain tensors": [(mnist_fastai.learner, "CrossEntropyLoss", CrossEntropyLossFlat)],
    "batch transforms of 1,024 images at once": [(mnist_fastai.dataloader, "PREPARED", 1)],
    "fused optimizers": [
        (torch.optim, "Adam", unfused(torch.optim.Adam)),
        (torch.optim, "SGD", unfused(torch.optim.SGD)),
    ],
    "channels_last": [(torch, "channels_last", torch.contiguous_format)],
}


@contextmanager
def taken_out(what: str):
    with ExitStack() as stack:
        for place in WITHOUT[what]:
            stack.enter_context(mock.patch.object(*place))
        yield


def contender(recipe: Recipe, data: Data, without: str) -> Callable[[], float]:
    """A function that trains WARM_UP + STEPS steps and returns the milliseconds of one."""
    if without == BARE:
        train = torch_loop(recipe, in_memory(data, torch.device("cpu")), torch.device("cpu"), fused=True)

        def block() -> float:
            train(Clock(WARM_UP))
            train(clock := Clock(STEPS + 1))
            return 1000 * (clock.last - clock.first) / STEPS

        return block
    with taken_out(without):
        dls, steps = dataloaders(data, recipe.batch_size, recipe.normalize, recipe.augment), Steps()
        learner = mnist_fastai.learner.make_learner(recipe, dls)

    def block() -> float:
        with taken_out(without), learner.no_bar(), learner.no_logging():
            learner.fit(1, cbs=steps)
        return steps.milliseconds

    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    out = parser.parse_args().out
    data = load_data()
    cases = {(r, what): contender(r, data, what) for r in (LEARNING_RATE_0005, LEARNING_RATE_001) for what in WITHOUT}
    pairs = {case: [] for case in cases if case[1] != WHOLE}
    for _ in range(TURNS):
        for recipe, what in pairs:
            pairs[recipe, what].append((cases[recipe, WHOLE](), cases[recipe, what]()))
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"commit {git_commit()}; median of {TURNS} times {STEPS} steps of 32 images on the CPU.",
        "",
        "| architecture | without | ms a step | the whole | difference |",
        "|---|---|--:|--:|--:|",
    ]
    for (recipe, what), times in pairs.items():
        more, ratio = median(b - a for a, b in times), median(b / a for a, b in times)
        whole, without = map(median, zip(*times, strict=True))
        lines.append(f"| {recipe.arch} | {what} | {without:.2f} | {whole:.2f} | {more:+.2f} ms, {ratio - 1:+.0%} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
