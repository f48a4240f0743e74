"""Folders of images by class, as fastai lays them out."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import log, walk
from ..reader.form import preprocess
from ..reader.framing import MOST, is_white_on_black
from ..reader.image import read_image
from .base import SIZE, Data, Split

# A fixed list: fastai takes its own from the machine's mime types, so that another machine has another data set
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pbm"}
TRAIN, VALID, TEST = ("training", "train"), ("validation", "valid", "val"), ("testing", "test")


def load_folders(folder: Path) -> Data:
    """Read `<split>/<class>/*`, or `<class>/*` where there are no splits.

    Training images that are all 28×28, and white on black, are left as they are. Of others, every image of the folder
    is brought into MNIST's format as `predict` does, and those without ink are left out.
    """
    train, *others = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (TRAIN, VALID, TEST)
    )
    if train is None and (other := next(filter(None, others), None)):
        raise InputError(f"{folder} has {other.name}/ but no {' or '.join(TRAIN)} folder beside it")
    train = train or folder
    classes = tuple(_subfolders(train))
    if len(classes) < 2:
        raise InputError(f"{train} has {len(classes)} class folder{'s' * (len(classes) != 1)}; it needs two or more")

    def find(root: Path | None) -> list[tuple[Path, int]]:
        """The images' files, and their labels."""
        if root is None:
            return []
        if unknown := [name for name in _subfolders(root) if name not in classes]:
            raise InputError(f"{root} has a class that {train} lacks: {unknown[0]}")
        found = []
        for label, name in enumerate(classes):
            path = root / name
            files = [p for p in walk(path) if p.suffix.lower() in SUFFIXES] if path.is_dir() else []
            if not files and root is train:
                raise InputError(f"{path} has no images; put some there, or remove the folder")
            found += [(file, label) for file in files]
        if not found:
            raise InputError(f"{root} has no images; put some there, or remove it and use --valid-fraction 0.1")
        return found

    files, *rest = (find(root) for root in (train, *others))
    whole, why = _read_whole(file for file, _ in files)
    if whole is None:
        count = sum(map(len, (files, *rest)))
        log.info("bringing %s pictures into MNIST's format, since %s", f"{count:,}", why)
    left_out: list[Path] = []

    def read(found: list[tuple[Path, int]]) -> Split:
        images, labels = [], []
        for file, label in found:
            grey = _read(file)
            if whole is None or grey.shape != (SIZE, SIZE):
                digits = preprocess(grey, single=True).digits
                if not digits:
                    left_out.append(file)
                    continue
                grey = digits[0].image
            images.append(grey)
            labels.append(label)
        if found and not images:
            raise InputError(f"no ink was found in any picture of {found[0][0].parents[1]}; put others there")
        return Split(np.array(images, np.uint8), np.array(labels)) if images else Split()

    first = read(files) if whole is None else Split(whole, np.array([label for _, label in files]))
    for label in set(range(len(classes))) - set(first.labels.tolist()):
        raise InputError(f"no ink was found in any picture of {train / classes[label]}; put others there")
    valid, test = map(read, rest)
    if left_out:
        log.warning("no ink was found in %s pictures, which are left out; the first is %s", len(left_out), left_out[0])
    return Data(first, test, classes, valid, str(folder), "pictures" if whole is None else "")


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_whole(files: Iterable[Path]) -> tuple[np.ndarray | None, str]:
    """Images that are 28×28 and white on black already, uint8 [n, 28, 28], or None and why they are not."""
    images = []
    for file in files:
        image = _read(file)
        if image.shape != (SIZE, SIZE):
            height, width = image.shape
            return None, f"{file} has {width}×{height} pixels"
        images.append(image)
    whole = np.array(images, np.uint8)
    dark = is_white_on_black(whole).mean()
    return (whole, "") if dark >= MOST else (None, f"{1 - dark:.0%} of the training images are not white on black")


def _read(file: Path) -> np.ndarray:
    try:
        return read_image(file)
    except InputError as e:
        raise InputError(f"{e}, or remove it") from e
