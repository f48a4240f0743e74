"""Seconds of one training epoch on MNIST (60,000 images, batch size 32, no validation), five ways side by side:

(a) a bare PyTorch loop on tensors that already lie in memory on the device;
(a′) the same in channels_last and with a fused optimizer, as (d) trains;
(b) the usual PyTorch script: torchvision's MNIST with ToTensor and Normalize through a DataLoader, no workers;
(c) stock fastai: PNG files through ImageBlock(PILImageBW), as many workers as it takes by itself;
(d) this package: `make_learner(recipe, dataloaders(load_data()))`, without the run directory that `fit` writes.

Each trains `lenet` (Adam, learning rate 0.0005) and `deep` (SGD with momentum 0.9, learning rate 0.001), in the order
a a′ b c d a a′ …, after 50 batches each that do not count. What an epoch needs each time, such as starting workers,
counts; reading the set into memory and writing files for (b) and (c), in a temporary folder, does not.

    python benchmarks/epoch.py --out table.md            # the whole of it: 10 minutes or more on two cores
    python benchmarks/epoch.py --batches 97 --repeats 1  # a rough look, in half a minute
"""

import argparse
import gzip
import os
import platform
import re
import sys
import tempfile
import time
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelEpochException, CancelTrainException
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from mnist_fastai import dataloaders, load_data, make_learner
from mnist_fastai.datasets import EMBEDDED
from mnist_fastai.learner import find_device
from mnist_fastai.models import ARCHS
from mnist_fastai.recipes import NORMALIZE, Recipe
from mnist_fastai.train import git_commit

BATCH, STEPS, WARM_UP = 32, 1875, 50  # images in a batch, batches in an epoch, batches that do not count
MEAN, STD = NORMALIZE["half"]
RECIPES = Recipe(arch="lenet", opt="adam", learning_rate=0.0005), Recipe(arch="deep", opt="sgd", learning_rate=0.001)
OPTS = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9)}  # else at PyTorch's defaults


class Clock:
    """Times an epoch, or its first batches, and counts the images that it trains."""

    def __init__(self, batches: int):
        self.batches, self.images = batches, 0

    def start(self):
        self.began = now()

    def tick(self, images: int) -> bool:
        """To be called after each batch; True where the epoch is to be broken off."""
        self.images += images
        if self.images == BATCH:
            self.first = now()
        if self.images == self.batches * BATCH:
            self.last = now()
        return self.images == self.batches * BATCH < STEPS * BATCH

    def stop(self):
        ended = now()
        assert self.images == self.batches * BATCH, f"trained {self.images:,} images, not {self.batches * BATCH:,}"
        # what was left out takes as long a batch as what follows the first, which alone waits for workers to start
        left_out = (STEPS - self.batches) * (self.last - self.first) / (self.batches - 1)
        self.seconds = ended - self.began + left_out


def now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed(Callback):
    """Clocks the training part of a fastai epoch, and skips its validation."""

    order = 60  # after the Recorder, whose work belongs to the epoch

    def __init__(self, clock: Clock):
        self.clock = clock

    def before_train(self):
        self.clock.start()

    def after_batch(self):
        if self.clock.tick(len(self.yb[0])):
            raise CancelTrainException

    def after_train(self):
        self.clock.stop()
        raise CancelEpochException


def plain(arch: str) -> nn.Sequential:
    """The package's architecture in PyTorch's own layers, in their usual memory format."""
    body, head = ARCHS[arch]()
    return nn.Sequential(*body, head)


def torch_loop(recipe: Recipe, batches, device: torch.device, **fast):
    model = plain(recipe.arch).to(device)
    if fast:
        model = model.to(memory_format=torch.channels_last)
    opt = OPTS[recipe.opt](model.parameters(), lr=recipe.learning_rate, **fast)

    def epoch(clock: Clock):
        clock.start()
        for xb, yb in batches():
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
            if clock.tick(len(yb)):
                break
        clock.stop()

    return epoch


def fastai_fit(learner: Learner):
    def epoch(clock: Clock):
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, cbs=Timed(clock))

    return epoch


