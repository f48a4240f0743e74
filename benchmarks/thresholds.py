"""What each threshold of the reader's segmentation does to its accuracy, on training images.

    python benchmarks/thresholds.py --out benchmarks/thresholds.md   -n 15  # half an hour on a core

Each number stands once in `reader/boxes.py`, `reader/parts.py` or `reader/form.py`. Here it is set lower and higher
while all others stay, and pictures of the kinds that have boxes, lines, strokes apart or several digits
(`tests/scenes.py`) are read by the shipped model. The weights of `form.JOIN` and `form.SPLIT` are of segmentation.py.
"""

import argparse
import sys
import zlib
from pathlib import Path

import numpy as np

from mnist_fastai import load_data
from mnist_fastai.reader import boxes, form, parts
from mnist_fastai.reader.image import read_image
from mnist_fastai.reader.session import Session

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scenes import MOST, NUMBERS, SCENES

KINDS = ["no margin", "ruled paper", "squared paper", "frame", *list(SCENES)[list(SCENES).index("box") :]]
FACTORS = 0.5, 0.75, 1, 1.33, 2
THRESHOLDS = {
    boxes: (
        "LEAN", "SQUARE", "STRAIGHT", "DRAWN", "LONG", "THICK", "REST", "CORNER", "ENDS", "COVERED", "VISIBLE",
        "DARKER", "SPECK",
    ),
    parts: ("ROW",),
    form: ("NEAR", "WIDEST"),
}  # fmt: skip


def pictures(n: int) -> list[tuple[np.ndarray, list[list[int]], bool]]:
    """Grey pixels of each kind, the digits in their rows, and whether there may be several."""
    train = load_data().train
    images, labels = train.images.numpy(), train.labels.numpy()
    out = []
    for kind in [*KINDS, *NUMBERS]:
        rng = np.random.default_rng(zlib.crc32(kind.encode()) + 1)
        for _ in range(n):
            chosen = rng.choice(len(images), MOST, replace=False)
            if kind in SCENES:
                file, counts = SCENES[kind](images[chosen[0]], rng), [1]
            else:
                file, counts = NUMBERS[kind](images[chosen], rng)
            digits = iter(labels[chosen].tolist())
            out.append((read_image(file), [[next(digits) for _ in range(count)] for count in counts], kind in NUMBERS))
    return out


def accuracy(cases: list[tuple], session: Session) -> float:
    right = 0
    for grey, wanted, multi in cases:
        digits = form.preprocess(grey, session.novelty, multi=multi).digits
        if sum(map(len, wanted)) == len(digits):
            answers = session.probabilities(np.array([digit.image for digit in digits])).argmax(1)
            order = parts.rows([digit.box for digit in digits]) if multi else [[0]]
            right += [answers[row].tolist() for row in order] == wanted
    return right / len(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100, help="pictures per kind")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("names", nargs="*", help="thresholds, by default all")
    args = parser.parse_args()
    cases, session = pictures(args.n), Session()
    lines = [f"{len(cases):,} pictures; the share that is read right with a threshold times so much.", ""]
    lines += [
        "| threshold | value | " + " | ".join(f"{f:g}" for f in FACTORS) + " |",
        "|---|--:" + "|--:" * len(FACTORS) + "|",
    ]
    print("\n".join(lines), flush=True)
    for module, names in THRESHOLDS.items():
        for name in [name for name in names if not args.names or name in args.names]:
            value, shares = getattr(module, name), []
            for factor in FACTORS:
                setattr(module, name, value * factor)
                shares.append(f"{accuracy(cases, session):.2%}")
            setattr(module, name, value)
            lines.append(f"| {module.__name__.rpartition('.')[2]}.{name} | {value} | {' | '.join(shares)} |")
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
