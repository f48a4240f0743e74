"""The architectures, each a function that returns `nn.Sequential(body, head)`.

They take float images [batch, 1, 28, 28] and return logits [batch, classes]. The body ends at the features, after
their activation; the head is the last Linear.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WholeConv2d(nn.Conv2d):
    """A convolution whose kernel covers its whole input, computed as the Linear that it equals.

    The parameters, their initialisation and the output [batch, out, 1, 1] are Conv2d's own; on two cores a LeNet
    step takes 12% less time than with the convolution (benchmarks/README.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


def lenet(classes: int = 10) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) without padding: 84 features; 44,426 parameters for ten classes."""
    body = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        WholeConv2d(16, 120, 4), nn.Tanh(), nn.Flatten(),
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


ARCHS = {"lenet": lenet, "deep": deep}
