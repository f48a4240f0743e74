"""Images, labels and class names in memory."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from ..errors import InputError
from ..reader.framing import find_format
from ..reader.image import SIZE
from ..recipes import IMAGE_FORMATS, PASSED, WITH_STROKES


class Split:
    """Images and their labels. Raises InputError where they do not fit together."""

    images: Tensor  # uint8 [n, 28, 28], 0 the background and 255 full ink
    labels: Tensor  # int64 [n], indices of classes

    def __init__(self, images: Tensor | np.ndarray | None = None, labels: Tensor | np.ndarray | None = None):
        self.images = torch.as_tensor(np.empty((0, SIZE, SIZE), np.uint8) if images is None else images).contiguous()
        labels = torch.as_tensor(np.empty(0, np.int64) if labels is None else labels)
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != (SIZE, SIZE):
            kind = f"{str(self.images.dtype).removeprefix('torch.')} {list(self.images.shape)}"
            raise InputError(f"images are {kind}; give uint8 [n, {SIZE}, {SIZE}], 0 the background and 255 full ink")
        if labels.is_floating_point() or labels.shape != self.images.shape[:1] or (labels < 0).any():
            raise InputError(f"labels do not fit {len(self.images)} images; give a class index, 0 or more, per image")
        self.labels = labels.to(torch.int64)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Split":
        return Split(self.images[index], self.labels[index])

    def __add__(self, other: "Split") -> "Split":
        return Split(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))

    @property
    def digest(self) -> str:
        """SHA-256 of the images and labels."""
        digest = hashlib.sha256(self.images.numpy())
        digest.update(np.ascontiguousarray(self.labels.numpy()))
        return digest.hexdigest()


@dataclass(frozen=True)
class Data:
    """An MNIST-like set. Raises InputError where classes and labels do not fit, and for an unknown format."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # in the order of the labels
    valid: Split = field(default_factory=Split)  # held out of the training images, for what chooses
    source: str = PASSED  # the name of a data set, or the path of a folder
    format: str = ""  # one of recipes.IMAGE_FORMATS; by default "mnist" or "28x28", by the training images' framing

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        highest = max((int(s.labels.max()) for s in self.splits.values()), default=-1)
        if len(set(self.classes)) < len(self.classes) or highest >= len(self.classes):
            raise InputError(f"{len(self.classes)} class names for labels up to {highest}; name each class once")
        if not self.format:
            object.__setattr__(self, "format", find_format(self.train.images.numpy()))
        if self.format not in IMAGE_FORMATS:
            raise InputError(f"format {self.format!r} is not known; take one of {', '.join(IMAGE_FORMATS)}")

    def __repr__(self):  # short, since fastai formats a DataBlock's source
        return f"Data({', '.join(f'{len(s)} {name}' for name, s in self.splits.items())}, {len(self.classes)} classes)"

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that have images, by name."""
        every = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: split for name, split in every.items() if len(split)}

    @property
    def reported(self) -> tuple[str, Split]:
        """The split that metrics are on, with its name: "held out" where there is one, and else "test"."""
        return ("held out", self.valid) if len(self.valid) else ("test", self.test)

    @property
    def evaluated(self) -> tuple[str, Split]:
        """The split to evaluate a finished model on, with its name: "test" where there is one, else "held out"."""
        return ("test", self.test) if len(self.test) else ("held out", self.valid)

    @cached_property
    def digests(self) -> dict[str, dict]:
        """The number of images and the SHA-256 of each split."""
        return {name: {"images": len(split), "sha256": split.digest} for name, split in self.splits.items()}

    def items(self) -> list[tuple[np.ndarray, str]]:
        """An image, uint8 [28, 28], and its class's name for each: train, then what is reported on, then the rest."""
        return [
            (image, self.classes[label])
            for split in self.loaded
            for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True)
        ]

    @property
    def loaded(self) -> list[Split]:
        """The splits in the order of the DataLoaders: train, the reported one, and test where that is another."""
        return [self.train, self.reported[1], *([self.test] if len(self.valid) and len(self.test) else [])]

    def hold_out(self, fraction: float) -> "Data":
        """Move a `fraction` of the training images, the same of each class, to `valid`.

        The same images each time, whatever the recipe's seed, so that runs can be compared image by image.
        """
        if len(self.valid):
            raise InputError(f"{self.source} has validation images already; leave --valid-fraction out")
        if self.source == WITH_STROKES:
            raise InputError(f"drawn images are not held out; give load_data({WITH_STROKES!r}, {fraction}) as data")
        labels = self.train.labels.numpy()
        present, counts = np.unique(labels, return_counts=True)
        with suppress(ValueError):  # of a class with a single image, and of fewer images than classes on one side
            kept, held = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=0)
            if all(len(np.unique(labels[part])) == len(present) for part in (kept, held)):
                return replace(self, train=self.train[np.sort(kept)], valid=self.train[np.sort(held)])
        name, n = self.classes[present[counts.argmin()]], int(counts.min())
        raise InputError(
            f"class {name} of {self.source} has {n} training image{'s' * (n != 1)}, too few for a valid fraction of "
            f"{fraction}; give another fraction, or more images"
        )
