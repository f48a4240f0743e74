"""Folders of images by class, as fastai lays them out."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import log, walk
from ..reader.form import preprocess
from ..reader.framing import MOST, is_in_format, is_white_on_black
from ..reader.image import read_image
from .base import SIZE, Data, Split

# A fixed list: fastai takes its own from the machine's mime types, so that another machine has another data set
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pbm"}
TRAIN, VALID, TEST = SPLITS = ("training", "train"), ("validation", "valid", "val"), ("testing", "test")  # in any case


def load_folders(folder: Path, source: str) -> Data:
    """Read `<split>/<class>/*`, or `<class>/*` where there are no splits.

    Training images that are all 28×28, and white on black, are left as they are, and so are such images of the other
    splits. Every other image is brought into MNIST's format as `predict` does, and those without ink are left out. So
    are files of other formats, and images that are in no class folder, as a whole test folder may be.
    """
    train, *others = (find_split(folder, names) for names in SPLITS)
    if train is None and (other := next(filter(None, others), None)):
        raise InputError(f"{folder} has {other.name}/ but no {' or '.join(TRAIN)} folder beside it")
    train = train or folder
    classes = tuple(subfolders(train))
    if not classes:
        raise InputError(
            f"{train} has no class folders{_content(train)}; give images by class, as {train / '3' / 'a.png'}, "
            "IDX files, or Kaggle's train.csv, whose header is label, pixel0 to pixel783"
        )
    if len(classes) < 2:
        raise InputError(f"{train} has 1 class folder, {classes[0]}; it needs two or more")
    left_out: dict[str, list[Path]] = {"file": [], "loop": [], "unlabelled": [], "no ink": []}

    def find(root: Path | None) -> list[tuple[Path, int]]:
        """The images' files, and their labels."""
        if root is None:
            return []
        if unknown := [name for name in subfolders(root) if name not in classes]:
            raise InputError(f"{root} has a class that {train} lacks: {unknown[0]}")
        unlabelled = [p for p in _files(root) if p.suffix.lower() in SUFFIXES]
        left_out["unlabelled"] += unlabelled
        found = []
        for label, name in enumerate(classes):
            path = root / name
            if path.is_symlink() and root.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{path} is a link to a folder that it is in; remove it")
            files = list(walk(path, on_loop=left_out["loop"].append)) if path.is_dir() else []
            images = [p for p in files if p.suffix.lower() in SUFFIXES]
            left_out["file"] += [p for p in files if p.suffix.lower() not in SUFFIXES]
            if not images and root is train:
                raise InputError(f"{path} has no images; put some there, or remove the folder")
            found += [(file, label) for file in images]
        if not found and not unlabelled:
            raise InputError(f"{root} has no images; put some there, or remove it and use --valid-fraction 0.1")
        return found

    files, *rest = (find(root) for root in (train, *others))
    whole, why = _read_whole(file for file, _ in files)
    if whole is None:
        count = sum(map(len, (files, *rest)))
        log.info("bringing %s pictures into MNIST's format, since %s", f"{count:,}", why)

    def read(found: list[tuple[Path, int]]) -> Split:
        if not found:
            return Split()
        images, labels = [], []
        as_they_are = whole is not None and _read_whole(file for file, _ in found)[0] is not None
        for file, label in found:
            grey = _read(file)
            if not (as_they_are or (whole is not None and is_in_format(grey, "28x28"))):
                digits = preprocess(grey, single=True).digits
                if not digits:
                    left_out["no ink"].append(file)
                    continue
                grey = digits[0].image
            images.append(grey)
            labels.append(label)
        if not images:
            raise InputError(f"no ink was found in any picture of {found[0][0].parents[1]}; put others there")
        return Split(np.array(images, np.uint8), np.array(labels))

    first = read(files) if whole is None else Split(whole, np.array([label for _, label in files]))
    for label in set(range(len(classes))) - set(first.labels.tolist()):
        raise InputError(f"no ink was found in any picture of {train / classes[label]}; put others there")
    valid, test = map(read, rest)
    kinds = ", ".join(sorted({p.suffix.lower() or "no suffix" for p in left_out["file"]}))
    why = {
        "file": ("file", f"of another format ({kinds})"),
        "loop": ("link", "back to a folder above"),
        "unlabelled": ("picture", "in no class folder"),
        "no ink": ("picture", "in which no ink was found"),
    }
    if said := [f"{_counted(paths, *why[k])}, the first {paths[0]}" for k, paths in left_out.items() if paths]:
        log.warning("left out: %s", "; ".join(said))
    return Data(first, test, classes, valid, source, "pictures" if whole is None else "")


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, without hidden ones and what macOS puts beside them in an archive."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name != "__MACOSX")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")


def find_split(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The folder that bears one of the names, in any case. Raises InputError where there are several."""
    found = [name for name in subfolders(folder) if name.lower() in names]
    if len(found) > 1:
        raise InputError(f"{folder} has {' and '.join(found)}, which mean the same; keep one of them")
    return folder / found[0] if found else None


def _counted(paths: list[Path], kind: str, what: str = "") -> str:
    return f"{len(paths):,} {kind}{'s' * (len(paths) != 1)} {what}".strip()


def _content(folder: Path) -> str:
    """What a folder has that is of no use there."""
    files = _files(folder)
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    if pictures or len(files) != 1:
        return f", but {_counted(pictures or files, 'picture' if pictures else 'file')}" if files else ""
    return f", but {files[0].name}"


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
