"""How little an image is like those that a model was trained on, from the features of its layers.

A normal distribution with a covariance of its own is fitted to the features of each class, as in quadratic discriminant
analysis, and an image's score is the least of its negative log likelihoods: the Mahalanobis distance (Lee et al., A
simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS 2018), but with a
covariance per class, which rejects more (benchmarks/novelty.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ..calibration import fit_temperature

COMPONENTS = 80  # of the features; with 64 or 150 about as many images are rejected (benchmarks/novelty.md)
PASSED = 0.995  # of the held-out images
BLUR = 0.4, 0.8, 1.2  # standard deviations in pixels
LEAST = 200  # held-out images, of which one in 200 may be rejected


class Taps(nn.Module):
    """A model's body, images [n, 1, 28, 28] → its features, [n, d], and those of its layers, [n, e].

    These are the means of each map after its activation, and the features before theirs, where the body is a
    Sequential; else the features again.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.body, nn.Sequential):
            x = self.body(x)
            return x, x.flatten(1)
        taps, last = [], x
        for layer in self.body:
            before, x = x, layer(x)
            if x.shape != before.shape or any(True for _ in layer.parameters()):
                last = x
            elif x.dim() == 4:  # an activation
                taps.append(x.mean((2, 3)))
        return x, torch.cat([*taps, last.flatten(1)], 1)


class Detector(nn.Module):
    """Features of layers, float32 [n, e] → novelty, float32 [n]: 0 for the usual image, above 1 for no such class."""

    mean: Tensor
    axes: Tensor
    centres: Tensor
    whiten: Tensor
    offsets: Tensor
    scale: Tensor

    def __init__(self, **buffers: np.ndarray):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def forward(self, taps: Tensor) -> Tensor:
        reduced = (taps - self.mean) @ self.axes  # [n, k]
        white = torch.einsum("nk,ckl->ncl", reduced, self.whiten) - self.centres  # [n, classes, k]
        score = (white.square().sum(2) + self.offsets).amin(1)
        return (score - self.scale[0]) / self.scale[1]


@dataclass(frozen=True)
class Calibrated:
    """What held-out images say of a model's answers."""

    detector: Detector | None  # of a model that has features
    temperature: float  # by which logits are divided
    low_confidence: float  # the probability below which an answer is more often wrong than right
    images: int  # held out


def calibrate(logits: np.ndarray, labels: np.ndarray, detector: Detector | None) -> Calibrated:
    """From the logits [n, classes] and the labels [n] of held-out images."""
    temperature = fit_temperature(logits, labels)
    confidence, right = softmax(logits / temperature, axis=1).max(1), logits.argmax(1) == labels
    return Calibrated(detector, temperature, find_even(confidence, right), len(labels))


def with_blurred(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images, uint8 [n, 1, h, w], and labels, [n], and a tenth of them again, out of focus as pictures may be.

    Without these, 7% of scikit-learn's 8×8 digits, enlarged, are taken for no digits (benchmarks/novelty.md).
    """
    copies, of = [images], [labels]
    for i, sigma in enumerate(BLUR):
        chosen = slice(10 * i, None, 10 * len(BLUR))
        soft = gaussian_filter(images[chosen].numpy().astype(np.float32), (0, 0, sigma, sigma))
        peak = np.maximum(soft.max((1, 2, 3), keepdims=True), 1)
        copies.append(torch.from_numpy((soft * (255 / peak)).astype(np.uint8)))
        of.append(labels[chosen])
    return torch.cat(copies), torch.cat(of)


def fit_detector(taps: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Detector:
    """Fit to features [n, e] and labels [n] of training images, so that PASSED of the held-out ones [m, e] are below 1.

    Each class's covariance is shrunk to the one within all classes as if so many more images as there are components
    had that (Friedman, Regularized discriminant analysis, JASA 84, 1989).
    """
    deviation = taps.std(0).clip(1e-6 * taps.std().clip(1e-30))
    pca = PCA(min(COMPONENTS, *taps.shape), svd_solver="full").fit(taps / deviation)
    reduced = pca.transform(taps / deviation)
    k = reduced.shape[1]
    classes = np.unique(labels)
    means = np.array([reduced[labels == c].mean(0) for c in classes])
    apart = reduced - means[np.searchsorted(classes, labels)]
    pooled = apart.T @ apart / len(apart)
    pooled += 1e-4 * np.trace(pooled) / k * np.eye(k)
    whiten, offsets = [], []
    for c in classes:
        of_class = apart[labels == c]
        covariance = (of_class.T @ of_class + k * pooled) / (len(of_class) + k)
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        whiten.append(factor)
        offsets.append(-2 * np.log(np.diag(factor)).sum())
    detector = Detector(
        mean=taps.mean(0), axes=pca.components_.T / deviation[:, None], whiten=np.array(whiten),
        centres=np.einsum("ck,ckl->cl", means, whiten), offsets=np.array(offsets), scale=np.array([0.0, 1.0]),
    )  # fmt: skip
    detector.scale[:] = torch.tensor(find_scale(detector(torch.as_tensor(held_out)).numpy()))
    return detector


def find_scale(scores: np.ndarray) -> tuple[float, float]:
    """What to subtract from held-out images' scores [n], and to divide by, so that PASSED of them are at most 1."""
    usual, most = np.median(scores), np.quantile(scores, PASSED, method="higher")
    return float(usual), max(float(most - usual), 1e-6) * (1 + 1e-5)  # which float32 does not round to more than 1


def find_even(confidence: np.ndarray, right: np.ndarray) -> float:
    """The confidence at which answers are as often right as wrong, by logistic regression on its logit.

    0.5, that of probabilities that can be trusted, where none or all are right, or the surer are the more often wrong.
    """
    if right.all() or not right.any():
        return 0.5
    logit = np.log(confidence.clip(1e-9, 1 - 1e-9) / (1 - confidence).clip(1e-9))
    model = LogisticRegression(C=1e6).fit(logit[:, None], right)
    slope, start = model.coef_[0, 0], model.intercept_[0]
    return float(1 / (1 + np.exp(start / slope))) if slope > 0 else 0.5
