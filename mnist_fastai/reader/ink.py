"""Grey pixels → the paper and the ink on it.

`form.preprocess` decides the order of the steps. Below, `work` is a picture of floats in [0, 1]. SciPy is imported on
first use, since that takes 0.1 s.
"""

import numpy as np
from PIL import Image

from .image import Box, reduce, resize

CONTRAST = 0.06  # the least share of light that ink absorbs


def find_sheet(grey: np.ndarray) -> tuple[Box, np.ndarray] | None:
    """A sheet on something else: its box and its mask in that box, bool [h, w]; or None.

    A sheet is a quadrilateral of the lighter or the darker of two brightnesses, surrounded by the other, with sharp
    edges. One that crosses two sides of the picture must differ more than a shadow does; three sides is no sheet.
    """
    from scipy import ndimage

    factor = -(-max(grey.shape) // 250)
    if min(grey.shape) < max(80, 32 * factor):  # a stroke of few pixels may look like a sheet
        return None
    small = np.asarray(Image.fromarray(grey).reduce(factor), np.float32) / 255
    small = ndimage.uniform_filter(small, 3, mode="nearest")
    for light in (small, 1 - small):
        light = ndimage.grey_opening(ndimage.grey_closing(light, 5), 5)  # without lines, and grain that hangs on
        bright = light >= _otsu(light)
        labels, _ = ndimage.label(bright)
        out = _outside(labels == np.bincount(labels[bright], minlength=1).argmax())
        if out is None or min(out.max(), -out.min()) < 5:
            continue
        if bright[out < 0].mean() < 0.7 or bright[out > 2].mean() > 0.1:
            continue
        sides = sum((side < 0.5).any() for side in (out[0], out[-1], out[:, 0], out[:, -1]))
        far, near = ([np.median(small[(rim > 2) & (rim < width)]) for rim in (out, -out)] for width in (np.inf, 5))
        sharp = np.ptp(near) > 0.6 * np.ptp(far)  # the edge of a digit of few pixels, made large, is not
        if sharp and sides <= 2 and min(near) < (0.85 if sides < 2 else 0.5) * max(near):
            y, x = ((out < -2).any(axis).nonzero()[0] for axis in (1, 0))
            top, left, bottom, right = (int(n) for n in (y[0], x[0], y[-1] + 1, x[-1] + 1))
            return tuple(factor * n for n in (left, top, right, bottom)), (out < -2)[top:bottom, left:right]
    return None


def _outside(mask: np.ndarray) -> np.ndarray | None:
    """The signed distance of each pixel from the convex hull of a mask in pixels, [h, w], negative inside.

    None for a hull that is too small, too large, or no quadrilateral: an ellipse, whose largest one fills 0.64 of it,
    or a triangle.
    """
    from scipy.spatial import ConvexHull

    points = np.argwhere(mask)
    if not 0.06 * mask.size < len(points) < 0.92 * mask.size:
        return None
    hull = ConvexHull(points)
    corners = points[hull.vertices]
    apart = np.square(corners[:, None] - corners).sum(2)
    a, b = corners[list(np.unravel_index(apart.argmax(), apart.shape))]
    triangles = (corners - a) @ ((b - a)[::-1] * (1, -1)) / 2  # on the diagonal: their areas, to one side negative
    one, other = triangles.max(), -triangles.min()
    if one + other < 0.88 * hull.volume or min(one, other) < 0.4 * max(one, other):
        return None
    normals, offsets = hull.equations[:, :2], hull.equations[:, 2:]
    return (normals @ np.indices(mask.shape).reshape(2, -1) + offsets).max(0).reshape(mask.shape)


def find_paper(work: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """The brightness of the paper, float32 [h, w], whether ink is dark, and whether the paper is even, as in a drawing.

    Where ink is light, the brightness is that of the inverted picture. Even paper is the brightness of most of the
    picture, or of its border; else it is what most of each neighbourhood is.
    """
    b = max(1, round(0.04 * min(work.shape)))  # pixels from the edge: there is mostly paper, or the lines of a cell
    border = np.concatenate([side.ravel() for side in (work[:b], work[-b:], work[b:-b, :b], work[b:-b, -b:])])
    page = work[::3, ::3].ravel()
    for most, least in (page, 0.8), (border, 0.6), (page, 0.6):
        paper = np.median(most)
        if most is border and _is_cell(np.abs(work - np.median(page)) < 0.05):
            continue
        if (np.abs(most - paper) <= 0.008).mean() > least:  # two of 256 levels: drawn, not photographed
            dark = _skew(work - paper) <= 0
            return np.full_like(work, paper if dark else 1 - paper), dark, True
    trend = _trend(work)
    dark = _ink_is_dark(work, trend)
    return _covered(*((work, trend) if dark else (1 - work, 1 - trend))), dark, False


def _is_cell(page: np.ndarray) -> bool:
    """Whether a mask is a rectangle that has something in it, and hardly anything is around: paper between lines."""
    from scipy import ndimage

    rows, columns = (page.any(axis).nonzero()[0] for axis in (1, 0))
    if page.mean() < 0.5 or 2.5 * min(page.shape) < max(page.shape):  # or a 1
        return False
    whole = ndimage.binary_fill_holes(page)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return whole.mean() > 0.9 and (whole & ~page[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).mean() > 0.01


def _skew(difference: np.ndarray) -> float:
    return float((difference * difference * difference).sum())  # ten times as fast as ** 3


def _trend(work: np.ndarray) -> np.ndarray:
    """The light's gradient and vignette: a quadratic surface of least absolute error, so that ink hardly moves it."""
    small = reduce(work, 50)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in small.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    weights = np.ones(small.size)
    for _ in range(8):
        surface = np.linalg.lstsq(terms * weights[:, None], small.ravel() * weights, rcond=None)[0]
        weights = np.maximum(np.abs(small.ravel() - terms @ surface), 0.01) ** -0.5
    return resize((terms @ surface).reshape(small.shape), work.shape)


def _ink_is_dark(work: np.ndarray, trend: np.ndarray) -> bool:
    """Whether what differs most from its surroundings is darker."""
    from scipy import ndimage

    flat = work - trend
    small = reduce(flat, 50)
    around = ndimage.median_filter(small, max(3, max(small.shape) // 3), mode="nearest")
    return _skew(flat - resize(around, work.shape)) <= 0


def _covered(work: np.ndarray, trend: np.ndarray) -> np.ndarray:
    """The brightness of the paper under dark ink: whatever is dark and narrow is covered (morphological closing).

    Narrow is up to a third of the picture, as a stroke that fills it; or a sixth or a twelfth where that covers the
    darkest ink as well, since the edge of a shadow is then less often taken for ink.
    """
    from scipy import ndimage

    trend = np.maximum(trend, 0.1)
    flat = reduce(work / trend, 250)
    flat = ndimage.uniform_filter(flat, 3, mode="nearest")  # else the closing would follow the noise's peaks

    def closed(parts: int) -> np.ndarray:
        window = max(3, max(flat.shape) // parts)
        return ndimage.grey_closing(flat, (window, window), mode="nearest")

    paper = closed(3)
    depth = paper - flat
    darkest = depth > depth.max() / 2
    for parts in (12, 6):
        narrow = closed(parts)
        if (narrow - flat)[darkest].sum() > 0.9 * depth[darkest].sum():
            paper = narrow
            break
    paper = ndimage.minimum_filter(paper, 5, mode="nearest")  # else the edge of a shadow, blurred, would be a stroke
    paper = ndimage.uniform_filter(paper, 5, mode="nearest")
    return resize(paper, work.shape) * trend


def absorption(light: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """The share of the light that something on the paper absorbs, [h, w]; below 0 where it is brighter."""
    return (paper - light) / np.maximum(paper, 0.05)


def find_ink(work: np.ndarray, paper: np.ndarray, even: bool) -> tuple[np.ndarray, float]:
    """The share of light that dark ink absorbs, float32 [h, w] in [0, 1], and its standard deviation on bare paper."""
    ink = absorption(work, paper)
    if even:
        return np.clip(ink, 0, 1), 0.0
    low, offset = np.percentile(ink[::3, ::3], (5, 30))  # on paper, even where ink covers half the picture
    return np.clip(ink - offset, 0, 1), float(offset - low) / 1.2  # of a normal distribution's deviation


def _otsu(values: np.ndarray) -> float:
    """The threshold in [0, 1] that divides values in [0, 1] best into two classes (Otsu 1979)."""
    counts = np.bincount((values * 255).astype(np.uint8).ravel(), minlength=256).astype(float)
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * np.arange(256)).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return (int(np.nanargmax(between)) + 1) / 255 if np.isfinite(between).any() else 1.0


def find_masks(ink: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Where there is ink, and where there is any of half its strength, bool [h, w] each; none on empty paper."""
    threshold = max(_otsu(ink), 5 * noise, CONTRAST)
    return ink >= threshold, ink >= max(threshold / 2, 3 * noise)


def grow(mask: np.ndarray, faint: np.ndarray) -> np.ndarray:
    """The mask and the faint ink connected to it, bool [h, w]."""
    from scipy import ndimage

    return ndimage.binary_propagation(mask, np.ones((3, 3)), faint)
