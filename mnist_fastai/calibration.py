"""How far probabilities can be trusted. Arrays in, numbers out.

Sources: Guo et al., On calibration of modern neural networks, ICML 2017 (the expected calibration error, the
temperature); Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15  # of equal width, as in Guo et al.
POINTS = 100  # of the curve of accuracy against coverage
LOWEST, HIGHEST = 0.05, 20.0  # temperature


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which to divide logits [n, classes] so that the labels, int [n], are the most likely.

    Within LOWEST and HIGHEST: where every image is right, the likelihood grows for ever as the temperature falls. Log
    probabilities do as well as logits.
    """
    logits = np.asarray(logits, float)
    rows = np.arange(len(labels))
    found = minimize_scalar(
        lambda t: -log_softmax(logits / np.exp(t), axis=1)[rows, labels].mean(),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def cross_fit(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Log probabilities [n, classes] at a temperature, and both temperatures.

    The even and the odd rows each get the one that was fitted on the others, so that no image has a part in its own.
    Of one row alone there is nothing to fit: its temperature is 1.
    """
    logits, temperatures = np.array(logits, float), []
    halves = [np.arange(start, len(labels), 2) for start in (0, 1)]
    fitted = [fit_temperature(logits[half], labels[half]) if len(half) else 1.0 for half in halves]
    for half, temperature in zip(halves, reversed(fitted), strict=True):
        logits[half] /= temperature
        temperatures.append(temperature)
    return log_softmax(logits, axis=1), temperatures


def calibration(log_probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Errors of the probabilities of n ≥ 1 images, from natural logarithms [n, classes] and labels, int [n].

    "ece", the expected calibration error, in [0, 1]; "nll", the mean cross-entropy in nats; "brier", the mean over the
    images of the squared differences summed over the classes, in [0, 2]; and "bins" of the confidence, each with its
    limits, its images, their mean confidence and their accuracy: None in an empty one.
    """
    probabilities = np.exp(log_probabilities)
    rows = np.arange(len(labels))
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # a bin has its upper limit
    bins = []
    for i in range(BINS):
        chosen = place == i
        means = (float(confidence[chosen].mean()), float(correct[chosen].mean())) if chosen.any() else (None, None)
        bins.append(
            {"low": edges[i], "high": edges[i + 1], "images": int(chosen.sum())}
            | dict(zip(("confidence", "accuracy"), means, strict=True))
        )
    gaps = sum(b["images"] * abs(b["confidence"] - b["accuracy"]) for b in bins if b["images"])
    target = np.zeros_like(probabilities)
    target[rows, labels] = 1
    return {
        "ece": gaps / len(labels),
        "nll": float(-log_probabilities[rows, labels].mean()),
        "brier": float(((probabilities - target) ** 2).sum(1).mean()),
        "bins": bins,
    }


def coverage(probabilities: np.ndarray, labels: np.ndarray) -> list[dict]:
    """The accuracy among the most confident images, for shares of n ≥ 1 images from 1% to all of them.

    One dict per share: "coverage", the share in (0, 1]; "threshold", the least confidence among these; "accuracy".
    """
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(1) == labels)[order])
    counts = sorted({max(1, round(len(labels) * k / POINTS)) for k in range(1, POINTS + 1)})
    return [
        {"coverage": n / len(labels), "threshold": float(confidence[order[n - 1]]), "accuracy": float(right[n - 1] / n)}
        for n in counts
    ]