def write_files(root: Path, data) -> None:
    """MNIST as (b) and (c) read it: unpacked IDX files under MNIST/raw, PNG files under png/training/<digit>."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in EMBEDDED.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for name, split in (("training", data.train), ("testing", data.test)):
        for digit in data.classes:
            (root / "png" / name / digit).mkdir(parents=True)
        for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
            Image.fromarray(image).save(root / "png" / name / data.classes[label] / f"{i}.png")


def in_memory(data, device: torch.device):
    """A function that yields an epoch's batches."""
    images, labels = data.train.images[:, None].to(device), data.train.labels.to(device)

    def batches():
        for i in torch.randperm(len(labels), device=device).split(BATCH):
            yield images[i].float().div_(255).sub_(MEAN).div_(STD), labels[i]

    return batches


def contenders(root: Path, data, device: torch.device):
    """The data of all five, made once; returns name → (recipe → a function that trains an epoch by a Clock)."""
    from_memory = in_memory(data, device)
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    loader = DataLoader(MNIST(root, transform=to_tensor), batch_size=BATCH, shuffle=True)

    def from_loader():
        for xb, yb in loader:
            yield xb.to(device), yb.to(device)

    stock_dls = DataBlock(
        blocks=(ImageBlock(PILImageBW), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=GrandparentSplitter("training", "testing"),
        batch_tfms=Normalize.from_stats([MEAN], [STD], cuda=device.type == "cuda"),
    ).dataloaders(root / "png", bs=BATCH, device=device)

    def stock(recipe: Recipe):
        opt_func = partial(OptimWrapper, opt=OPTS[recipe.opt])
        loss = CrossEntropyLossFlat()
        return fastai_fit(Learner(stock_dls, plain(recipe.arch), loss, opt_func, lr=recipe.learning_rate))

    return {
        "(a) PyTorch loop, tensors in memory": lambda recipe: torch_loop(recipe, from_memory, device),
        "(a′) the same, channels_last and fused": lambda recipe: torch_loop(recipe, from_memory, device, fused=True),
        "(b) PyTorch script, torchvision and DataLoader": lambda recipe: torch_loop(recipe, from_loader, device),
        "(c) stock fastai, PNG files": stock,
        "(d) mnist-fastai": lambda recipe: fastai_fit(make_learner(recipe, dataloaders(data, BATCH, device=device))),
    }


def about(device: torch.device) -> str:
    """A line for the machine."""
    info, commit = Path("/proc/cpuinfo"), git_commit() or "unknown"
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    where = [model[1] if model else platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    if device.type == "cuda":
        where.append(torch.cuda.get_device_name(device))
    where += [f"{name} {version(name)}" for name in ("torch", "torchvision", "fastai")]
    where += [f"{torch.get_num_threads()} threads", f"commit {commit[:12]}{commit[40:]}", str(date.today())]
    return f"{', '.join(where)}."


def main():
    parser = argparse.ArgumentParser(description="Time a training epoch of five contenders; see the file's docstring.")
    parser.add_argument("--batches", type=int, default=STEPS, help="time the first N (2-1875), scaled (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each contender (default: 3)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, help="a Markdown file for what is printed")
    args = parser.parse_args()
    if not 2 <= args.batches <= STEPS or args.repeats < 1:
        parser.error(f"--batches takes 2 to {STEPS}, --repeats 1 or more")

    device, data = find_device(args.device), load_data()
    rough = f"Rough: the first {args.batches} of {STEPS} batches, scaled to an epoch"
    what = "Whole epochs" if args.batches == STEPS else rough
    lines = [about(device), f"{what}; median of {args.repeats}, training on {device.type}.", ""]
    lines += [
        "| architecture | contender | s/epoch, median | min–max | × (a) | × (a′) | (c) takes |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory() as root:
        write_files(Path(root), data)
        makers = contenders(Path(root), data, device)
        for recipe in RECIPES:
            epochs = {name: make(recipe) for name, make in makers.items()}
            for epoch in epochs.values():
                epoch(Clock(WARM_UP))
            times = {name: [] for name in epochs}
            for _ in range(args.repeats):
                for name, epoch in epochs.items():
                    clock = Clock(args.batches)
                    epoch(clock)
                    times[name].append(clock.seconds)
                    print(f"{recipe.arch} {name}: {clock.seconds:.2f} s", file=sys.stderr)
            medians = {name: median(t) for name, t in times.items()}
            a, fast, _, c, _ = medians.values()
            lines += [
                f"| {recipe.arch} | {name} | {m:.2f} | {min(times[name]):.2f}–{max(times[name]):.2f} "
                f"| {m / a:.2f} | {m / fast:.2f} | {c / m:.2f} × as long |"
                for name, m in medians.items()
            ]
    print(*lines, sep="\n")
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
