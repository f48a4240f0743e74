"""Data → fastai DataLoaders whose batches are one index operation on tensors in memory."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import IntToFloatTensor, ItemGetter, Normalize, ToTensor
from fastai.torch_core import TensorCategory
from fastai.vision.core import PILImageBW, TensorImageBW
from fastai.vision.data import ImageBlock
from PIL import Image
from torch import Tensor

from .augment import RandomAffine, RandomThickness, find_augment
from .datasets import Data, Split
from .errors import InputError
from .reader.form import read_digits
from .recipes import NORMALIZE

EVAL_BATCH = 500  # images per validation batch
PREPARED = 1024  # images that go through the batch transforms at once, see TensorDL
# batch transforms that treat each image by itself
IMAGEWISE = {IntToFloatTensor, Normalize, RandomAffine, RandomThickness}


class MNISTImage(PILImageBW):
    """A `PILImageBW` of 28×28 pixels, made of any picture as training pictures are, for `learn.predict`.

    Its subclasses are for models whose training images were in another format.
    """

    input_format = "mnist"  # one of IMAGE_FORMATS; PIL's own `format` is that of a file

    @classmethod
    def create(cls, fn: Path | str | bytes | BinaryIO | np.ndarray | Tensor | Image.Image, **_):
        """From uint8 pixels [28, 28], which are left as they are, or from any picture that `read_digits` takes.

        All ink is one digit. Raises InputError for what is no image, for one without ink, and for pixels of no known
        range (arrays of floats or 16 bits).
        """
        if isinstance(fn, MNISTImage):
            return cls(fn)
        if isinstance(fn, (np.ndarray, Tensor)):
            fn = np.asarray(fn).squeeze()
            if fn.dtype != np.uint8:
                raise InputError(f"pixels of type {fn.dtype} have no known range; give 8-bit ones, uint8 from 0 to 255")
            if fn.shape == (28, 28):
                return cls(Image.fromarray(fn))
        return cls(Image.fromarray(read_digits(fn, format=cls.input_format, single=True)[0][0]))


class WhiteOnBlackImage(MNISTImage):
    input_format = "28x28"


class PictureImage(MNISTImage):
    input_format = "pictures"


IMAGES = {cls.input_format: cls for cls in (MNISTImage, WhiteOnBlackImage, PictureImage)}


class TensorDL(TfmdDL):
    """A `TfmdDL` whose batches are one index operation on tensors that live on the training device.

    The package's own batch transforms see PREPARED images at once and their result is cut into batches: what fastai
    spends per call of the pipeline, 0.2 ms on a CPU, would be 9% of a LeNet step (benchmarks/step.md). A transform that
    is added later runs as in fastai: a batch transform once per batch, an item transform on each item, which then is
    read item by item. A new dataset (`new(dataset)`, as `dls.test_dl` does) gets a plain TfmdDL with the same
    transforms.
    """

    def __init__(self, dataset: Datasets, tensors: tuple[Tensor, Tensor], **kwargs):
        self.tensors = tensors  # uint8 [n, 1, 28, 28], int64 [n]
        super().__init__(dataset, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        same = dataset is None or dataset is self.dataset
        if same:
            kwargs.setdefault("tensors", self.tensors)
        return super().new(dataset, cls=cls or (TensorDL if same else TfmdDL), **kwargs)

    def to(self, device):
        super().to(device)
        self.tensors = tuple(t.to(self.device) for t in self.tensors)

    def get_idxs(self) -> list[int]:
        return (torch.randperm(self.n) if self.shuffle else torch.arange(self.n)).tolist()

    def __iter__(self):
        if self.before_batch.fs or any(type(t) is not ToTensor for t in self.after_item.fs):
            yield from super().__iter__()
            return
        self.before_iter()
        images, labels = self.tensors
        index = torch.tensor(list(itertools.islice(self.get_idxs(), self.n)), device=images.device)  # some are endless
        if self.drop_last:
            index = index[: len(self) * self.bs]
        imagewise = all(type(t) in IMAGEWISE for t in self.after_batch.fs)
        for part in index.split(self.bs * max(1, PREPARED // self.bs) if imagewise else self.bs):
            batch = self.after_batch((TensorImageBW(images[part]), TensorCategory(labels[part])))
            yield from zip(*(t.split(self.bs) for t in batch), strict=True) if len(part) > self.bs else [batch]
        self.after_iter()


class LazyDataLoaders(DataLoaders):
    """DataLoaders that read their images when a split is first asked for, as predicting and exporting do not."""

    def __init__(self, empty: DataLoaders, read: Callable[[torch.device], DataLoaders]):
        self._empty, self._read, self._full = empty, read, None
        self.path = empty.path

    @property
    def loaders(self) -> list[TfmdDL]:
        if self._full is None:
            self._full = self._read(self.device)
        return self._full.loaders

    @property
    def device(self) -> torch.device:
        return self._empty.device

    @device.setter
    def device(self, device):
        self._empty.device = device
        if self._full is not None:
            self._full.device = device

    @property
    def vocab(self):
        return self._empty.vocab

    @property
    def n_inp(self) -> int:
        return self._empty.n_inp

    def decode_batch(self, *args, **kwargs):
        return self._empty.decode_batch(*args, **kwargs)

    def test_dl(self, *args, **kwargs) -> TfmdDL:
        return self._empty.test_dl(*args, **kwargs)

    def new_empty(self) -> DataLoaders:
        return self._empty.new_empty()


def find_normalize(normalize) -> tuple[float, float] | None:
    """Mean and standard deviation for a key of NORMALIZE, for such a pair, or None. Raises InputError for neither."""
    if normalize is None or (isinstance(normalize, str) and normalize in NORMALIZE):
        return normalize and NORMALIZE[normalize]
    try:
        mean, std = map(float, normalize)
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"normalize {normalize!r} is not known; take one of {', '.join(NORMALIZE)}, or a mean and a std above 0"
        ) from None
    return mean, std


def dataloaders(
    data: Data,
    batch_size: int = 32,
    normalize="half",  # a key of NORMALIZE, a mean and a std, or None
    augment="none",  # a key of AUGMENTS, "package.module:name", a batch transform or several, or a function of a batch
    *,
    device: str | torch.device = "cpu",
) -> DataLoaders:
    """fastai DataLoaders over `data`: train, valid (the held-out images, or else the test images), and test as a third
    where there are held-out images as well.

    Training batches are shuffled, the last one smaller where the images do not divide evenly; a last one of a single
    image, whose variance batch norm lacks, is left out. Batches are float32 [batch, 1, 28, 28], normalised, and int64
    [batch]. `dls.test_dl` and `learn.predict` take paths, PIL images
    and uint8 arrays, and bring them into the format of `data`.
    """
    stats = find_normalize(normalize)
    ends = list(itertools.accumulate((len(split) for split in data.loaded), initial=0))
    block = DataBlock(
        blocks=(ImageBlock(IMAGES[data.format]), CategoryBlock(vocab=list(data.classes), sort=False)),
        get_items=Data.items,
        get_x=ItemGetter(0),
        get_y=ItemGetter(1),
        splitter=lambda _: [range(*pair) for pair in itertools.pairwise(ends)],
        batch_tfms=[
            *find_augment(augment),
            *([Normalize.from_stats(*([s] for s in stats), cuda=False)] if stats else []),
        ],
    )
    datasets = block.datasets(data)
    parts = [datasets.subset(i) for i in range(len(data.loaded))]
    for tl in [tl for part in parts for tl in part.tls]:
        tl.splits = []  # 70,000 indices that nothing needs any longer, and learner.pkl would keep
    device, n = torch.device(device), len(data.train)
    tensors = [(s.images[:, None].to(device), s.labels.to(device)) for s in data.loaded]
    train = TensorDL(
        parts[0], tensors[0], bs=batch_size, shuffle=True, num_workers=0, device=device,
        after_item=block.item_tfms, after_batch=block.batch_tfms,
        drop_last=n % batch_size == 1 < batch_size < n,
    )  # fmt: skip
    rest = [
        train.new(part, cls=TensorDL, tensors=t, bs=EVAL_BATCH, shuffle=False, drop_last=False)
        for part, t in zip(parts[1:], tensors[1:], strict=True)
    ]
    return DataLoaders(train, *rest, path=Path("."), device=device)


def empty_dataloaders(
    classes: tuple[str, ...], normalize, format: str, *, device: str | torch.device = "cpu"
) -> DataLoaders:
    """DataLoaders without images that predict as those of `dataloaders` do."""
    one = Split(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))  # fastai looks at an item
    return dataloaders(Data(one, one, classes, format=format), 1, normalize, device=device).new_empty()
