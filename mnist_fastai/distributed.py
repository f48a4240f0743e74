"""One run in several processes, which `torchrun` or `accelerate launch` start: what each trains on, and what only the
first does. Without them there is one process, and nothing here does anything.
"""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

import torch
import torch.distributed as dist
from fastai.learner import Learner
from fastai.torch_core import num_distrib, rank_distrib
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .errors import InputError

T = TypeVar("T")


def processes() -> int:
    return max(1, num_distrib())


def is_first() -> bool:
    return rank_distrib() == 0


def join(device: torch.device) -> None:
    """Wait until all processes are there. Raises InputError where the package that fastai needs for it is missing."""
    if processes() > 1 and not dist.is_initialized():
        if find_spec("accelerate") is None:
            raise InputError("several processes need the package accelerate; `pip install 'mnist-fastai[distributed]'`")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)


def _leave() -> None:
    """End gloo's threads before the interpreter does, which now and then aborts while one of them runs."""
    if dist.is_initialized():
        dist.destroy_process_group()


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


@contextmanager
def divided(learner: Learner) -> Iterator[None]:
    """Train on a share of the training images in each process, through fastai's `distrib_ctx`.

    Each process validates on all images, so that what is chosen by a metric is chosen alike everywhere.
    """
    if processes() == 1:
        yield
        return
    from .shares import Share  # needs accelerate, as `join` has made sure

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
