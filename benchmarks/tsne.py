"""scikit-learn's TSNE against openTSNE: seconds and neighbourhood quality at 1,000, 10,000 and 70,000 points.

    python benchmarks/tsne.py --out tsne.md    # long: most of it is for the 70,000
    python benchmarks/tsne.py --sizes 1000     # a minute

Each maps the same points, the raw pixels of MNIST images and the shipped model's features of them, after the same PCA
to 50 dimensions, at perplexity 30 and its own defaults else: openTSNE as `embed` calls it (750 iterations, exact
neighbours), scikit-learn's with 1,000 iterations. The seconds do not count the PCA. One thread is not timed at 70,000.

Quality: the accuracy of ten nearest neighbours in the map, leave-one-out over all points; trustworthiness and the
silhouette over at most 5,000 of them, since they take memory by the square. Above the table, the seconds of a forward
pass with and without the hook that takes a layer's output, and of the whole command with its pictures and page.
"""

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.manifold import TSNE

from mnist_fastai import Data, Split, dataloaders, embed, forward, load_data, load_run, make_learner, pretrained
from mnist_fastai.embedding import MAX_SCORED, PERPLEXITY, knn_accuracy, reduce, score
from mnist_fastai.recipes import LEARNING_RATE_001
from mnist_fastai.train import git_commit

CONTENDERS = {
    "scikit-learn": lambda x: TSNE(perplexity=PERPLEXITY, n_jobs=os.cpu_count(), random_state=0).fit_transform(x),
    "openTSNE": lambda x: embed(x, threads=os.cpu_count()).positions,
    "openTSNE, 1 thread": lambda x: embed(x).positions,
}
REPEATS = 5  # of the forward pass, with and without a hook, in turns


def timed(call: Callable):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def points() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The pixels and the shipped model's features of all 70,000 images, float32 [n, d], shuffled, and their labels."""
    data = load_data()
    everything = Split(*(torch.cat([getattr(s, a) for s in (data.train, data.test)]) for a in ("images", "labels")))
    everything = everything[torch.from_numpy(np.random.default_rng(0).permutation(len(everything)))]
    learner = load_run(pretrained(), data=Data(data.train[:32], everything, data.classes))
    pixels = everything.images.flatten(1).numpy().astype(np.float32) / 255
    return {"raw": pixels, "trained": forward(learner, layer="0").features}, everything.labels.numpy()


def rows(sizes: list[int]):
    features, labels = points()
    for n in sizes:
        for kind, values in features.items():
            x, y = reduce(values[:n]), labels[:n]
            for name, contender in CONTENDERS.items():
                if n > 10_000 and name.endswith("1 thread"):
                    continue
                seconds, positions = timed(lambda contender=contender, x=x: contender(x))
                scores = score(x[:MAX_SCORED], positions[:MAX_SCORED], y[:MAX_SCORED])
                quality = knn_accuracy(positions, y), scores["trustworthiness"], scores["silhouette"]
                row = f"| {n:,} | {kind} | {name} | {seconds:.1f} | " + " | ".join(f"{q:.4f}" for q in quality) + " |"
                yield row


def hook_line() -> str:
    learner = make_learner(LEARNING_RATE_001, dataloaders(load_data()))
    plain, hooked = [], []
    for _ in range(1 + REPEATS):
        plain.append(timed(lambda: forward(learner))[0])
        hooked.append(timed(lambda: forward(learner, layer="0"))[0])
    a, b = median(plain[1:]), median(hooked[1:])
    return f"`deep` on 10,000 images, median of {REPEATS}: {a:.2f} s forward, {b:.2f} s with features, {b / a:.2f} ×."


def command_line() -> str:
    """What `mnist-fa tsne` takes as a user calls it, and how much of it is imports."""

    def seconds(*command) -> float:
        run = partial(subprocess.run, [str(c) for c in command], check=True, capture_output=True)
        return median(timed(run)[0] for _ in range(3))

    with tempfile.TemporaryDirectory() as out:
        whole = seconds(Path(sys.executable).with_name("mnist-fa"), "tsne", pretrained(), "--out", out)
    imports = seconds(sys.executable, "-c", "import mnist_fastai.maps")
    return f"`mnist-fa tsne`, cold start, median of 3: {whole:.1f} s, of which imports {imports:.1f} s."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 70_000], help="points of a map")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "openTSNE", "torch"))
    head = [
        f"{platform.machine()}, {os.cpu_count()} cores, {versions}, commit {git_commit()}.",
        command_line(),
        hook_line(),
        "",
        "| points | features | by | seconds | 10-NN accuracy in the map | trustworthiness | silhouette |",
        "|--:|---|---|--:|--:|--:|--:|",
    ]
    lines = []
    for line in itertools.chain(head, rows(args.sizes)):
        print(line, flush=True)
        lines.append(line)
        if args.out:  # after each row: the last ones take long
            args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
