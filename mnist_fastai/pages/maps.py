"""Maps of images as a page: `maps.html` with the numbers as JSON and the images as one PNG.

It draws on a canvas of its own: at 10,000 images, a hover keeps the browser busy for 8 ms, and for 90 to 110 ms with
Bokeh 3.9, which redraws every dot.
"""

from pathlib import Path

import numpy as np

from ..colors import COLORS
from ..errors import InputError
from ..files import write_text
from .shared import fill


def write_page(
    path: str | Path,
    maps: dict[str, np.ndarray],  # name → float [n, 2], at least one
    images: np.ndarray,  # uint8 [n, 28, 28], 0 background, 255 ink
    labels: np.ndarray,  # int [n], indices of `classes`, as are the predictions
    predictions: np.ndarray,
    probabilities: np.ndarray,  # of the predictions, float [n] in [0, 1]
    classes: tuple[str, ...],
    title: str,
) -> None:
    """Write the maps side by side, with pan, zoom and hover, and a legend that singles out a class. No network.

    The same input gives the same bytes. Raises InputError where the arrays do not fit together.
    """
    n = len(images)
    for name, points in maps.items():
        if points.shape != (n, 2) or not np.isfinite(points).all():
            raise InputError(f"the map {name!r} is not {n} finite points; give one row of two numbers per image")
    if not n == len(labels) == len(predictions) == len(probabilities):
        raise InputError(f"{n} images need as many labels, predictions and probabilities; give one each per image")
    data = {
        "maps": [{"name": name, "points": _fit(points).round(5).tolist()} for name, points in maps.items()],
        "labels": np.asarray(labels).tolist(),
        "predictions": np.asarray(predictions).tolist(),
        "probabilities": np.asarray(probabilities, float).round(4).tolist(),
        "classes": list(classes),
        "colors": COLORS,
    }
    wrong = f"{(np.asarray(labels) != predictions).sum():,}"
    template = Path(__file__).with_suffix(".html")
    write_text(path, fill(template, title, images, data, images=f"{n:,}", wrong=wrong))


def _fit(points: np.ndarray) -> np.ndarray:
    """Shift the points and scale both axes by the same factor into [-1, 1]."""
    low, high = points.min(0).astype(float), points.max(0).astype(float)
    return (points - (low + high) / 2) / (max(high - low) / 2 or 1)
