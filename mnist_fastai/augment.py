"""Augmentations of whole batches on the training device: fastai batch transforms that change training images only."""

import math

import torch
import torch.nn.functional as F
from fastai.vision.core import TensorImageBW
from fasttransform import Transform
from torch import Tensor


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


AUGMENT = {
    "none": None,
    "flip": RandomAffine(flip=0.5),
    "rotate-45": RandomAffine(degrees=45),
    "translate-7": RandomAffine(pixels=7),
    "affine": RandomAffine(degrees=12, scale=0.1, shear=0.1, pixels=2),
}
