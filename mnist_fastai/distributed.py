"""One run in several processes, which `torchrun` or `accelerate launch` start: what each trains on, and what only the
first does. Without them there is one process, and nothing here does anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from fastai.distributed import DistributedDL
from fastai.learner import Learner
from fastai.torch_core import num_distrib, rank_distrib, to_detach
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .dataloader import TensorDL
from .learner import seed_everything

T = TypeVar("T")


def processes() -> int:
    return max(1, num_distrib())


def is_first() -> bool:
    return rank_distrib() == 0


def join(device: torch.device) -> None:
    """Wait until all processes are there."""
    if processes() > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all of them. Where it raises there, the others end."""
    if processes() == 1:
        return make()
    made = [None, False]
    try:
        if is_first():
            made = [make(), True]
    finally:
        dist.broadcast_object_list(made)
    if not made[1]:
        raise SystemExit(1)
    return made[0]


def total(value: float) -> float:
    """The sum over all processes."""
    if processes() == 1:
        return value
    everywhere = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(everywhere)
    return everywhere.item()


def is_lost(error: Exception) -> bool:
    """Whether an error is that of a process that waited for another one, which has ended."""
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, dist.DistError))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what makes its processes agree."""
    return model.module if isinstance(model, DistributedDataParallel) else model


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


@contextmanager
def divided(learner: Learner) -> Iterator[None]:
    """Train on a share of the training images in each process, through fastai's `distrib_ctx`.

    Each process validates on all images, so that what is chosen by a metric is chosen alike everywhere.
    """
    if processes() == 1:
        yield
        return
    train, *rest = loaders = learner.dls.loaders
    learner.dls.loaders = [Share(train, rank_distrib(), processes()), *map(Share, rest)]
    cpu = learner.dls.device.type == "cpu"
    try:
        with learner.distrib_ctx(sync_bn=not cpu, cpu=cpu):
            yield
    finally:
        learner.dls.loaders = loaders
        for dl in loaders:
            del dl.get_idxs
