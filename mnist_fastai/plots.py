"""Arrays in, matplotlib figures out; knows nothing of torch."""

import io
import math
import warnings

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .colors import COLORS
from .escape import mathtext

MARKERS = "osDv^P"  # the second ten classes have the second marker
LABEL = 40  # characters of a name on an axis or in a legend; longer ones leave no room for what they name
SLOTS = 50  # thumbnails beside each other from one edge of a map to the other

NO_CURVE = "epoch", "train_loss", "valid_loss", "error_rate", "seconds"  # columns of a history
CURVES = "#D55E00", "#0072B2", "#009E73", "#CC79A7"


def to_bytes(figure: Figure, format: str = "png", metadata: dict | None = None) -> bytes:
    """The content of a picture file, a key of matplotlib's formats."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in Chinese, say, which are drawn as boxes
        figure.savefig(content, format=format, dpi=150, metadata=metadata)
    return content.getvalue()


def curves(history: list[dict], title: str) -> Figure:
    """Loss (nats) and accuracy (%) by epoch, side by side. `history` is a run's: a dict of numbers an epoch."""
    figure = Figure(figsize=(9, 3.6))
    figure.subplots_adjust(0.08, 0.14, 0.98, 0.82, wspace=0.22)  # a constrained layout takes as long as the drawing
    figure.suptitle(mathtext(title))
    loss, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["train_loss"] for row in history], "o-", color="#0072B2", label="training")
    loss.plot(epochs, [row["valid_loss"] for row in history], "s-", color="#D55E00", label="validation")
    loss.set(title="Loss", xlabel="epoch", ylabel="loss (nats)")
    loss.legend()
    metrics = [key for key in (history[0] if history else ()) if key not in NO_CURVE]
    percent = metrics == ["accuracy"]
    for i, key in enumerate(metrics):
        values = [100 * row[key] if percent else row[key] for row in history]
        right.plot(epochs, values, "s-", color=CURVES[i % len(CURVES)], label=mathtext(key, LABEL))
    right.set(title=f"Validation {mathtext(metrics[0], LABEL) if len(metrics) == 1 else 'metrics'}", xlabel="epoch")
    if percent:
        right.yaxis.set_major_formatter(PercentFormatter(decimals=1))
        last = f"{values[-1]:.2f}%", (epochs[-1], values[-1])
        right.annotate(*last, xytext=(0, -14), textcoords="offset points", ha="right")
    elif metrics:
        right.legend()
    for axes in (loss, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def rows(results: list[tuple[str, list[float], float | None]], title: str) -> Figure:
    """Rows against accuracy: each run a dot, their mean a bar, the published value a diamond.

    `results` has a row's name, its runs' accuracies in [0, 1], and what was published or None, first row on top. Rows
    below 90% have a panel of their own, so that the others can be told apart.
    """
    low = [r for r in results if sum(r[1]) / len(r[1]) < 0.9]
    high = [r for r in results if r not in low]
    panels = [part for part in (low, high) if part]
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(results)), layout="constrained")
    figure.suptitle(mathtext(title))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(part) + 0.5 for part in panels])[:, 0]
    for axes, part in zip(grid, panels, strict=True):
        for y, (_, runs, published) in enumerate(part):
            percent = [100 * a for a in runs]
            mean = sum(percent) / len(percent)
            axes.plot(percent, [y] * len(runs), "o", color="#0072B2", alpha=0.55, ms=5, zorder=2)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color="#0072B2", lw=2.5, zorder=3)
            if published is not None:
                axes.plot([100 * published], [y], "D", mfc="none", mec="#D55E00", mew=1.8, ms=8, zorder=4)
        axes.set_yticks(range(len(part)), [mathtext(" ".join(name.split()), LABEL) for name, *_ in part])
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=1))
        axes.grid(axis="x", alpha=0.3)
    grid[-1].set_xlabel("accuracy")
    marks = [
        Line2D([], [], marker="o", ls="", color="#0072B2", alpha=0.55, label="a run"),
        Line2D([], [], marker="|", ls="", color="#0072B2", ms=12, mew=2.5, label="mean"),
        Line2D([], [], marker="D", ls="", mfc="none", mec="#D55E00", mew=1.8, ms=8, label="published"),
    ]
    grid[-1].legend(handles=marks, loc="lower left")
    return figure


