"""Folders with CSV files of images, as Kaggle's Digit Recognizer comes."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import log
from ..reader.table import columns, read_table
from .base import Data, Split


def find_tables(folder: Path) -> list[Path]:
    """The CSV files that have images in their rows, such as train.csv and test.csv."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".csv" and p.name[0] != "." and p.is_file()]
    return [p for p in files if columns(p)]


def load_tables(folder: Path, source: str) -> Data:
    """Read train.csv, and test.csv where that has labels; Kaggle's has none, and is left out."""
    parts = []
    for which in ("train", "test"):
        files = [p for p in find_tables(folder) if which in p.name.lower()]
        if len(files) > 1 or not (files or parts):
            names = ", ".join(p.name for p in files) or "none"
            raise InputError(f"{folder} needs one {which}.csv, with a label and 784 pixels per row; it has {names}")
        for file in files:
            images, labels = read_table(file)
            if labels is not None:
                parts.append((images, labels))
            elif not parts:
                raise InputError(f"{file} has no column of labels; name the first one label")
            else:
                log.warning("left out: %s, which has no labels", file)
    values = np.unique(np.concatenate([labels for _, labels in parts]))
    splits = [Split(images, np.searchsorted(values, labels)) for images, labels in parts]
    return Data(splits[0], splits[1] if len(splits) > 1 else Split(), tuple(str(v) for v in values), source=source)
