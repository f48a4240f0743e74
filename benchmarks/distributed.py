"""Two processes with batches of 16 each, against one with batches of 32: accuracies by Welch's test, and the weights.

    python benchmarks/distributed.py [--seeds 5] [--epochs 2] [--augment affine] [--data mnist]

Each run has one thread per process. With augmentation, what is random differs between the two.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from mnist_fastai import Run
from mnist_fastai.stats import verdict, welch

TORCHRUN = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"


def train(out: Path, processes: int, args: argparse.Namespace, seed: int) -> Run:
    launcher = TORCHRUN if processes == 2 else ()
    options = "--recipe", "0.0005-learning-rate", "-b", 32 // processes, "-n", args.epochs, "-s", seed
    options = *options, "--augment", args.augment, "--data", args.data, "--device", "cpu", "--out", out, "--quiet"
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "mnist_fastai", "train", *map(str, options)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return Run(out)


def difference(a: Run, b: Run) -> float:
    """The largest of two weights."""
    one, other = (load(run.read("model.safetensors")) for run in (a, b))
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--augment", default="none")
    parser.add_argument("--data", default="mnist")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for seed in range(args.seeds):
            pairs.append([train(Path(folder) / f"{n}-s{seed}", n, args, seed) for n in (1, 2)])
            print(f"seed {seed}: largest difference of weights {difference(*pairs[-1]):.1e}", file=sys.stderr)
        differences = [difference(*pair) for pair in pairs]
        metrics = [[run.metrics for run in runs] for runs in zip(*pairs, strict=True)]
    accuracies = [[m["accuracy"] for m in of] for of in metrics]
    print(f"`0.0005-learning-rate`, {args.epochs} epochs, augmentation {args.augment}, {args.seeds} seeds:\n")
    print("| processes | batch size each | accuracy % | seconds, median |\n| --- | --- | --- | --- |")
    for n, values, of in zip((1, 2), accuracies, metrics, strict=True):
        seconds = np.median([m["seconds"] for m in of])
        mean, sd = 100 * np.mean(values), 100 * np.std(values, ddof=1)
        print(f"| {n} | {32 // n} | {mean:.2f} ± {sd:.2f} | {seconds:.0f} |")
    test = welch(*accuracies)
    print(
        f"\nTwo against one: {100 * test.difference:+.2f} points ({100 * test.low:+.2f} to {100 * test.high:+.2f}), "
        f"p = {test.p:.2g} by Welch's test, {verdict(test.difference, test.p)}. Weights differ by up to "
        f"{max(differences):.1e}."
    )


if __name__ == "__main__":
    main()
