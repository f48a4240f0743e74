"""How fast digits are read: from a cold start, in bulk, and from photos.

    python benchmarks/predict.py --out predict.md   # two minutes on two idle cores

A cold start is a whole process, from the shell's call to its end: `mnist-fa predict`, and a script that asks the same
of the same model by fastai's `load_learner`. Bulk is all 10,000 test images in memory, without and with bringing them
into MNIST's format first. The photo is a test digit, 12 megapixels large, as a JPEG.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from mnist_fastai import Classifier, load_data
from mnist_fastai.reader.form import preprocess
from mnist_fastai.reader.image import read_image
from mnist_fastai.train import git_commit

TURNS = 5
FASTAI = """
import sys
from fastai.vision.all import *
from mnist_fastai import pretrained
print(load_learner(pretrained() / "learner.pkl").predict(sys.argv[1]))
"""


def seconds(what: Callable) -> list[float]:
    """Of TURNS calls, after one that does not count."""
    found = []
    for _ in range(TURNS + 1):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    out = parser.parse_args().out
    images = load_data().test.images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        digit, photo = Path(folder) / "digit.png", Path(folder) / "photo.jpg"
        Image.fromarray(images[0]).save(digit)
        page = Image.new("L", (4000, 3000), 235)
        page.paste(Image.fromarray(255 - images[0]).resize((1400, 1400), Image.Resampling.BICUBIC), (1200, 800))
        page.save(photo, quality=90)

        def call(*command) -> Callable:
            return lambda: subprocess.run([str(c) for c in command], cwd=folder, check=True, capture_output=True)

        cli = Path(sys.executable).with_name("mnist-fa")
        few = 255 - images[:1000]  # dark on light; to bring 10,000 into the format takes too long to do it six times
        cold = {
            "`mnist-fa predict digit.png`": call(cli, "predict", digit),
            "`mnist-fa predict photo.jpg`, 12 megapixels": call(cli, "predict", photo),
            "the same digit by fastai's `load_learner`": call(sys.executable, "-c", FASTAI, digit),
        }
        bulk = {
            "`Classifier(raw=True)`, images in MNIST's format": (Classifier(raw=True), images),
            "`Classifier()`, which brings them into it": (Classifier(), few),
        }
        rows = [(name, seconds(what), None) for name, what in cold.items()]
        rows += [(name, seconds(lambda c=c, x=x: c.predict(x)), len(x)) for name, (c, x) in bulk.items()]
        rows.append(
            (
                "a 12-megapixel photo into MNIST's format, with decoding",
                seconds(lambda: preprocess(read_image(photo))),
                1,
            )
        )
    lines = [
        f"{os.cpu_count()} cores, onnxruntime {version('onnxruntime')}, numpy {np.__version__}, "
        f"commit {git_commit()}; median of {TURNS}.",
        "",
        "| | seconds | min–max | images a second |",
        "|---|--:|--:|--:|",
    ]
    for name, found, n in rows:
        rate = f"{n / median(found):,.0f}" if n else ""
        lines.append(f"| {name} | {median(found):.2f} | {min(found):.2f}–{max(found):.2f} | {rate} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