def maps(
    panels: dict[str, np.ndarray],  # title → positions, float [n, 2], of the same images
    labels: np.ndarray,  # int [n], indices into the classes
    classes: tuple[str, ...],
    missed: np.ndarray,  # bool [n]: which to ring
    title: str,
    images: np.ndarray | None = None,  # uint8 [n, 28, 28]: drawn in place of dots where there is room
) -> Figure:
    """Images as dots in a plane, coloured by class, side by side for each panel, each class named at its centre."""
    side = (5.2 if len(panels) > 1 else 7) * (1 if images is None else 1.4)  # inches
    figure = Figure(figsize=(side * len(panels), side + 1.1), layout="constrained")
    figure.suptitle(mathtext(title))
    present, names = np.unique(labels), [mathtext(name, LABEL) for name in classes]
    size = float(np.clip(16000 / len(labels), 2, 30)) * (0.5 if len(panels) > 1 else 1)  # points², of a dot
    ring = 72 * side / SLOTS * 1.25 if images is not None else max(7, 2.4 * size**0.5)  # points across
    for axes, (name, positions) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set_title(mathtext(name), fontsize=11)
        middle, half = (positions.min(0) + positions.max(0)) / 2, 0.53 * np.ptp(positions, axis=0).max()
        (left, bottom), (right, top) = middle - half, middle + half
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
        dots = np.ones(len(labels), bool)
        if images is not None:
            canvas, drawn = _thumbnails((positions - (left, bottom)) / (2 * half), labels, images, first=missed)
            axes.imshow(canvas, extent=(left, right, bottom, top), zorder=2, interpolation="antialiased")
            dots[drawn] = False
        faint = {"s": size, "alpha": 0.85} if images is None else {"s": size / 4, "alpha": 0.5}  # beside thumbnails
        for c in present:
            x, y = positions[(labels == c) & dots].T
            axes.scatter(x, y, c=COLORS[c % 10], marker=_marker(c), lw=0, zorder=1, **faint)
        x, y = positions[missed].T
        axes.scatter(x, y, ring**2, "none", edgecolors="black", lw=1.1, zorder=3)
        fonts = np.array([15 if len(names[c]) < 3 else 10 for c in present])  # points
        point = 2 * half / (72 * side)  # in the map's own units
        boxes = np.stack([[0.7 * len(names[c]) for c in present], np.full(len(present), 1.1)], axis=1)
        centres = np.array([_centre(positions[labels == c]) for c in present])
        centres = _apart(centres, boxes * fonts[:, None] * point)
        for c, (x, y), font in zip(present, centres, fonts, strict=True):
            axes.text(
                x, y, names[c], ha="center", va="center", fontsize=font, fontweight="bold",
                path_effects=[withStroke(linewidth=3, foreground="white")], zorder=4,
            )  # fmt: skip
    entries = [Line2D([], [], marker=_marker(c), ls="", mew=0, color=COLORS[c % 10], label=names[c]) for c in present]
    entries.append(Line2D([], [], marker="o", ls="", mfc="none", mec="black", ms=9, label="misclassified"))
    rows = math.ceil(sum(len(e.get_label()) + 5 for e in entries) / (9 * side * len(panels)))  # 9 characters an inch
    columns = math.ceil(len(entries) / rows)
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, handletextpad=0.2)
    return figure


