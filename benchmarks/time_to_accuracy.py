"""Seconds of training until 99.0% and 99.5% of MNIST's test images are right, side by side:

- this package's recipes `fast` and `fast-99.5`, by `fit`, which also writes the run directory;
- the PyTorch example (pytorch/examples, mnist/main.py) with the settings of its script: batches of 64 through a
  DataLoader, Adadelta, 14 epochs, the test images after each;
- stock fastai: the layers of `deep`, PNG files through ImageDataLoaders, batches of 64, 4 epochs of `fit_one_cycle`.

All is counted but imports and reading and writing the data. A recipe counts as a whole. The others are asked after each
epoch, so that the first epoch that happens to be good enough counts for them. Each run is a line of OUT.jsonl, with the
seconds and the accuracy after each epoch; a repeated call goes on where the last one ended.

    python benchmarks/time_to_accuracy.py --out benchmarks/time_to_accuracy.md   # half an hour on two idle cores
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # torch's first optimizer imports it, in a second and a half
import torch.nn.functional as F
from epoch import about, plain, write_files
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageDataLoaders
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from mnist_fastai import fit, load_data
from mnist_fastai.learner import find_device, seed_everything
from mnist_fastai.recipes import FAST, FAST_99_5, Recipe

GOALS = 0.990, 0.995
Course = Iterator[tuple[float, float]]  # seconds since the training began, accuracy


class ExampleNet(nn.Module):
    """The network of the PyTorch example: 1,199,882 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.relu(self.fc1(self.dropout1(x).flatten(1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), 1)


def pytorch_example(train: MNIST, test: MNIST, device: torch.device) -> Course:
    began = time.perf_counter()
    train_dl, test_dl = DataLoader(train, 64, shuffle=True), DataLoader(test, 1000)
    model = ExampleNet().to(device)
    opt = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.7)
    for _ in range(14):
        model.train()
        for x, y in train_dl:
            x, y = x.to(device), y.to(device)
            opt.zero_grad()
            F.nll_loss(model(x), y).backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in test_dl)
        scheduler.step()
        yield time.perf_counter() - began, right / len(test)


class Clock(Callback):
    """Notes the time and the accuracy after each epoch."""

    order = 60  # after the Recorder

    def before_fit(self):
        self.began, self.course = time.perf_counter(), []

    def after_epoch(self):
        self.course.append((time.perf_counter() - self.began, float(self.recorder.values[-1][-1])))


def stock_fastai(png: Path, device: torch.device) -> Course:
    dls = ImageDataLoaders.from_folder(png, "training", "testing", img_cls=PILImageBW, bs=64, device=device)
    clock = Clock()
    learner = Learner(dls, plain("deep"), nn.CrossEntropyLoss(), metrics=accuracy, cbs=clock)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(4)
    yield from clock.course


def ours(recipe: Recipe, data, out: Path, device: str) -> Course:
    began = time.perf_counter()
    run = fit(recipe, data=data, out=out, device=device)
    yield time.perf_counter() - began, run.metrics["accuracy"]


def spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}"


def line(name: str, courses: list[list[tuple[float, float]]]) -> str:
    cells = [
        name,
        str(len(courses)),
        spread([100 * c[-1][1] for c in courses], 2),
        spread([c[-1][0] for c in courses], 2),
    ]
    for goal in GOALS:
        reached = [next((seconds for seconds, right in c if right >= goal), math.nan) for c in courses]
        there = [seconds for seconds in reached if seconds == seconds]
        cells.append(f"{spread(there, 2)} ({len(there)} of {len(courses)})" if there else "not reached")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds to an accuracy; see the file's docstring.")
    parser.add_argument(
        "--seeds", type=int, default=30, help="runs of `fast`, a third as many of `fast-99.5` (default: 30)"
    )
    parser.add_argument("--others", type=int, default=3, help="runs of the PyTorch example and fastai (default: 3)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, required=True, help="a Markdown file for the table, beside its .jsonl")
    args = parser.parse_args()
    device, data = find_device(args.device), load_data()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, data)
        to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        train, test = (MNIST(root, train=flag, transform=to_tensor) for flag in (True, False))

        def recipe(base: Recipe) -> Callable[[int], Course]:
            return lambda seed: ours(replace(base, seed=seed), data, root / f"{base.name}-{seed}", args.device)

        contenders: dict[str, tuple[int, Callable[[int], Course]]] = {
            "mnist-fa, recipe `fast`": (args.seeds, recipe(FAST)),
            "mnist-fa, recipe `fast-99.5`": (args.seeds // 3, recipe(FAST_99_5)),
            "stock fastai, `deep`, 4 epochs": (args.others, lambda _: stock_fastai(root / "png", device)),
            "the PyTorch example, 14 epochs": (args.others, lambda _: pytorch_example(train, test, device)),
        }
        log = args.out.with_suffix(".jsonl")
        runs = [json.loads(row) for row in log.read_text().splitlines()] if log.exists() else []
        done = {(run["name"], run["seed"]) for run in runs}
        for seed in range(max(args.seeds, args.others)):
            for name, (n, train_one) in contenders.items():
                if seed < n and (name, seed) not in done:
                    seed_everything(seed, 0)
                    runs.append({"name": name, "seed": seed, "course": list(train_one(seed))})
                    with log.open("a") as file:
                        print(json.dumps(runs[-1]), file=file)
                    seconds, right = runs[-1]["course"][-1]
                    print(f"{name}, seed {seed}: {right:.2%} in {seconds:.2f} s", file=sys.stderr, flush=True)
    text = [
        f"{about(device)}\nMean ± standard deviation over the runs; for a goal, over those that reached it.",
        "",
        "| | runs | accuracy at the end, % | seconds | seconds to 99.0% | seconds to 99.5% |",
        "|---|--:|--:|--:|--:|--:|",
        *(line(name, [run["course"] for run in runs if run["name"] == name]) for name in contenders),
    ]
    print(*text, sep="\n")
    args.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
