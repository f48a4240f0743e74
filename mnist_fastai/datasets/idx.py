"""IDX files, as MNIST and the sets like it are distributed."""

import gzip
import hashlib
import io
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_bytes
from .base import SIZE, Data, Split

MAX_BYTES = 2**30  # of an IDX file; the largest known, EMNIST by class, has 0.6 GiB
# A gzip file of 1 MB can hold 1 GB of zeros. MNIST's images are 5 times as large as their file, and images with a
# single pixel of ink 180 times.
MAX_RATIO = 200  # of the content's size to that of its gzip file,
CHECKED_BYTES = 2**26  # where the content is larger than this
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, sha256: str | None = None, *, restore: str = "download it again") -> np.ndarray:
    """Read an IDX file, gzipped or not, into an array of the type and shape that its header says.

    Format: <http://yann.lecun.com/exdb/mnist/>. Raises InputError unless the file is exactly what its header says,
    and, where `sha256` is given, has that digest when uncompressed; its message ends with how to `restore` it. No more
    memory is taken than for the array.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path} is no regular file; remove it" if path.exists() else f"no file {path}")
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            zipped = f.read(2) == b"\x1f\x8b"
            f.seek(0)
            stream = gzip.GzipFile(fileobj=f) if zipped else f
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_DTYPES or not 1 <= head[3] <= 4:
                raise InputError(f"{path} is no IDX file (it begins with {head.hex(' ') or 'nothing'}); {restore}")
            dims = stream.read(4 * head[3])
            shape = tuple(int.from_bytes(dims[i : i + 4], "big") for i in range(0, len(dims), 4))
            dtype = np.dtype(_IDX_DTYPES[head[2]])
            wanted = dtype.itemsize * math.prod(shape)
            complete = len(dims) == 4 * head[3]
            if complete and not wanted:
                raise InputError(f"{path} holds nothing: its header promises {shape}; {restore}")
            if wanted > MAX_BYTES or (zipped and wanted > max(CHECKED_BYTES, MAX_RATIO * size)):
                raise InputError(f"{path} is damaged or no set like MNIST: its header promises {shape}; {restore}")
            expected = size if zipped else len(head) + len(dims) + wanted
            truncated = InputError(f"{path} is truncated: its header promises {shape}; {restore}")
            too_long = InputError(f"{path} goes on after the {shape} that its header promises; {restore}")
            if not complete or size < expected:
                raise truncated
            if size > expected:
                raise too_long
            digest = hashlib.sha256(head + dims)
            content, at = np.empty(wanted, np.uint8), 0
            while part := stream.read(min(2**20, wanted - at)):
                content[at : at + len(part)] = np.frombuffer(part, np.uint8)
                if sha256:
                    digest.update(part)
                at += len(part)
            if at < wanted:
                raise truncated
            if stream.read(1):
                raise too_long
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read ({e}); {restore}") from e
    if sha256 and digest.hexdigest() != sha256:
        raise InputError(f"{path} is not the file that it should be (its SHA-256 differs); {restore}")
    array = content.view(dtype).reshape(shape)
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def read_digests(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8")
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line: any characters, without the white space around them."""
    try:
        text = read_bytes(path, 2**20).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{path} cannot be read ({e}); write it as UTF-8, one class per line") from e
    lines = io.StringIO(text, newline=None)  # str.splitlines would part names at form feeds and the like as well
    return tuple(name for line in lines if (name := line.strip()))


def idx_files(folder: Path) -> list[Path]:
    """What is named like an IDX file, also in a folder of the same name, which unpacking may make around it.

    Kaggle's archive has both; the file counts then.
    """
    found = [p for p in sorted(folder.iterdir()) if re.search("(images|labels).idx", p.name, re.I) and p.name[0] != "."]
    files = [p for p in found if not os.path.isdir(p)]
    names = {_plain(p.name) for p in files}
    return files + [p / p.name for p in found if os.path.isfile(p / p.name) and _plain(p.name) not in names]


def _plain(name: str) -> str:
    return name.lower().replace(".idx", "-idx").removesuffix(".gz")


def load_idx(
    folder: Path,
    source: str | None = None,  # of the Data; by default the folder
    digests: dict[str, str] | None = None,  # SHA-256 of the uncompressed files, by name
    *,
    restore: str = "download it again",  # what a file is mended by
    classes: tuple[str, ...] = (),  # that hold where there is no classes.txt
    first: int = 0,  # the label of the first of them
) -> Data:
    """Read a folder of IDX files; there may be none for the test images."""
    files = [p for p in idx_files(folder) if not digests or p.name.removesuffix(".gz") in digests]

    def find(what: str, which: tuple[str, ...]) -> Path | None:
        names = [p for p in files if what in p.name.lower() and any(w in p.name.lower() for w in which)]
        names = [p for p in names if p.suffix.lower() != ".gz" or p.with_suffix("") not in names]  # the same, unpacked
        if len(names) > 1:
            raise InputError(
                f"{folder} has {len(names)} files ({', '.join(p.name for p in names)}) for the {which[0]} {what}; "
                f"it needs one, like {which[0]}-{what}-idx"
            )
        return names[0] if names else None

    def read(path: Path) -> np.ndarray:
        return read_idx(path, digests and digests[path.name.removesuffix(".gz")], restore=restore)

    parts = []
    for which in (("train",), ("t10k", "test")):
        image_file, label_file = (find(what, which) for what in ("images", "labels"))
        if parts and not image_file and not label_file:
            break
        if not image_file or not label_file:
            what = "labels" if image_file else "images"
            raise InputError(
                f"{folder} has no file for the {which[0]} {what}; it needs one, like {which[0]}-{what}-idx"
            )
        images, labels = read(image_file), read(label_file)
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE) or not len(images):
            raise InputError(f"{image_file} holds {images.dtype} {images.shape}, not uint8 images of {SIZE}×{SIZE}")
        if labels.ndim == 2 and labels.dtype == np.int32:
            labels = labels[:, 0]  # QMNIST: the class, then the writer and more
        if labels.ndim != 1 or labels.dtype.kind not in "ui" or (labels < 0).any():
            raise InputError(f"{label_file} holds {labels.dtype} {labels.shape}, not a label an image")
        if len(images) != len(labels):
            raise InputError(f"{image_file} has {len(images)} images, but {label_file} has {len(labels)} labels")
        if "emnist" in image_file.name.lower():
            images = images.transpose(0, 2, 1)  # EMNIST's files are written column by column
        parts.append((np.ascontiguousarray(images), labels.astype(np.int64)))

    every = np.concatenate([labels for _, labels in parts])
    names_file, highest = folder / "classes.txt", int(every.max())
    if os.path.lexists(names_file):
        classes = read_classes(names_file)
        first = int(every.min() > 0 and len(classes) == highest)  # EMNIST's letters are labelled from 1
        if len(set(classes)) < len(classes) or len(classes) <= highest - first:
            raise InputError(f"{names_file} must name each class once, {highest + 1} in all")
    values = np.arange(first, first + len(classes))
    if not np.isin(every, values).all():
        values = np.unique(every)
        classes = tuple(str(v) for v in values)
    splits = [Split(images, np.searchsorted(values, labels)) for images, labels in parts]
    return Data(splits[0], splits[1] if len(splits) > 1 else Split(), classes, source=source or str(folder))
