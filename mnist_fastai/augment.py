"""Augmentations of whole batches on the training device: fastai batch transforms that change training images only."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fastai.vision.core import TensorImageBW
from fasttransform import Transform
from torch import Tensor

from .errors import InputError
from .recipes import AUGMENTS
from .resolve import resolve


class RandomAffine(Transform):
    """Rotate, scale, shear, translate and mirror each image by an amount of its own, bilinearly, onto zeros.

    fastai's AffineCoordTfm would resample the validation images as well, with an identity that is not quite one,
    and translates by no given number of pixels.
    """

    order, split_idx = 30, 0  # after IntToFloatTensor, before Normalize, so that what comes in is background

    def __init__(
        self,
        degrees: float = 0,  # of rotation, either way at most
        scale: float = 0,  # as a part of the size, either way at most
        shear: float = 0,  # as a part of the height, either way at most
        pixels: float = 0,  # of translation along each axis, either way at most
        flip: float = 0,  # probability of mirroring left and right
    ):
        self.degrees, self.scale, self.shear, self.pixels, self.flip = degrees, scale, shear, pixels, flip

    def encodes(self, x: TensorImageBW):
        return TensorImageBW(self._move(x.as_subclass(Tensor)))

    def _move(self, x: Tensor) -> Tensor:
        n, size = len(x), x.shape[-1]

        def draw(limit: float) -> Tensor:
            return torch.empty(n, device=x.device).uniform_(-limit, limit) if limit else torch.zeros(n, device=x.device)

        if self.flip:
            mirrored = torch.rand(n, device=x.device) < self.flip
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        if not (self.degrees or self.scale or self.shear or self.pixels):
            return x
        angle, zoom, shear = draw(self.degrees) * math.pi / 180, 1 + draw(self.scale), draw(self.shear)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        # from an output pixel's place, in -1…1, to the place in the image that it shows
        rows = (
            [cos, -sin + shear * cos, draw(self.pixels) * 2 / size],
            [sin, cos + shear * sin, draw(self.pixels) * 2 / size],
        )
        places = torch.stack([torch.stack(row, 1) for row in rows], 1)
        return F.grid_sample(x, F.affine_grid(places, x.shape, align_corners=False), align_corners=False)


class RandomThickness(Transform):
    """Make each image's strokes thicker or thinner by an amount of its own, as another pen would.

    A grey dilation or erosion (Serra 1982) by a plus of 3×3 pixels widens or narrows a stroke by 2 pixels; the amount
    is the part of the way there.
    """

    order, split_idx = 29, 0  # before RandomAffine, whose interpolation blurs

    def __init__(self, amount: float = 0):  # either way at most, from 0 to 1
        super().__init__()
        self.amount = amount

    def encodes(self, x: TensorImageBW):
        x = x.as_subclass(Tensor)
        amount = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(-self.amount, self.amount)
        sign = amount.sign()  # an erosion is the dilation of the paper
        return TensorImageBW(x + amount.abs() * (sign * _dilate(sign * x) - x))


def _dilate(x: Tensor) -> Tensor:
    """Each pixel's maximum with its four neighbours; what lies outside changes nothing."""
    out = x.clone()
    for axis in (-1, -2):
        n = x.shape[axis] - 1
        for here, there in ((0, 1), (1, 0)):
            part = out.narrow(axis, here, n)
            part.copy_(torch.maximum(part, x.narrow(axis, there, n)))
    return out


class BatchFunction(Transform):
    """A function from training images, float32 [n, 1, 28, 28] in [0, 1], to such images."""

    order, split_idx = 30, 0

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def encodes(self, x: TensorImageBW):
        return TensorImageBW(self.function(x.as_subclass(Tensor)))


def find_augment(augment) -> list[Transform]:
    """The batch transforms for a name in AUGMENTS, "package.module:name", a fastai transform or several, or a function.

    A class is called without arguments. Raises InputError for what is none of these.
    """
    if isinstance(augment, str):
        if augment in AUGMENTS:
            amounts = dict(AUGMENTS[augment])
            thickness = amounts.pop("thickness", 0)
            return [
                *([RandomThickness(thickness)] if thickness else []),
                *([RandomAffine(**amounts)] if amounts else []),
            ]
        augment = resolve("augment", augment)
    found = []
    for each in augment if isinstance(augment, (list, tuple)) else [augment]:
        made = each() if isinstance(each, type) else each
        if not callable(made):
            raise InputError(f"augment {made!r} is neither a transform nor a function of a batch of images")
        found.append(made if isinstance(made, Transform) else BatchFunction(made))
    return found
