"""What each of several processes trains on. It needs accelerate, without which fastai.distributed is not imported."""

import torch
from fastai.distributed import DistributedDL
from fastai.torch_core import to_detach

from .dataloader import TensorDL
from .learner import seed_everything


class Share(DistributedDL):
    """A part of the images of a TensorDL, which makes its batches; fastai's own goes item by item.

    All parts have the same number of images, so that no process waits for another's batch: the first few come twice in
    an epoch where the images do not divide evenly. What is random but the order differs from part to part.
    """

    def __init__(self, dl: TensorDL, rank: int = 0, world_size: int = 1):
        super().__init__(dl, rank, world_size)
        self.all_idxs, dl.get_idxs = dl.get_idxs, self.get_idxs

    def get_idxs(self) -> list[int]:
        idxs = self.all_idxs()
        if self.world_size > 1:
            idxs += idxs[: -len(idxs) % self.world_size]
            seed_everything(torch.initial_seed(), self.rank)
        return idxs[self.rank :: self.world_size]

    def __iter__(self):
        return iter(self.dl)

    def __len__(self) -> int:
        images = -(-self.dl.n // self.world_size)
        return -(-images // self.bs)

    def to_detach(self, b, cpu=True, gather=True):
        return to_detach(b, cpu, gather=False)
