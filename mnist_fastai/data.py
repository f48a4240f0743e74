"""MNIST and sets like it: files → uint8 tensors → DataBlock → DataLoaders that index a whole batch at once."""

import gzip
import hashlib
import io
import itertools
import math
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import IndexSplitter, ItemGetter, Normalize, get_image_files
from fastai.torch_core import TensorCategory
from fastai.vision.core import PILImageBW, TensorImageBW
from fastai.vision.data import ImageBlock
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor

from .augment import AUGMENT
from .errors import InputError
from .recipes import NORMALIZE

SIZE = 28  # pixels, of a side of an image
EMBEDDED = Path(__file__).parent / "datasets" / "mnist"
EVAL_BATCH = 500  # images in a validation batch
PREPARED = 1024  # images that go through the batch transforms at once, see TensorDL

MAX_BYTES = 2**30  # of an IDX file; the largest known, EMNIST by class, has 0.6 GiB

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_TRAIN, _TEST = ("training", "train"), ("testing", "test", "valid")


@dataclass(frozen=True)
class Split:
    """Images and what they show."""

    images: Tensor  # uint8 [n, 28, 28], 0 the background and 255 full ink
    labels: Tensor  # int64 [n], indices into the classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Data:
    """An MNIST-like set: what to train on, what to report on, and the classes' names."""

    train: Split
    valid: Split  # the test images, unless `hold_out` made it
    classes: tuple[str, ...]

    def __repr__(self):  # short, since fastai formats a DataBlock's source
        return f"Data({len(self.train)} + {len(self.valid)} images, {len(self.classes)} classes)"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the images and labels of both splits, and the class names."""
        sha = hashlib.sha256("\n".join(self.classes).encode())
        for t in (self.train.images, self.train.labels, self.valid.images, self.valid.labels):
            sha.update(t.numpy().tobytes())
        return sha.hexdigest()

    def items(self) -> list[tuple[np.ndarray, str]]:
        """An image, uint8 [28, 28], and its class's name for each: the training split, then the validation split."""
        return [
            (image, self.classes[label])
            for split in (self.train, self.valid)
            for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True)
        ]

    def hold_out(self, fraction: float) -> "Data":
        """Report on a `fraction` of the training images in place of the test images, of each class alike.

        The same images each time, whatever the recipe's seed, so that runs can be compared image by image.
        """
        try:
            kept, held = train_test_split(
                np.arange(len(self.train)),
                test_size=fraction,
                stratify=self.train.labels.numpy(),
                random_state=0,
            )
        except ValueError as e:
            raise InputError(
                f"a valid fraction of {fraction} of {len(self.train)} images leaves a class without any on one side; "
                "give another"
            ) from e
        kept, held = np.sort(kept), np.sort(held)
        return replace(self, train=self.train[kept], valid=self.train[held])


# --- files to tensors ---------------------------------------------------------------------------------------------


def load_data(source: str | Path = "mnist", valid_fraction: float = 0.0) -> Data:
    """Read "mnist" (embedded, checked by digest) or a folder: IDX files, or images by class.

    A folder of IDX files has one each for training and test images and labels, gzipped or not, as MNIST,
    Fashion-MNIST, KMNIST, EMNIST and QMNIST name them; a `classes.txt` beside them names the classes, a line each.
    A folder of images has `training/<class>/*` and `testing/<class>/*` (or train, test, valid), or the classes
    alone, which then needs a `valid_fraction`. Images are made grey and 28×28.

    Raises InputError where the folder or a file in it is missing, damaged or of another kind.
    """
    if source == "mnist":
        data = _load_idx(EMBEDDED, digests=_read_digests(EMBEDDED / "SHA256SUMS"))
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise InputError(f"no folder {folder}; --data takes mnist, or a folder of IDX files or of images by class")
        data = _load_idx(folder) if any("idx" in p.name for p in folder.iterdir()) else _load_images(folder)
    if valid_fraction:
        return data.hold_out(valid_fraction)
    if not len(data.valid):
        raise InputError(f"{source} has no {' or '.join(_TEST)} folder; hold a part out with --valid-fraction 0.1")
    return data


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


def _read_digests(path: Path) -> dict[str, str]:
    return {name: digest for digest, name in (line.split() for line in path.read_text().splitlines())}


def _load_idx(folder: Path, digests: dict[str, str] | None = None) -> Data:
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
    return Data(_split(train_x, train_y), _split(test_x, test_y), classes)


