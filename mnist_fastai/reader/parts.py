"""Pieces of ink → digits: which strokes belong together, where digits that touch are cut, and which rows they form."""

from dataclasses import dataclass

import numpy as np

from .image import Box

ROW = 1.0  # of two neighbours in a row, the greatest vertical distance, in digits' heights
MAX_PARTS = 200  # parts of ink that are considered, the largest


@dataclass
class Part:
    """A connected piece of ink: its number in the labels, its pixels, and its bounding box, ends excluded."""

    number: int
    area: int
    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    @property
    def box(self) -> Box:
        return self.left, self.top, self.right, self.bottom


def find_parts(mask: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    """The connected pieces of ink that may be a digit's, and their numbers, int [h, w] with 0 for no ink."""
    from scipy import ndimage

    labels, n = ndimage.label(mask, np.ones((3, 3)))
    area, boxes = np.bincount(labels.ravel(), minlength=n + 1), ndimage.find_objects(labels)
    parts = []
    for i in np.argsort(-area[1:], kind="stable")[:MAX_PARTS]:
        y, x = boxes[i]
        size = y.stop - y.start, x.stop - x.start
        parts.append(Part(i + 1, area[i + 1], y.start, y.stop, x.start, x.stop, *size))
    return labels, _without_corners(_without_frames(parts, labels), *mask.shape)


def _without_frames(parts: list[Part], labels: np.ndarray) -> list[Part]:
    """Drop each part that holds another one too large for the same digit in a hole: a table's cell."""
    from scipy import ndimage

    def frames(a: Part) -> bool:
        large = [b for b in parts if b.height > 0.3 * a.height]
        inside = [
            b.number for b in large if a.top < b.top and b.bottom < a.bottom and a.left < b.left and b.right < a.right
        ]
        if not inside:
            return False
        here = labels[a.top : a.bottom, a.left : a.right]
        return bool(np.isin(here[ndimage.binary_fill_holes(here == a.number)], inside).any())

    return [part for part in parts if not frames(part)]


def _without_corners(parts: list[Part], h: int, w: int) -> list[Part]:
    """Drop parts that lie across a corner of the picture if any others remain: a shadow, or the end of a line.

    A picture that is cropped to its digits has ink at all four sides, and keeps it.
    """
    at = np.array([(p.top == 0, p.bottom == h, p.left == 0, p.right == w) for p in parts], bool).reshape(-1, 4)
    corner = (at[:, 0] | at[:, 1]) & (at[:, 2] | at[:, 3])
    rest = [p for p, out in zip(parts, corner, strict=True) if not out]
    if at.any(0).all() or not any(max(p.height, p.width) >= max(4, 0.04 * max(h, w)) for p in rest):
        return parts
    return rest


def line_between(printed: np.ndarray, a: Box, b: Box) -> bool:
    """Whether a printed line goes through between two boxes in the same pixels."""
    left, top, right, bottom = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    if top < bottom and right < left:  # side by side
        return printed[top:bottom, right:left].any(1).mean() > 0.5
    return left < right and bottom < top and printed[bottom:top, left:right].any(0).mean() > 0.5


def group(parts: list[Part], printed: np.ndarray) -> list[list[Part]]:
    """The parts of each digit, from left to right; `printed` are lines, bool [h, w], across which there is none.

    The numbers were chosen on training images. Of the 60,000, 1,456 are in several parts at the threshold, and 17 of
    these are taken for several digits. Of 1,800 pairs side by side, at least a twentieth of their height apart, 98.6%
    are read as two.
    """
    if not parts:
        return []
    largest = max(p.area for p in parts)
    size = max(max(p.height, p.width / 2) for p in parts if p.area >= 0.25 * largest)  # of a digit
    if size < max(4, 0.02 * max(printed.shape)):
        return []

    lined = printed.any()

    def joined(a: Part, b: Part) -> bool:
        dx = max(a.left, b.left) - min(a.right, b.right)
        dy = max(a.top, b.top) - min(a.bottom, b.bottom)
        if lined and line_between(printed, a.box, b.box):
            return False
        if -dx > 0.5 * min(a.width, b.width):  # one above the other
            return dy <= 0.35 * size
        low = min(a.height, b.height)
        # a stroke is lower than a digit, or above or below the others, as a 5's bar is
        return (low < 0.6 * size or -dy < 0.5 * low) and np.hypot(max(dx, 0), max(dy, 0)) <= 0.3 * size

    groups: list[list[Part]] = []
    for part in parts:
        if max(part.height, part.width) >= 0.15 * size and part.area >= 0.02 * largest:  # else it is a speck
            near = [g for g in groups if any(joined(part, other) for other in g)]
            groups = [g for g in groups if g not in near] + [sum(near, [part])]

    def extent(group: list[Part]) -> int:
        height = max(p.bottom for p in group) - min(p.top for p in group)
        return max(height, max(p.right for p in group) - min(p.left for p in group))

    return sorted((g for g in groups if extent(g) >= 0.35 * size), key=lambda g: min(p.left for p in g))


def seams(ink: np.ndarray) -> np.ndarray:
    """The ways to cut ink, float [h, w], from top to bottom, in columns int [SEAMS, h]; the right part begins there.

    Each is the path of least ink near a column or near a line that leans to the right, as in seam carving (Avidan and
    Shamir 2007).
    """
    h, w = ink.shape
    middle = np.array([(x, lean) for lean in (0, 0.35) for x in np.linspace(0.25, 0.75, 7)])
    lines = middle[:, :1] * w + middle[:, 1:] * (h / 2 - np.arange(h))
    apart = np.abs(np.arange(w) - lines[:, :, None])  # [SEAMS, h, w]
    cost = ink + 0.02 + 0.3 * (apart / max(0.1 * w, 1)) ** 2
    total = cost[:, 0]
    steps = np.zeros(cost.shape, np.int8)
    for y in range(1, h):
        padded = np.pad(total, ((0, 0), (1, 1)), constant_values=np.inf)
        before = np.stack([padded[:, 1:-1], padded[:, :-2], padded[:, 2:]])
        steps[:, y] = np.array([0, -1, 1], np.int8)[before.argmin(0)]
        total = before.min(0) + cost[:, y]
    paths = np.empty((len(middle), h), int)
    paths[:, -1] = total.argmin(1)
    for y in range(h - 1, 0, -1):
        paths[:, y - 1] = paths[:, y] + steps[np.arange(len(paths)), y, paths[:, y]]
    return paths


def rows(boxes: list[Box]) -> list[list[int]]:
    """The indices of boxes (left, top, right, bottom) in rows from top to bottom, each from left to right."""
    if not boxes:
        return []
    left, top, _, bottom = np.array(boxes).T
    middle, height = (top + bottom) / 2, np.median(bottom - top)
    found: list[list[int]] = []
    for i in np.argsort(left, kind="stable").tolist():
        row = min(found, key=lambda row: abs(middle[row[-1]] - middle[i]), default=None)
        if row is not None and abs(middle[row[-1]] - middle[i]) < ROW * height:
            row.append(i)
        else:
            found.append([i])
    return sorted(found, key=lambda row: middle[row].mean())
