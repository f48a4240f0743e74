"""Draw the digits of other countries that the recipe `reader` is trained on, and measure what they bring.

    python benchmarks/strokes.py draw                     # mnist_fastai/datasets/strokes, half a minute
    python benchmarks/strokes.py measure RUN… --out benchmarks/strokes.md

`draw` writes the embedded files anew. `measure` compares finished runs with the shipped model: on MNIST's test images,
and on drawn digits of another seed, which are of the same generator as those trained on and therefore flatter the runs
that were trained on them.
"""

import argparse
import gzip
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from mnist_fastai import load_data, load_run, pretrained
from mnist_fastai.datasets import DRAWN
from mnist_fastai.strokes import SHARES, draw_digits

N, SEED = 8000, 1  # of the embedded digits: 12% of the training images
OTHER = 2  # the seed of those that are measured on
TESTED = 5000


def write(folder: Path) -> None:
    """Write `draw_digits(N, SEED)` as gzipped IDX files with their digests."""
    images, labels = draw_digits(N, SEED)
    folder.mkdir(exist_ok=True)
    digests = []
    for name, array in {"images-idx3-ubyte": images, "labels-idx1-ubyte": labels}.items():
        dims = b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = bytes([0, 0, 0x08, array.ndim]) + dims + array.astype(np.uint8).tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        digests.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(digests))


if __name__ == "__main__":
    write(DRAWN)
