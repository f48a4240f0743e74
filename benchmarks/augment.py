"""What each augmentation adds to a training epoch of `deep`: milliseconds of a step of 32 images, with and without.

    python benchmarks/augment.py --out augment.md   # a minute on two idle cores

Timed as step.py does: 300 steps after 50 that do not count, in turns (all of them, then all again, five times); the
median is printed. A training epoch is 1,875 such steps.
"""

import argparse
import os
import platform
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from step import STEPS, TURNS, step

from mnist_fastai import load_data
from mnist_fastai.recipes import AUGMENTS, LEARNING_RATE_001
from mnist_fastai.train import git_commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    out = parser.parse_args().out
    data = load_data()
    times = {augment: [] for augment in AUGMENTS}
    for _ in range(TURNS):
        for augment in AUGMENTS:
            times[augment].append(step(replace(LEARNING_RATE_001, augment=augment), data, []))
    plain = median(times["none"])
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"commit {git_commit()}; median of {TURNS} times {STEPS} steps of 32 images of `deep` on the CPU.",
        "",
        "| augmentation | ms a step | min–max | cost |",
        "|---|--:|--:|--:|",
    ]
    for augment, found in times.items():
        cost = f"{median(found) / plain - 1:+.0%}" if augment != "none" else ""
        lines.append(f"| {augment} | {median(found):.2f} | {min(found):.2f}–{max(found):.2f} | {cost} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
