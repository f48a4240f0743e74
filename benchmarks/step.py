"""Milliseconds of one training step of a batch of 32, with each thing that makes it fast taken out in turn.

    python benchmarks/step.py --out step.md   # a minute on two idle cores

Each contender is this package's own Learner but for one thing, timed over 300 steps after 50 that do not count, in
turns (all of them, then all again, five times); the median is printed, and the difference from the whole package.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

import mnist_fastai.dataloader
import mnist_fastai.learner
from mnist_fastai import Data, dataloaders, load_data
from mnist_fastai.recipes import LEARNING_RATE_0005, LEARNING_RATE_001, Recipe
from mnist_fastai.train import git_commit

WARM_UP, STEPS, TURNS = 50, 300, 5


class Steps(Callback):
    """Times STEPS steps after WARM_UP, and ends the fit."""

    run_valid = False

    def after_batch(self):
        if self.train_iter == WARM_UP:
            self.began = time.perf_counter()
        if self.train_iter == WARM_UP + STEPS:
            self.milliseconds = 1000 * (time.perf_counter() - self.began) / STEPS
            raise CancelFitException


def unfused(optimizer: type) -> Callable:
    return lambda params, fused, **hypers: optimizer(params, **hypers)


WITHOUT = {  # what is taken out: what stands in its place meanwhile
    "nothing": [],
    "callbacks called only for the events they handle": [(mnist_fastai.learner, "LeanLearner", Learner)],
    "a loss on plain tensors": [(mnist_fastai.learner, "CrossEntropyLoss", CrossEntropyLossFlat)],
    "batch transforms of 1,024 images at once": [(mnist_fastai.dataloader, "PREPARED", 1)],
    "fused optimizers": [
        (torch.optim, "Adam", unfused(torch.optim.Adam)),
        (torch.optim, "SGD", unfused(torch.optim.SGD)),
    ],
    "channels_last": [(torch, "channels_last", torch.contiguous_format)],
}


def step(recipe: Recipe, data: Data, places: list) -> float:
    """Milliseconds of a step."""
    patches = [mock.patch.object(*place) for place in places]
    for patch in patches:
        patch.start()
    try:
        dls, steps = dataloaders(data, recipe.batch_size, recipe.normalize, recipe.augment), Steps()
        learner = mnist_fastai.learner.make_learner(recipe, dls)
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, cbs=steps)
    finally:
        for patch in patches:
            patch.stop()
    return steps.milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    out = parser.parse_args().out
    data = load_data()
    cases = [(recipe, what) for recipe in (LEARNING_RATE_0005, LEARNING_RATE_001) for what in WITHOUT]
    times = {case: [] for case in cases}
    for _ in range(TURNS):
        for recipe, what in cases:
            times[recipe, what].append(step(recipe, data, WITHOUT[what]))
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"commit {git_commit()}; median of {TURNS} times {STEPS} steps of 32 images on the CPU.",
        "",
        "| architecture | without | ms a step | min–max | difference |",
        "|---|---|--:|--:|--:|",
    ]
    for (recipe, what), found in times.items():
        whole = median(times[recipe, "nothing"])
        difference = f"{median(found) - whole:+.2f} ms, {median(found) / whole - 1:+.0%}" if what != "nothing" else ""
        spread = f"{min(found):.2f}–{max(found):.2f}"
        lines.append(f"| {recipe.arch} | {what} | {median(found):.2f} | {spread} | {difference} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