def _load_images(folder: Path) -> Data:
    def existing(names):
        return next((folder / n for n in names if (folder / n).is_dir()), None)

    train, test = existing(_TRAIN), existing(_TEST)
    if train is None and test is not None:
        raise InputError(f"{folder} has {test.name}/ but no {' or '.join(_TRAIN)} folder beside it")
    train = train or folder
    classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        raise InputError(f"{train} has {len(classes)} class folder{'s' * (len(classes) != 1)}; it needs two or more")

    def read(root: Path) -> Split:
        unknown = {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes)
        if unknown:
            raise InputError(f"{root} has a class that {train} lacks: {sorted(unknown)[0]}")
        images, labels = [], []
        for label, name in enumerate(classes):
            files = sorted(get_image_files(root / name)) if (root / name).is_dir() else []
            if not files and root is train:
                raise InputError(f"{root / name} has no images; put some there, or remove the folder")
            images += [_read_image(f) for f in files]
            labels += [label] * len(files)
        return _split(np.array(images, np.uint8).reshape(-1, SIZE, SIZE), np.array(labels))

    nothing = Split(torch.empty(0, SIZE, SIZE, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    data = Data(read(train), read(test) if test else nothing, classes)
    if test and not len(data.valid):
        raise InputError(f"{test} has no images; put some there, or remove it and use --valid-fraction 0.1")
    return data


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


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


# --- tensors to DataLoaders ---------------------------------------------------------------------------------------


class MNISTImage(PILImageBW):
    """A `PILImageBW` that is made grey and 28×28, whatever it was, so that `learn.predict` takes a photo as well."""

    @classmethod
    def create(cls, fn: Path | str | bytes | np.ndarray | Tensor | Image.Image, **_):
        """From a path, a file's bytes, uint8 pixels [28, 28] or [h, w(, 3)], or a PIL image, which stays as it is.

        Raises ValueError for pixels of no known range (16-bit, float).
        """
        if isinstance(fn, Image.Image):
            return cls(to_grey28(fn))
        if isinstance(fn, (np.ndarray, Tensor)):
            pixels = np.asarray(fn).squeeze()
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f"pixels of type {pixels.dtype} have no known range; give 8-bit ones, uint8 from 0 to 255"
                )
            return cls(to_grey28(Image.fromarray(pixels)))
        with Image.open(io.BytesIO(fn) if isinstance(fn, bytes) else fn) as image:
            return cls(to_grey28(image))


class TensorDL(TfmdDL):
    """A `TfmdDL` whose batches are one index operation on tensors that live on the training device.

    The batch transforms see PREPARED images at once and their result is cut into batches: what fastai spends on a
    call of the pipeline, 0.2 ms on a CPU, would be 9% of a LeNet step if each batch made one (benchmarks/step.md).
    A new dataset (`new(dataset)`, as `dls.test_dl` does) gets a plain TfmdDL, with the same transforms.
    """

    def __init__(self, dataset: Datasets, tensors: tuple[Tensor, Tensor], **kwargs):
        self.tensors = tensors  # uint8 [n, 1, 28, 28], int64 [n]
        super().__init__(dataset, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        same = dataset is None or dataset is self.dataset
        if same:
            kwargs.setdefault("tensors", self.tensors)
        return super().new(dataset, cls=cls or (TensorDL if same else TfmdDL), **kwargs)

    def get_idxs(self) -> Tensor:
        return torch.randperm(self.n) if self.shuffle else torch.arange(self.n)

    def __iter__(self):
        self.before_iter()
        images, labels = self.tensors
        idxs = self.get_idxs()
        if not isinstance(idxs, Tensor):  # fastai's own, such as show_batch(unique=True), may be endless
            idxs = torch.tensor(list(itertools.islice(idxs, self.n)))
        if self.drop_last:
            idxs = idxs[: len(self) * self.bs]
        for some in idxs.split(self.bs * max(1, PREPARED // self.bs)):
            some = some.to(images.device)
            xs, ys = self.after_batch((TensorImageBW(images[some]), TensorCategory(labels[some])))
            yield from zip(xs.split(self.bs), ys.split(self.bs), strict=True)
        self.after_iter()


def dataloaders(
    data: Data,
    batch_size: int = 32,
    normalize: str = "half",  # a key of NORMALIZE
    augment: str = "none",  # a key of AUGMENT
    *,
    device: str | torch.device = "cpu",
) -> DataLoaders:
    """fastai DataLoaders over `data`: training batches shuffled, the last one smaller where it does not come out even.

    Batches are float32 [batch, 1, 28, 28], normalised, and int64 [batch]. `dls.test_dl` and `learn.predict` take paths,
    PIL images and uint8 arrays.
    """
    stats = NORMALIZE[normalize]
    tfms = AUGMENT[augment], stats and Normalize.from_stats(*([s] for s in stats), cuda=False)
    block = DataBlock(
        blocks=(ImageBlock(MNISTImage), CategoryBlock(vocab=list(data.classes), sort=False)),
        get_items=Data.items,
        get_x=ItemGetter(0),
        get_y=ItemGetter(1),
        splitter=IndexSplitter(range(len(data.train), len(data.train) + len(data.valid))),
        batch_tfms=[t for t in tfms if t is not None],
    )
    dsets = block.datasets(data)
    parts = dsets.train, dsets.valid
    for tl in [tl for part in parts for tl in part.tls]:
        tl.splits = []  # 70,000 indices that nothing needs any longer, and learner.pkl would keep
    device = torch.device(device)
    tensors = [(s.images[:, None].to(device), s.labels.to(device)) for s in (data.train, data.valid)]
    train = TensorDL(
        parts[0], tensors[0], bs=batch_size, shuffle=True, num_workers=0, device=device,
        after_item=block.item_tfms, after_batch=block.batch_tfms,
    )  # fmt: skip
    valid = train.new(parts[1], cls=TensorDL, tensors=tensors[1], bs=EVAL_BATCH, shuffle=False)
    return DataLoaders(train, valid, path=Path("."), device=device)
