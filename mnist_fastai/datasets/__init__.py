"""Files → Data: MNIST and drawn digits, which are embedded, data sets by name, and the user's folders. No fastai."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError, MissingData
from ..recipes import MNIST, WITH_STROKES
from .base import SIZE, Data, Split
from .folders import SPLITS, TRAIN, find_split, load_folders, subfolders
from .idx import idx_files, load_idx, read_digests, read_idx
from .named import NAMED, load_named, usual_names
from .tables import find_tables, load_tables

__all__ = ["EMBEDDED", "SIZE", "Data", "Split", "load_data", "load_evaluated"]

EMBEDDED = Path(__file__).parent / "mnist"
DRAWN = Path(__file__).parent / "strokes"
RESTORE = "install the package again"  # by which an embedded file is mended
DEPTH = 4  # folders with nothing but another one in them, such as torchvision's FashionMNIST/raw


def load_data(source: str | Path = "mnist", valid_fraction: float = 0.0) -> Data:
    """Read a data set by its name, or a folder: IDX files, images by class, or Kaggle's train.csv.

    "mnist" is embedded, as "mnist+strokes" is, which has 8,000 drawn digits, as other countries write them
    (strokes.py), among the training images; none of them is held out. A name of `named.NAMED`, such as "fashion-mnist",
    is downloaded when it is first read. A folder of such a name is given as a Path, or as "./fashion-mnist".

    A folder of IDX files has one each for training and test images and labels, gzipped or not, as MNIST,
    Fashion-MNIST, KMNIST, EMNIST and QMNIST name them; a `classes.txt` beside them names the classes, one per line.
    A folder of images has `training/<class>/*`, and `validation/` or `testing/` beside it (or train, valid, val, test),
    or the classes alone. Where there is nothing but training images, it needs a `valid_fraction`: that part of them is
    held out, stratified.
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
        raise InputError(f"{source} has no validation or test images; hold a part out with --valid-fraction 0.1")
    return data


def load_evaluated(source: str | Path) -> tuple[str, Split, tuple[str, ...], str]:
    """The images of such a source to evaluate on, with their split's name before, the class names and format after.

    These are the ones that `Data.evaluated` has, and "all" images where a folder has no splits. Raises as `load_data`.
    """
    data = load_data(source) if source == WITH_STROKES else _read(source)
    name, split = data.evaluated
    if not len(split):
        name, split = "all", data.train
        read, inner = _find(Path(source))
        if read is not load_folders or find_split(inner, TRAIN):
            raise InputError(f"the test images of {source} are none; give a data set that has some")
    return name, split, data.classes, data.format


def _read(source: str | Path) -> Data:
    folder = EMBEDDED if source == MNIST else Path(source)
    try:
        if source == MNIST:
            return load_idx(folder, MNIST, read_digests(folder / "SHA256SUMS"), restore=RESTORE)
        if isinstance(source, str) and source in NAMED:
            return load_named(source)
        if not os.path.isdir(folder):  # unlike Path's, False for a name that is too long or may not be looked up
            if os.path.isfile(folder):
                raise MissingData(f"{folder} is a file; give the folder that it is in")
            raise MissingData(
                f"no folder {folder}; --data takes {', '.join([MNIST, WITH_STROKES, *NAMED])}, "
                "or a folder of IDX files, of images by class, or with Kaggle's train.csv"
            )
        read, inner = _find(folder)
        return read(inner, os.path.abspath(folder))
    except OSError as e:  # of a folder that may not be listed, or was removed meanwhile
        raise InputError(f"{e.filename or folder} cannot be read ({e.strerror or e}); restore it") from e
    except RecursionError as e:
        raise InputError(f"{folder} has folders nested too deep; move the images up") from e


def _find(folder: Path):
    """What reads a folder, and the folder in it that has the files: it, or the one that it has nothing beside."""
    for _ in range(DEPTH):
        inside = subfolders(folder)
        sets = [name for name in inside if os.path.isdir(folder / name / "raw")]
        if idx_files(folder):
            return _load_idx, folder
        if find_tables(folder):
            return load_tables, folder
        if len(sets) > 1:
            raise InputError(f"{folder} has the data sets {', '.join(sets)}; name one, as {folder / sets[0]}")
        if "raw" in inside and idx_files(folder / "raw"):
            return _load_idx, folder / "raw"
        if len(inside) != 1 or any(inside[0].lower() in names for names in SPLITS):
            break
        below = folder / inside[0]
        if not (subfolders(below) or idx_files(below) or find_tables(below)):
            break
        folder = below
    return load_folders, folder


def _load_idx(folder: Path, source: str) -> Data:
    named = usual_names(folder)
    return load_idx(folder, source, classes=named.classes, first=named.first) if named else load_idx(folder, source)


def _load_drawn() -> Split:
    try:
        digests = read_digests(DRAWN / "SHA256SUMS")
        images, labels = (
            read_idx(DRAWN / f"{name}.gz", digest, restore=RESTORE) for name, digest in sorted(digests.items())
        )
    except OSError as e:
        raise InputError(f"{e.filename or DRAWN} cannot be read ({e.strerror or e}); restore it") from e
    return Split(images, labels.astype(np.int64))
