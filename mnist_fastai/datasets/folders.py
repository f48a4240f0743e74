"""Folders of images by class, as fastai lays them out."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from .base import SIZE, Data, Split

# A fixed list: fastai takes its own from the machine's mime types, so that another machine has another data set
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pbm"}
TRAIN, VALID, TEST = ("training", "train"), ("validation", "valid", "val"), ("testing", "test")


def load_folders(folder: Path) -> Data:
    """Read `<split>/<class>/*`, or `<class>/*` where there are no splits."""
    train, valid, test = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (TRAIN, VALID, TEST)
    )
    if train is None and (other := valid or test):
        raise InputError(f"{folder} has {other.name}/ but no {' or '.join(TRAIN)} folder beside it")
    train = train or folder
    classes = tuple(_subfolders(train))
    if len(classes) < 2:
        raise InputError(f"{train} has {len(classes)} class folder{'s' * (len(classes) != 1)}; it needs two or more")

    def read(root: Path | None) -> Split:
        if root is None:
            return Split()
        if unknown := [name for name in _subfolders(root) if name not in classes]:
            raise InputError(f"{root} has a class that {train} lacks: {unknown[0]}")
        images, labels = [], []
        for label, name in enumerate(classes):
            files = sorted(p for p in (root / name).rglob("*") if _is_image(p.relative_to(root)) and p.is_file())
            if not files and root is train:
                raise InputError(f"{root / name} has no images; put some there, or remove the folder")
            images += [_read_image(f) for f in files]
            labels += [label] * len(files)
        if not images:
            raise InputError(f"{root} has no images; put some there, or remove it and use --valid-fraction 0.1")
        return Split(np.array(images, np.uint8), np.array(labels))

    return Data(read(train), read(test), classes, read(valid), str(folder))


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(to_grey28(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"{path} cannot be read as an image ({e}); repair or remove it") from e


def to_grey28(image: Image.Image) -> Image.Image:
    """An 8-bit grey image of 28×28 pixels. Raises ValueError for pixels of no known range (16-bit, float)."""
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of mode {image.mode} have no known range; give an 8-bit image")
    image = image.convert("L")
    return image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