def _marker(c: int) -> str:
    return MARKERS[c // 10 % len(MARKERS)]


def _thumbnails(
    positions: np.ndarray, labels: np.ndarray, images: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """A canvas, RGBA uint8, with the images at positions in [0, 1] in their class's colour, and which were drawn.

    An image is left out where it would cover more than a fifth of the width of one that is there already; those that
    are `first`, bool [n], have the first choice.
    """
    size, side = images.shape[1], images.shape[1] * SLOTS
    canvas, drawn = np.zeros((side, side, 4), np.uint8), []
    corners = np.stack([(1 - positions[:, 1]) * side, positions[:, 0] * side], axis=1).round().astype(int) - size // 2
    for i in np.argsort(~first, kind="stable"):
        corner = corners[i]
        if drawn and (np.abs(corners[drawn] - corner).max(1) < 0.8 * size).any():
            continue
        row, column = corner
        patch = canvas[row : row + size, column : column + size]
        ink = images[i] > patch[..., 3]
        patch[..., :3][ink] = (255 * np.array(to_rgb(COLORS[labels[i] % 10]))).astype(np.uint8)
        patch[..., 3][ink] = images[i][ink]
        drawn.append(i)
    return canvas, drawn


def _centre(points: np.ndarray) -> np.ndarray:
    """The mean of the densest quarter of points [n, 2]: that of a class in two parts may lie in another's."""
    points = points[:: max(1, len(points) // 1000)]
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = np.argsort(distances, axis=1)[:, : max(1, len(points) // 4)]
    densest = np.take_along_axis(distances, nearest, axis=1).mean(1).argmin()
    return points[nearest[densest]].mean(0)


def _apart(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The middles [n, 2] of boxes of some width and height [n, 2], moved up and down until none covers another."""
    points, order = points.copy(), np.arange(len(points))
    wanted = (boxes[:, None] + boxes) / 2
    for _ in range(100):
        away = points[:, None] - points
        upwards = np.where(away[..., 1] == 0, np.sign(order[:, None] - order), np.sign(away[..., 1]))
        missing = (wanted - np.abs(away)) * (order[:, None] != order)[..., None]
        covered = (missing > 0).all(2)
        if not covered.any():
            break
        points[:, 1] += 0.55 * (upwards * missing[..., 1] * covered).sum(1)
    return points


def preprocessing(steps, title: str) -> Figure:
    """Every step of a picture, a reader.form.Steps, to MNIST's format: the page on top, then a row a digit."""
    digits = steps.digits
    figure = Figure(figsize=(12, 3.2 + 2.4 * max(len(digits), 0.2)), layout="constrained")
    figure.suptitle(mathtext(title))
    above, below = figure.subfigures(2, 1, height_ratios=[3.2, 2.4 * max(len(digits), 0.2)])
    page = above.subplots(1, 5)
    colours = {"cmap": "tab10", "vmin": 1, "vmax": 10, "interpolation": "nearest"}
    h, w = steps.grey.shape
    few = max(h, w) // 1000 + 1  # a photo has more pixels than the figure
    _picture(page[0], steps.grey[::few, ::few], "grey, upright", extent=(0, w, h, 0))
    _picture(page[1], steps.background, "paper", vmax=1)
    _picture(page[2], steps.ink, "ink: light taken away", vmax=1)
    _picture(page[3], steps.mask, "mask (Otsu)", vmax=1)
    kept = f"kept: {len(digits)} digit{'s' * (len(digits) != 1)}"
    _picture(page[4], np.ma.masked_equal(steps.labels, 0), kept, **colours)
    page[4].set_facecolor("black")
    boxes = [(digit.box, "#D55E00") for digit in digits] + [(steps.sheet, "#0072B2")] * (steps.sheet is not None)
    for (left, top, right, bottom), colour in boxes:  # in the picture's pixels
        page[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, lw=1)
    if not digits:
        below.text(0.5, 0.5, "no digit found", ha="center", va="center")
        return figure
    for row, digit in zip(below.subplots(len(digits), 3, squeeze=False), digits, strict=True):
        _picture(row[0], digit.ink, f"cropped, {digit.ink.shape[1]} × {digit.ink.shape[0]}", vmax=1)
        _picture(row[1], digit.strokes, "stroke width as in MNIST", vmax=1)
        _picture(row[2], digit.image, "28 × 28, centre of mass in the middle", interpolation="nearest")
    return figure


def _picture(axes, pixels: np.ndarray, title: str, **kwargs) -> None:
    top = 255 if pixels.dtype == np.uint8 else 1
    axes.imshow(pixels, **({"cmap": "gray", "vmin": 0, "vmax": top} | kwargs))
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
