"""The architectures, each a function that returns `nn.Sequential(body, head)`.

They take float images [batch, 1, 28, 28] and return logits [batch, classes]. The body ends at the features, after
their activation; the head is the last Linear.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import recipes
from .errors import InputError


def lenet(classes: int = 10) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) without padding: 84 features; 44,426 parameters for ten classes."""
    body = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 4), nn.Tanh(), nn.Flatten(),
        nn.Linear(120, 84), nn.Tanh(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(84, classes))


def deep(classes: int = 10) -> nn.Sequential:
    """Three 3×3 convolutions with ReLU and max pooling: 100 features; 159,254 parameters for ten classes."""
    body = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1024, 100), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(100, classes))


def deep_bn(classes: int = 10) -> nn.Sequential:
    """`deep` with batch norm (Ioffe & Szegedy 2015) between each convolution and its ReLU: 159,574 parameters."""
    body = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1024, 100), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(100, classes))


def deep_dropout(classes: int = 10) -> nn.Sequential:
    """`deep` with dropout (Srivastava et al. 2014) of half the features before the head."""
    body, head = deep(classes)
    return nn.Sequential(body.append(nn.Dropout(0.5)), head)


def deep_relu_after_pooling(classes: int = 10) -> nn.Sequential:
    """`deep` with a ReLU after each pooling, not each convolution: none between its last two convolutions."""
    body = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 100), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(100, classes))


def deeper(classes: int = 10) -> nn.Sequential:
    """`deep` with two more convolutions of 64 channels: 100 features; 156,310 parameters for ten classes."""
    body = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 100), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(100, classes))


class MaxAndMean(nn.Module):
    """Maps [n, c, h, w] → the maximum and the mean of each, [n, 2c]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def vgg(classes: int = 10) -> nn.Sequential:
    """Six 3×3 convolutions in pairs (Simonyan & Zisserman 2014) with batch norm: 256 features; 289,450 parameters.

    Each map's maximum and mean over the image are the features, so that two thirds of the parameters of `deep`, those
    of its first Linear, are not needed.
    """
    body = nn.Sequential(
        *_convolution(1, 32), *_convolution(32, 32), nn.MaxPool2d(2),
        *_convolution(32, 64), *_convolution(64, 64), nn.MaxPool2d(2),
        *_convolution(64, 128, padding=1), *_convolution(128, 128, padding=1), MaxAndMean(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(256, classes))


def _convolution(channels: int, out: int, size: int = 3, **kwargs) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A convolution without bias, which batch norm would undo, batch norm and ReLU."""
    return nn.Conv2d(channels, out, size, bias=False, **kwargs), nn.BatchNorm2d(out), nn.ReLU()


def edges(classes: int = 10) -> nn.Sequential:
    """Fixed oriented edges, one trained convolution, one hidden layer: 64 features; 32,186 parameters.

    For training in seconds: what is not trained takes no backward pass, each map is pooled before its batch norm, which
    then has a quarter of the values to go through, and made flat before its ReLU, whose backward pass is faster on
    values that lie as their gradients do (benchmarks/records.md).
    """
    body = nn.Sequential(
        _oriented_edges(8), nn.MaxPool2d(3), nn.ReLU(),
        nn.Conv2d(8, 48, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(48), nn.Flatten(), nn.ReLU(),
        nn.Linear(432, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(64, classes))


def edges_deep(classes: int = 10) -> nn.Sequential:
    """The same edges and three trained convolutions: 128 features; 87,242 parameters."""
    body = nn.Sequential(
        _oriented_edges(8), nn.MaxPool2d(2), nn.ReLU(),
        *_convolution(8, 24), nn.Conv2d(24, 64, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64), nn.Flatten(), nn.ReLU(),
        nn.Linear(256, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(128, classes))


def _oriented_edges(directions: int) -> nn.Conv2d:
    """A convolution that is not trained: derivatives of a Gaussian (σ = 1.5 pixels) in so many directions, 5×5, norm 1.

    The filters of the first layer of a trained network are much like them (Zeiler & Fergus 2014).
    """
    steps = torch.arange(5.0) - 2
    angles = torch.arange(directions) * (2 * math.pi / directions)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    slopes = x * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
    filters = F.normalize((slopes * torch.exp(-(x**2 + y**2) / (2 * 1.5**2))).flatten(1))
    conv = nn.Conv2d(1, directions, 5)
    conv.weight.data = filters.reshape(directions, 1, 5, 5)
    conv.bias.data.fill_(-0.1)  # blank paper is then below the ReLU, where rounding would else decide the gradients
    return conv.requires_grad_(False)


class Ensemble(nn.Module):
    """Images → the log of the mean of several models' probabilities, float32 [n, classes]; its softmax is that mean."""

    def __init__(self, members: Iterable[nn.Module], recipes: list[dict]):
        super().__init__()
        self.members, self.recipes = nn.ModuleList(members), recipes

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(logs))


class ToAlexNet(nn.Module):
    """Images [n, 1, 28, 28] → [n, 3, 224, 224], the size that AlexNet's weights were trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(224, 224), mode="bilinear").expand(-1, 3, -1, -1)


def alexnet(classes: int = 10, weights: str | None = "IMAGENET1K_V1") -> nn.Sequential:
    """torchvision's AlexNet (Krizhevsky 2014), trained on ImageNet, with a new head: 4,096 features.

    `weights=None` leaves it random. Raises InputError where the weights cannot be downloaded.
    """
    import torchvision

    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says there what it downloads
            net = torchvision.models.alexnet(weights=weights)
    except OSError as e:
        raise InputError(
            f"the weights of the pretrained AlexNet could not be downloaded ({e}); put torchvision's file of them into "
            "the folder checkpoints in torch.hub.get_dir()"
        ) from e
    body = nn.Sequential(ToAlexNet(), net.features, net.avgpool, nn.Flatten(), *net.classifier[:-1])
    return nn.Sequential(body, nn.Linear(4096, classes))


def split(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The body and the head of `nn.Sequential(body, head)` whose head is a Linear; None for any other model."""
    seam = isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[1], nn.Linear)
    return (model[0], model[1]) if seam else None


ARCHS: dict[str, Callable[[int], nn.Sequential]] = {name: globals()[name.replace("-", "_")] for name in recipes.ARCHS}
