"""IDX files, as MNIST and the sets like it are distributed."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from .base import SIZE, Data, Split

MAX_BYTES = 2**30  # of an IDX file; the largest known, EMNIST by class, has 0.6 GiB
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, sha256: str | None = None) -> np.ndarray:
    """Read an IDX file, gzipped or not, into an array of the type and shape that its header says.

    Format: <http://yann.lecun.com/exdb/mnist/>. Raises InputError unless the file is exactly what its header says,
    and, where `sha256` is given, has that digest when uncompressed.
    """
    path = Path(path)
    try:
        with open(path, "rb") as f:
            zipped = f.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rb") as f:
            head = f.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_DTYPES or not 1 <= head[3] <= 4:
                raise InputError(f"{path} is no IDX file (it begins with {head.hex(' ') or 'nothing'})")
            dims = f.read(4 * head[3])
            shape = tuple(int.from_bytes(dims[i : i + 4], "big") for i in range(0, len(dims), 4))
            dtype = np.dtype(_IDX_DTYPES[head[2]])
            wanted = dtype.itemsize * math.prod(shape)
            if wanted > MAX_BYTES:
                raise InputError(f"{path} is damaged or no set like MNIST: its header promises {shape}")
            body = f.read(wanted) if len(dims) == 4 * head[3] else b""
            if len(dims) < 4 * head[3] or len(body) < wanted:
                raise InputError(f"{path} is truncated: its header promises {shape}; download it again")
            if f.read(1):
                raise InputError(f"{path} goes on after the {shape} that its header promises; download it again")
    except FileNotFoundError as e:
        raise InputError(f"no file {path}") from e
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read ({e}); download it again") from e
    if sha256 and hashlib.sha256(head + dims + body).hexdigest() != sha256:
        raise InputError(f"{path} is not the file that it should be (its SHA-256 differs); install the package again")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_digests(path: Path) -> dict[str, str]:
    return {name: digest for digest, name in (line.split() for line in path.read_text().splitlines())}


def load_idx(folder: Path, source: str | None = None, digests: dict[str, str] | None = None) -> Data:
    """Read a folder of IDX files; `digests` are those of the uncompressed files, by name."""

    def find(what: str, which: tuple[str, ...]) -> Path:
        names = [p for p in sorted(folder.iterdir()) if "idx" in p.name and what in p.name]
        names = [p for p in names if any(w in p.name for w in which)]
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
    if names_file.exists():
        try:
            classes = tuple(line.strip() for line in names_file.read_text("utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{names_file} cannot be read ({e}); write it as UTF-8, a class a line") from e
        if len(set(classes)) < len(classes) or len(classes) <= max(train_y.max(), test_y.max()):
            raise InputError(f"{names_file} must name each class once, {max(train_y.max(), test_y.max()) + 1} in all")
    else:
        values = np.unique(np.concatenate([train_y, test_y]))
        classes = tuple(str(v) for v in values)
        train_y, test_y = np.searchsorted(values, train_y), np.searchsorted(values, test_y)
    train, test = (
        Split(np.ascontiguousarray(x), y.astype(np.int64)) for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return Data(train, test, classes, source=source or str(folder))
