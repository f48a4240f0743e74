"""Images as rows of a CSV file, as Kaggle's Digit Recognizer has them. NumPy only."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_bytes
from .image import SIZE

PIXELS = SIZE * SIZE
MAX_BYTES = 2**30  # of a file; MNIST's 60,000 training images have 105 MiB


def columns(path: str | Path) -> int:
    """The number of columns of a table of images, by the names in its first line: 785 with a label before the pixels.

    0 for any other file.
    """
    try:
        with open(path, encoding="utf-8-sig") as f:
            names = [name.strip(' "') for name in f.readline(2**16).rstrip("\r\n").split(",")]
    except (OSError, ValueError):
        return 0
    is_table = len(names) == PIXELS + (names[0].lower() == "label") and not names[0].isdecimal()
    return len(names) if is_table else 0


def read_table(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images, uint8 [n, 28, 28], and the labels, int64 [n] or None where there is no such column.

    The first line names the columns: 784 of pixels from 0 to 255, after "label" where there are labels. Raises
    InputError for anything else.
    """
    lines = read_bytes(path, MAX_BYTES).splitlines()[1:]
    width = columns(path)
    if not width or not any(lines):
        what = "has no rows" if width else "is no table of images"
        raise InputError(
            f"{path} {what}; give a CSV file with a header, and 784 pixels per row, after a label or without"
        )
    try:
        rows = np.loadtxt(lines, np.uint8, delimiter=",", ndmin=2, encoding="utf-8")
    except ValueError as e:
        why = str(e).partition(";")[0]
        raise InputError(f"{path} cannot be read ({why}); give whole numbers from 0 to 255, as many in each row") from e
    if rows.shape[1] != width:
        raise InputError(f"{path} names {width} columns and has {rows.shape[1]}; give a name per column")
    return rows[:, -PIXELS:].reshape(-1, SIZE, SIZE), rows[:, 0].astype(np.int64) if width > PIXELS else None
