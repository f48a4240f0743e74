"""Whether images of 28×28 pixels are in MNIST's format already, or white on black at least. NumPy only.

Three formats of a data set follow from it (recipes.IMAGE_FORMATS), and a model is given images of the one that it was
trained on.
"""

import numpy as np

from .image import SIZE

INK = 32  # grey level above which a pixel is ink; what JPEG leaves around strokes is below it
# All of MNIST's 70,000 images have a long side of 18 to 20 pixels of ink, and their centre of mass at 14 ± 0.6
SHORTEST, LONGEST = 17, 20
OFF_CENTRE = 1.0  # pixels
DARK = 64  # the median of the border's pixels, below which an image is white on black
MOST = 0.95  # of a set's images, which decide for all of them
SAMPLE = 2000  # images that are looked at, evenly spread


def is_white_on_black(images: np.ndarray) -> np.ndarray:
    """Bool [n] for uint8 [n, 28, 28]: whether the border is dark."""
    border = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], 1)
    return np.median(border, 1) < DARK


def is_framed(images: np.ndarray) -> np.ndarray:
    """Bool [n] for uint8 [n, 28, 28]: whether ink fits 20×20 pixels, its centre of mass in the middle."""
    ink = np.where(images > INK, images, 0).astype(np.float32)
    long, off = np.zeros(len(images), int), np.zeros(len(images))
    for mass in (ink.sum(2), ink.sum(1)):
        there = mass > 0
        first, last = there.argmax(1), SIZE - there[:, ::-1].argmax(1)
        long = np.maximum(long, last - first)
        centre = mass @ np.arange(SIZE) / np.maximum(mass.sum(1), 1)
        off = np.maximum(off, np.abs(centre - SIZE / 2))
    return (long >= SHORTEST) & (long <= LONGEST) & (off <= OFF_CENTRE)


def find_format(images: np.ndarray) -> str:
    """The format of a set's images, uint8 [n, 28, 28], as they are: "mnist" or "28x28"."""
    some = images[:: max(1, len(images) // SAMPLE)]
    return "mnist" if len(some) and is_framed(some).mean() >= MOST else "28x28"


def is_in_format(grey: np.ndarray, format: str) -> bool:
    """Whether a picture, uint8 [h, w], is what a model of such a format takes as it is."""
    if format == "pictures" or grey.shape != (SIZE, SIZE):
        return False
    return bool((is_framed if format == "mnist" else is_white_on_black)(grey[None])[0])
