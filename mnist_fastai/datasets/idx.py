"""IDX files, as MNIST and the sets like it are distributed."""

import gzip
import hashlib
import io
import math
import os
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


def read_idx(path: str | Path, sha256: str | None = None) -> np.ndarray:
    """Read an IDX file, gzipped or not, into an array of the type and shape that its header says.

    Format: <http://yann.lecun.com/exdb/mnist/>. Raises InputError unless the file is exactly what its header says,
    and, where `sha256` is given, has that digest when uncompressed. No more memory is taken than for the array.
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
                raise InputError(
                    f"{path} is no IDX file (it begins with {head.hex(' ') or 'nothing'}); download it again"
                )
            dims = stream.read(4 * head[3])
            shape = tuple(int.from_bytes(dims[i : i + 4], "big") for i in range(0, len(dims), 4))
            dtype = np.dtype(_IDX_DTYPES[head[2]])
            wanted = dtype.itemsize * math.prod(shape)
            complete = len(dims) == 4 * head[3]
            if complete and not wanted:
                raise InputError(f"{path} holds nothing: its header promises {shape}; download it again")
            if wanted > MAX_BYTES or (zipped and wanted > max(CHECKED_BYTES, MAX_RATIO * size)):
                raise InputError(
                    f"{path} is damaged or no set like MNIST: its header promises {shape}; download it again"
                )
            expected = size if zipped else len(head) + len(dims) + wanted
            if not complete or size < expected:
                raise _truncated(path, shape)
            if size > expected:
                raise _too_long(path, shape)
            digest = hashlib.sha256(head + dims)
            content, at = np.empty(wanted, np.uint8), 0
            while part := stream.read(min(2**20, wanted - at)):
                content[at : at + len(part)] = np.frombuffer(part, np.uint8)
                if sha256:
                    digest.update(part)
                at += len(part)
            if at < wanted:
                raise _truncated(path, shape)
            if stream.read(1):
                raise _too_long(path, shape)
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read ({e}); download it again") from e
    if sha256 and digest.hexdigest() != sha256:
        raise InputError(f"{path} is not the file that it should be (its SHA-256 differs); install the package again")
    array = content.view(dtype).reshape(shape)
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _truncated(path: Path, shape: tuple[int, ...]) -> InputError:
    return InputError(f"{path} is truncated: its header promises {shape}; download it again")


def _too_long(path: Path, shape: tuple[int, ...]) -> InputError:
    return InputError(f"{path} goes on after the {shape} that its header promises; download it again")


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
    """What is named like an IDX file; no folders, which Kaggle's archive has beside them under the same names."""
    return [p for p in sorted(folder.iterdir()) if "idx" in p.name and p.name[0] != "." and not os.path.isdir(p)]


def load_idx(folder: Path, source: str | None = None, digests: dict[str, str] | None = None) -> Data:
    """Read a folder of IDX files; `digests` are those of the uncompressed files, by name."""
    files = idx_files(folder)

    def find(what: str, which: tuple[str, ...]) -> Path:
        names = [p for p in files if what in p.name and any(w in p.name for w in which)]
        names = [p for p in names if p.suffix != ".gz" or p.with_suffix("") not in names]  # the same file, unpacked
        if len(names) != 1:
            found = f"{len(names)} files ({', '.join(p.name for p in names)})" if names else "no file"
            raise InputError(
                f"{folder} has {found} for the {which[0]} {what}; it needs one, like {which[0]}-{what}-idx"
            )
        return names[0]

    def read(path: Path) -> np.ndarray:
        return read_idx(path, digests and digests[path.name.removesuffix(".gz")])

    splits = {}
    for which in (("train",), ("t10k", "test")):
        image_file, label_file = find("images", which), find("labels", which)
        images, labels = read(image_file), read(label_file)
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE) or not len(images):
            raise InputError(f"{image_file} holds {images.dtype} {images.shape}, not uint8 images of {SIZE}×{SIZE}")
        if labels.ndim == 2 and labels.dtype == np.int32:
            labels = labels[:, 0]  # QMNIST: the class, then the writer and more
        if labels.ndim != 1 or labels.dtype.kind not in "ui" or (labels < 0).any():
            raise InputError(f"{label_file} holds {labels.dtype} {labels.shape}, not a label an image")
        if len(images) != len(labels):
            raise InputError(f"{image_file} has {len(images)} images, but {label_file} has {len(labels)} labels")
        if "emnist" in image_file.name:
            images = images.transpose(0, 2, 1)  # EMNIST's files are written column by column
        splits[which] = images, labels
    (train_x, train_y), (test_x, test_y) = splits.values()

    names_file = folder / "classes.txt"
    if os.path.lexists(names_file):
        classes = read_classes(names_file)
        highest = max(int(train_y.max()), int(test_y.max()))
        if len(set(classes)) < len(classes) or len(classes) <= highest:
            raise InputError(f"{names_file} must name each class once, {highest + 1} in all")
    else:
        values = np.unique(np.concatenate([train_y, test_y]))
        classes = tuple(str(v) for v in values)
        train_y, test_y = np.searchsorted(values, train_y), np.searchsorted(values, test_y)
    train, test = (
        Split(np.ascontiguousarray(x), y.astype(np.int64)) for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return Data(train, test, classes, source=source or str(folder))
