"""Files → Data: MNIST and drawn digits, which are embedded, and the user's own folders. No fastai here."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError, MissingData
from ..recipes import MNIST, WITH_STROKES
from .base import SIZE, Data, Split
from .folders import load_folders
from .idx import idx_files, load_idx, read_digests, read_idx

__all__ = ["EMBEDDED", "SIZE", "Data", "Split", "load_data", "load_evaluated"]

EMBEDDED = Path(__file__).parent / "mnist"
DRAWN = Path(__file__).parent / "strokes"


def load_data(source: str | Path = "mnist", valid_fraction: float = 0.0) -> Data:
    """Read "mnist" or "mnist+strokes" (embedded, checked by digest) or a folder: IDX files, or images by class.

    "mnist+strokes" has 8,000 drawn digits, as other countries write them (strokes.py), among the training images; none
    of them is held out.

    A folder of IDX files has one each for training and test images and labels, gzipped or not, as MNIST,
    Fashion-MNIST, KMNIST, EMNIST and QMNIST name them; a `classes.txt` beside them names the classes, one per line.
    A folder of images has `training/<class>/*`, and `validation/` or `testing/` beside it (or train, valid, test), or
    the classes alone, which then needs a `valid_fraction`: that part of the training images is held out, stratified.
    Images that are all 28×28 and white on black are left as they are; of others, each is brought into MNIST's format as
    `predict` does, and those without ink are left out.

    Raises InputError where the folder or a file in it is missing, damaged or of another kind.
    """
    if source == WITH_STROKES:
        data = load_data(MNIST, valid_fraction)
        return replace(data, train=data.train + _load_drawn(), source=WITH_STROKES)
    data = _read(source)
    if valid_fraction:
        return data.hold_out(valid_fraction)
    if not len(data.valid) and not len(data.test):
        raise InputError(f"{source} has no validation or testing folder; hold a part out with --valid-fraction 0.1")
    return data


def load_evaluated(source: str | Path) -> tuple[str, Split, tuple[str, ...]]:
    """The images of such a source to evaluate on, with their split's name before and the class names after them.

    These are the ones that `Data.evaluated` has, and "all" images where a folder has no splits. Raises as `load_data`.
    """
    data = load_data(source) if source in (MNIST, WITH_STROKES) else _read(source)
    name, split = data.evaluated
    if not len(split):
        name, split = "all", data.train
        if idx_files(Path(source)):
            raise InputError(f"the test images of {source} are none; give a data set that has some")
    return name, split, data.classes


def _read(source: str | Path) -> Data:
    folder = EMBEDDED if source == MNIST else Path(source)
    try:
        if source == MNIST:
            return load_idx(folder, MNIST, read_digests(folder / "SHA256SUMS"))
        if not os.path.isdir(folder):  # unlike Path's, False for a name that is too long or may not be looked up
            raise MissingData(
                f"no folder {folder}; --data takes {MNIST}, {WITH_STROKES}, "
                "or a folder of IDX files or of images by class"
            )
        return load_idx(folder) if idx_files(folder) else load_folders(folder)
    except OSError as e:  # of a folder that may not be listed, or was removed meanwhile
        raise InputError(f"{e.filename or folder} cannot be read ({e.strerror or e}); restore it") from e
    except RecursionError as e:
        raise InputError(f"{folder} has folders nested too deep; move the images up") from e


def _load_drawn() -> Split:
    try:
        digests = read_digests(DRAWN / "SHA256SUMS")
        images, labels = (read_idx(DRAWN / f"{name}.gz", digest) for name, digest in sorted(digests.items()))
    except OSError as e:
        raise InputError(f"{e.filename or DRAWN} cannot be read ({e.strerror or e}); restore it") from e
    return Split(images, labels.astype(np.int64))
