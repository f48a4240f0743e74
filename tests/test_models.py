"""The architectures are what the published table used, and all have one seam."""

import pytest
import torch
from torch import nn

from mnist_fastai.models import ARCHS, deep, lenet


@pytest.mark.parametrize(
    ("arch", "parameters", "features"),
    [
        ("lenet", 44_426, 84),
        ("deep", 159_254, 100),
        ("deep-bn", 159_574, 100),
        ("deep-dropout", 159_254, 100),
        ("deep-relu-after-pooling", 159_254, 100),
        ("deeper", 156_310, 100),
        ("vgg", 289_450, 256),
        ("edges", 32_186, 64),
        ("edges-deep", 87_242, 128),
    ],
)
def test_size_of_each_architecture(arch, parameters, features):
    model = ARCHS[arch]()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model[0](torch.zeros(3, 1, 28, 28)).shape == (3, features)


def layers(body: nn.Sequential) -> list[tuple]:
    """The layers in a few words: kind, what comes in and goes out, kernel, stride, padding."""
    found = []
    for layer in body:
        match layer:
            case nn.Conv2d():
                found.append(
                    ("conv", layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
                )
            case nn.Linear():
                found.append(("linear", layer.in_features, layer.out_features))
            case nn.AvgPool2d() | nn.MaxPool2d():
                found.append((type(layer).__name__, layer.kernel_size, layer.stride, layer.padding))
            case _:
                found.append((type(layer).__name__,))
    return found


def test_lenet_has_its_kernels_and_strides():
    assert layers(lenet()[0]) == [
        ("conv", 1, 6, (5, 5), (1, 1), (0, 0)), ("Tanh",), ("AvgPool2d", 2, 2, 0),
        ("conv", 6, 16, (5, 5), (1, 1), (0, 0)), ("Tanh",), ("AvgPool2d", 2, 2, 0),
        ("conv", 16, 120, (4, 4), (1, 1), (0, 0)), ("Tanh",), ("Flatten",),
        ("linear", 120, 84), ("Tanh",),
    ]  # fmt: skip


def test_deep_has_its_kernels_and_strides():
    assert layers(deep()[0]) == [
        ("conv", 1, 32, (3, 3), (1, 1), (0, 0)), ("ReLU",), ("MaxPool2d", 2, 2, 0),
        ("conv", 32, 64, (3, 3), (1, 1), (0, 0)), ("ReLU",),
        ("conv", 64, 64, (3, 3), (1, 1), (0, 0)), ("ReLU",), ("MaxPool2d", 2, 2, 0), ("Flatten",),
        ("linear", 1024, 100), ("ReLU",),
    ]  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_is_a_body_and_a_linear_head(arch):
    pretrained = {"weights": None} if arch == "alexnet" else {}  # which would be downloaded
    model = ARCHS[arch](classes=7, **pretrained).eval()
    body, head = model
    assert type(head) is nn.Linear
    x = torch.rand(2, 1, 28, 28)
    features = body(x)
    assert features.shape == (2, head.in_features)
    assert model(x).shape == (2, 7)
    assert torch.equal(model(x), head(features))


def test_dropout_drops_half_of_the_features_in_training_only():
    body, _ = ARCHS["deep-dropout"]()
    x = torch.rand(200, 1, 28, 28)
    plain, dropped = body.eval()(x), body.train()(x)
    positive = plain > 0
    assert 0.45 < (dropped[positive] == 0).float().mean() < 0.55
    assert torch.allclose(dropped[dropped > 0], 2 * plain[dropped > 0])


@pytest.mark.parametrize("arch", ["lenet", "deep"])
def test_features_come_after_their_activation(arch):
    features = ARCHS[arch]()[0](torch.rand(8, 1, 28, 28) * 20 - 10)
    if arch == "lenet":
        assert features.abs().max() <= 1
    else:
        assert features.min() == 0
