"""Folders of images by class, as fastai lays them out."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import read_bytes, walk
from ..reader.image import FORMATS, MAX_PIXELS, REASONS, name_of
from .base import SIZE, Data, Split

# A fixed list: fastai takes its own from the machine's mime types, so that another machine has another data set
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pbm"}
MAX_BYTES = 4 * MAX_PIXELS + 2**20  # of an image's file: uncompressed, with transparency
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
            path = root / name
            files = [p for p in walk(path) if p.suffix.lower() in SUFFIXES] if path.is_dir() else []
            if not files and root is train:
                raise InputError(f"{path} has no images; put some there, or remove the folder")
            images += [np.asarray(read_grey28(f)) for f in files]
            labels += [label] * len(files)
        if not images:
            raise InputError(f"{root} has no images; put some there, or remove it and use --valid-fraction 0.1")
        return Split(np.array(images, np.uint8), np.array(labels))

    return Data(read(train), read(test), classes, read(valid), str(folder))


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_grey28(source: str | Path | bytes) -> Image.Image:
    """`to_grey28` of a file or of its bytes. Raises InputError where it is no image of FORMATS, or is damaged."""
    name = name_of(source)
    content = source if isinstance(source, bytes) else read_bytes(source, MAX_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return to_grey28(image)
    except InputError as e:
        raise InputError(f"{name} cannot be used: {e}, or remove it") from e
    except Exception as e:  # Pillow's decoders raise whatever the damaged bytes lead them to
        why = next(why for kind, why in REASONS.items() if isinstance(e, kind)).format(name)
        raise InputError(f"{why}, or remove it") from e


def to_grey28(image: Image.Image) -> Image.Image:
    """An 8-bit grey image of 28×28 pixels.

    Raises InputError for pixels of no known range (16-bit, float), and for more than MAX_PIXELS.
    """
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"the image has over {MAX_PIXELS // 10**6} megapixels; make it smaller")
    if image.mode[0] in "IF":
        raise InputError(f"pixels of mode {image.mode} have no known range; give an 8-bit image")
    image = image.convert("L")
    return image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
