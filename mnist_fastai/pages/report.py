"""An evaluation as a page: `report.html` with the numbers as JSON and the images as one PNG."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..escape import printable
from ..files import write_text
from .shared import fill

BARS = 5  # probabilities per image, and that of its label: all of 62 classes would take 4 MB per 10,000 images
TOLERANCE = 1e-3  # by which a probability may exceed 1, as `Session` has it
CORRUPTED = "mnist-c-"  # what the names of corrupted sets begin with


@dataclass(frozen=True)
class Pictures:
    """The images of one set that the page shows: all, or the misclassified and some others."""

    index: np.ndarray  # int [m], ascending, in the split
    images: np.ndarray  # uint8 [m, 28, 28], 0 background, 255 ink
    labels: np.ndarray  # int [m], indices of the classes; those that the report counts by
    probabilities: list[np.ndarray]  # per model, float [m, classes] in [0, 1]; the largest is the prediction
    # per model, the row of an image → the training image nearest to it by features, uint8 [28, 28], and its label
    nearest: list[dict[int, tuple[np.ndarray, int]]]


def write_page(
    path: str | Path,
    report: dict,  # the content of report.json
    pictures: list[Pictures],  # one per set of the report
    title: str,
) -> None:
    """Write the tables and charts of a report, and its images by confusion cell, error and confidence. No network.

    The paths of the models are left out, since the page may be passed on. The same input gives the same bytes. Raises
    InputError where the pictures and the report do not fit together.
    """
    _check(report, pictures)
    tiles: list[np.ndarray] = []
    places: dict[bytes, int] = {}  # of the training images: models share many
    sets = []
    for part in pictures:
        first = len(tiles)
        tiles.extend(part.images)
        models = []
        for probabilities, nearest in zip(part.probabilities, part.nearest, strict=True):
            neighbours = {}
            for row, (image, label) in sorted(nearest.items()):
                place = places.setdefault(image.tobytes(), len(tiles))
                if place == len(tiles):
                    tiles.append(image)
                neighbours[int(row)] = [place, int(label)]
            order = np.argsort(-np.asarray(probabilities).max(1), kind="stable").tolist()
            models.append({"top": _top(probabilities, part.labels), "byConfidence": order, "nearest": neighbours})
        index, labels = np.asarray(part.index).tolist(), np.asarray(part.labels).tolist()
        sets.append({"first": first, "index": index, "labels": labels, "models": models})
    data = _harmless(report) | {
        "models": [printable(model["name"]) for model in report["models"]],
        "pictures": sets,
        "corruptions": _corruptions(report),
    }
    sprite = np.array(tiles, np.uint8).reshape(-1, 28, 28)  # also where there is none
    write_text(path, fill(Path(__file__).with_suffix(".html"), title, sprite, data))


def _top(probabilities: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Per image the most probable classes and its label: class, thousandths, class, thousandths, …

    In descending order; no more than BARS and the label, and none of 0 thousandths but the prediction.
    """
    probabilities = np.asarray(probabilities, float)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)
    thousandths = np.rint(1000 * probabilities).clip(max=1000).astype(int)
    keep = (ranks < BARS) | (np.arange(probabilities.shape[1]) == np.asarray(labels)[:, None])
    counts = np.maximum(1, (keep & (thousandths > 0)).sum(1))
    out = []
    for row, count in enumerate(counts.tolist()):
        classes = order[row][keep[row, order[row]]][:count]
        out.append(np.stack([classes, thousandths[row, classes]], axis=1).ravel().tolist())
    return out


def _corruptions(report: dict) -> dict:
    """The indices of the corrupted sets, where there are several, and each model's mean accuracy over them."""
    sets = [s for s, facts in enumerate(report["sets"]) if facts["name"].startswith(CORRUPTED)]
    if len(sets) < 2:
        return {"sets": [], "means": [], "prefix": CORRUPTED}
    accuracy = {(r["model"], r["set"]): r["accuracy"] for r in report["results"]}
    means = [float(np.mean([accuracy[m, s] for s in sets])) for m in range(len(report["models"]))]
    return {"sets": sets, "means": means, "prefix": CORRUPTED}


def _harmless(value):
    """A part of the report in which no name has a control character, or one that turns the direction of the text."""
    if isinstance(value, dict):
        return {key: _harmless(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_harmless(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def _check(report: dict, pictures: list[Pictures]) -> None:
    models, sets, classes = len(report["models"]), len(report["sets"]), len(report["classes"])
    results = {(r["model"], r["set"]): r for r in report["results"]}
    if len(report["results"]) != models * sets or results.keys() != set(product(range(models), range(sets))):
        raise InputError(f"the report has not one result for each of {models} models on {sets} sets; give one each")
    for r in results.values():
        if np.shape(r["confusion"]) != (classes, classes) or len(r["per_class"]) != classes:
            raise InputError(f"a result of the report is not of its {classes} classes; give one row per class")
    if len(pictures) != sets:
        raise InputError(f"{len(pictures)} sets of pictures do not fit a report on {sets}; give one per set")
    for s, part in enumerate(pictures):
        name = repr(report["sets"][s]["name"])
        m, labels, index = len(part.images), np.asarray(part.labels), np.asarray(part.index)
        if part.images.dtype != np.uint8 or part.images.shape != (m, 28, 28):
            raise InputError(f"the pictures of {name} are not in MNIST's format; give uint8 [n, 28, 28]")
        if not index.shape == labels.shape == (m,):
            raise InputError(f"the {m} pictures of {name} need as many indices and labels; give one each per picture")
        if m and (index[0] < 0 or (np.diff(index) <= 0).any()):
            raise InputError(f"the indices of the pictures of {name} do not ascend; sort the pictures by index")
        if m and not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(f"the pictures of {name} have labels that are none of the {classes} classes; check these")
        if not len(part.probabilities) == len(part.nearest) == models:
            raise InputError(f"the pictures of {name} are not answered by {models} models; give one answer per model")
        for k, (probabilities, nearest) in enumerate(zip(part.probabilities, part.nearest, strict=True)):
            p = np.asarray(probabilities)
            if p.shape != (m, classes) or not ((p >= 0) & (p <= 1 + TOLERANCE)).all():
                raise InputError(
                    f"the probabilities of {name} are not [{m}, {classes}] in [0, 1]; give one row per picture"
                )
            cells = np.zeros((classes, classes), int)
            np.add.at(cells, (labels, p.argmax(1)), 1)
            if (cells > results[k, s]["confusion"]).any():
                raise InputError(
                    f"the pictures of {name} are more than its confusion matrix counts; give both of the same answers"
                )
            for row, (image, label) in nearest.items():
                if not (0 <= row < m and 0 <= label < classes and image.shape == (28, 28) and image.dtype == np.uint8):
                    raise InputError(
                        f"the nearest training image of row {row} of {name} does not fit; "
                        "give uint8 [28, 28] and a class for a row that there is"
                    )
