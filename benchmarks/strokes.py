"""Draw the digits of other countries that the recipe `reader` is trained on, and measure what they bring.

    python benchmarks/strokes.py draw                                 # mnist_fastai/datasets/strokes; half a minute
    python benchmarks/strokes.py measure RUN… --out benchmarks/strokes.md

`draw` writes the embedded files anew, and a sheet of them beside MNIST's (strokes.png). `measure` gives the accuracy of
finished runs on the images that they report on, and on drawn digits of another seed. Those come from the generator that
`reader` was trained with, which flatters it: they say whether it learned the shapes, not how well it reads people's.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mnist_fastai import Data, Run, Split, dataloaders, forward, load_data, load_run
from mnist_fastai.datasets import DRAWN
from mnist_fastai.recipes import WITH_STROKES
from mnist_fastai.strokes import SEED, N, draw_digits
from mnist_fastai.train import git_commit

OTHER = SEED + 1
TESTED = 5000  # drawn digits
SHOWN = 1, 7, 4, 9, 2  # the others are taken together
COLUMNS = 16  # images of each digit on the sheet, MNIST's and drawn ones each


def write(folder: Path) -> None:
    """Write `draw_digits(N, SEED)` as gzipped IDX files with their digests."""
    images, labels = draw_digits(N, SEED)
    digests = []
    for name, array in {"images-idx3-ubyte": images, "labels-idx1-ubyte": labels.astype(np.uint8)}.items():
        dims = b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = bytes([0, 0, 0x08, array.ndim]) + dims + array.tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        digests.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(digests))


def save_sheet(path: Path) -> None:
    """A row for each digit: MNIST's first training images at the left, the first drawn ones at the right."""
    train = load_data(WITH_STROKES).train
    mnist, drawn = train[:-N], train[-N:]
    gap = np.full((28, 4), 255, np.uint8)
    rows = []
    for digit in range(10):
        left, right = (split.images[split.labels == digit][:COLUMNS].numpy() for split in (mnist, drawn))
        rows.append(np.hstack([*left, gap, *right]))
    Image.fromarray(np.vstack(rows)).save(path, optimize=True)


def measure(paths: list[Path]) -> list[str]:
    """The table's lines."""
    drawn = Split(*draw_digits(TESTED, OTHER))
    lines = [
        f"| run | data | reported on | % | drawn % | {' | '.join(map(str, SHOWN))} | others |",
        f"|---|---|---|--:|--:|{'--:|' * len(SHOWN)}--:|",
    ]
    groups = [drawn.labels == digit for digit in SHOWN]
    groups.append(~torch.stack(groups).any(0))
    for path in paths:
        run, learner = Run(path), load_run(path, device="cpu")
        dls = dataloaders(Data(drawn, drawn, run.classes), 500, run.normalize)
        right = forward(learner, dls.valid).logits.argmax(1) == drawn.labels
        parts = " | ".join(f"{100 * right[group].float().mean():.1f}" for group in groups)
        name = f"{run.recipe.name} s{run.recipe.seed}"
        reported = f"{run.metrics['split']} | {100 * run.metrics['accuracy']:.2f}"
        lines.append(f"| {name} | {run.recipe.data} | {reported} | {100 * right.float().mean():.2f} | {parts} |")
        print(lines[-1], flush=True)
    return [f"{TESTED:,} drawn digits of seed {OTHER}, commit {git_commit()}.", "", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("draw")
    measured = commands.add_parser("measure")
    measured.add_argument("runs", type=Path, nargs="+")
    measured.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.command == "draw":
        write(DRAWN)
        save_sheet(Path(__file__).with_suffix(".png"))
        return
    lines = measure(args.runs)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
