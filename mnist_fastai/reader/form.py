"""The digits in a picture → MNIST's 28×28 format.

    steps = preprocess(read_image("photo.jpg"), Session().novelty)
    [digit.image for digit in steps.digits]  # uint8 [28, 28] each, by rows and from left to right

MNIST's format (LeCun et al. 1998, section III.A): white ink on black, the bounding box scaled into 20×20 pixels with
its aspect kept and edges anti-aliased, then placed in 28×28 by its centre of mass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from PIL import Image

from ..errors import InputError
from .boxes import find_printed
from .framing import is_in_format
from .image import SIZE, Box, Source, name_of, read_image, read_raw, reduce, resize
from .ink import absorption, find_ink, find_masks, find_paper, find_sheet, grow
from .parts import find_parts, group, line_between, rows, seams

BOX = 20  # pixels, the long side of a digit in MNIST's 28
WORK = 1000  # pixels, the long side of the copy on which ink is searched
DETAIL = 400  # pixels, the long side of a digit while its strokes are made thicker or thinner
# Stroke widths in pixels of the 20×20 box. 98% of MNIST's training images lie between 1.5 and 4.2, and their median is
# 2.4. Thinner strokes are made TYPICAL, which raises the mean probability of a thin pen's digits from 0.89 to 0.96.
THIN, TYPICAL, THICK = 1.6, 2.4, 4.2
# Whether two pieces of ink are one digit, and one piece is two
NEAR = 0.35  # the greatest distance of a digit's strokes, in its long sides
WIDEST = 1.5  # the greatest width of a digit, in heights
BAR = 3  # the width in heights, and the height of another digit, of a dash or of what is left of a line
# Weights of logistic regressions (benchmarks/segmentation.py); the last is of the novelty of two less that of one.
# SPLIT was fitted to as many pieces of ink that are two digits as that are one; in numbers, one in ten is taken to be.
# That cuts a digit in 2% of the numbers side by side in place of 5%, and leaves 2% more of the pairs that touch uncut
JOIN = np.array([7.76, 0.29, -5.4, 4.77])  # 1, distance, width / height
SPLIT = np.array([-8.36 - np.log(9), 6.2, -0.96, -6.55])  # 1, width / height, share of the rows in which ink is cut
NOVELTY = -1, 4  # limits, beyond which more says nothing more
# Bounds on the time that a picture takes which is no number; of 30 digits, 26 are cut in two on trial
MAX_ROW = 100  # digits in a row, of which neighbours may be strokes of one
CUTTABLE = 0.2, 12  # width / height of what may be digits that touch
MAX_CUT = 30  # digits that are cut in two on trial, the widest

Model = Callable[[np.ndarray], np.ndarray]  # images uint8 [n, 28, 28] → novelty [n], see `Session.novelty`


@dataclass
class Digit:
    """One digit of a picture."""

    box: Box
    ink: np.ndarray  # float32 [h, w] in [0, 1], cropped at full resolution and then at most DETAIL pixels long
    strokes: np.ndarray  # the same with MNIST's stroke width
    image: np.ndarray  # uint8 [28, 28], MNIST's format


@dataclass
class Steps:
    """The result of every step of `preprocess`.

    All pictures but `grey` have the same size, at most WORK pixels long. They show the sheet alone if `sheet` is set.
    """

    grey: np.ndarray  # uint8 [H, W], the picture
    background: np.ndarray  # float32 [h, w] in [0, 1], the paper's brightness; inverted where ink is light
    ink: np.ndarray  # float32 [h, w] in [0, 1], the share of light that ink absorbs
    mask: np.ndarray  # bool [h, w], ink by Otsu's threshold
    labels: np.ndarray  # uint16 [h, w], the number of the digit from 1, or 0
    digits: list[Digit] = field(default_factory=list)  # by rows, from left to right; empty where there is none
    sheet: Box | None = None  # of a sheet that lies on something else


def preprocess(grey: np.ndarray, novelty: Model | None = None, *, multi: bool = False, single: bool = False) -> Steps:
    """Find the digits in grey pixels, uint8 [h, w], and bring each into MNIST's format.

    Ink may be dark or light; boxes, cells and ruled lines are no ink. Where `novelty` is given, which says how little
    an image is like a digit, strokes that lie apart are taken for one digit if that is more like one, and, if there may
    be several (`multi`), what touches for two. Without it, strokes are joined by their distance alone, and digits that
    touch are one; where it is known that there is one digit (`single`), as in a training picture, all ink is that
    digit's. If a sheet lies on something else, only ink on the sheet counts, unless there is none. A picture without
    ink has no digits, and raises nothing.
    """
    if sheet := find_sheet(grey):
        (left, top, right, bottom), inside = sheet
        steps = _read_page(grey[top:bottom, left:right], novelty, multi, single, inside)
        if steps.digits:
            for digit in steps.digits:
                digit.box = tuple(n + at for n, at in zip(digit.box, (left, top, left, top), strict=True))
            return replace(steps, grey=grey, sheet=(left, top, right, bottom))
    return _read_page(grey, novelty, multi, single)


def _read_page(
    grey: np.ndarray, novelty: Model | None, multi: bool, single: bool, sheet: np.ndarray | None = None
) -> Steps:
    """`preprocess` on a picture that is paper all over, or only in the mask `sheet`, bool [h, w] of any size."""
    from scipy import ndimage

    factor = -(-max(grey.shape) // WORK)
    work = reduce(grey, WORK).astype(np.float32) / 255
    if sheet is not None:  # the paper and its lines go on beyond the sheet's edges
        sheet = resize(sheet, work.shape) > 0.5
        work = work[tuple(ndimage.distance_transform_edt(~sheet, return_distances=False, return_indices=True))]
    paper, dark, even = find_paper(work)
    ink, noise = find_ink(work if dark else 1 - work, paper, even)
    mask, faint = find_masks(ink, noise)
    printed = find_printed(faint, ink)
    strokes = mask & ~printed
    if even:  # in uneven light, faint ink may be a shadow
        strokes = grow(strokes, faint & ~printed)
    numbers, parts = find_parts(strokes if sheet is None else strokes & sheet)
    groups = group(parts, printed)
    if single and groups:
        groups = [[part for each in groups for part in each]]
    digit_of = np.zeros(numbers.max() + 1, np.uint16)
    for k, digit in enumerate(groups, 1):
        digit_of[[part.number for part in digit]] = k
    labels = digit_of[numbers]

    def bring(mask: np.ndarray) -> Digit:
        return _digit(grey, dark, paper, mask, printed, factor, noise)

    found = {k: bring(labels == k) for k in range(1, len(groups) + 1)}
    if novelty is not None:
        for row in _in_rows(found) if multi else [list(found)]:
            _join(row, found, labels, printed, bring, novelty, multi)
    boxes = _boxes(labels)
    tallest = max((bottom - top for _, top, _, bottom in boxes.values()), default=0)
    for k, (left, top, right, bottom) in boxes.items():
        if BAR * (bottom - top) < min(right - left, tallest):
            labels[labels == k] = 0
            del found[k]
    if novelty is not None and multi:
        _split(found, labels, printed, bring, novelty)
    order = [k for row in _in_rows(found) for k in row if found[k].image.any()]
    digit_of = np.zeros(labels.max() + 1, np.uint16)
    digit_of[order] = np.arange(1, len(order) + 1)
    return Steps(grey, paper, ink, mask, digit_of[labels], [found[k] for k in order])


def _in_rows(found: dict[int, Digit]) -> list[list[int]]:
    numbers = list(found)
    return [[numbers[i] for i in row] for row in rows([digit.box for digit in found.values()])]


def _novelty(digits: list[Digit], novelty: Model) -> float:
    """That of the digit that is least like one."""
    return float(novelty(np.array([digit.image for digit in digits])).max().clip(*NOVELTY))


def _join(
    row: list[int], found: dict[int, Digit], labels: np.ndarray, printed: np.ndarray, bring: Callable,
    novelty: Model, multi: bool,
) -> None:  # fmt: skip
    """Take neighbours in a row of digits for strokes of one where that is more probable."""
    if len(row) > (MAX_ROW if multi else 2):
        return
    for a, b in pairwise(row):
        left, right = labels == a, labels == b
        if line_between(printed, _box(left), _box(right)):
            continue
        h, w = _extent(left | right)
        if w > WIDEST * h:
            continue
        gap = _gap(left, right) / max(h, w)
        if gap > NEAR:
            continue
        one = bring(left | right)
        less = _novelty([found[a], found[b]], novelty) - _novelty([one], novelty)
        if JOIN @ (1, gap, w / h, less) > 0:
            labels[left] = b
            found[b] = one
            del found[a]


def _split(found: dict[int, Digit], labels: np.ndarray, printed: np.ndarray, bring: Callable, novelty: Model) -> None:
    """Take a digit for two that touch where these are more like digits, and each of them again, the widest first.

    In boxes, each digit has its own.
    """

    def shape(k: int) -> float:
        left, top, right, bottom = boxes[k]
        return (right - left) / (bottom - top)

    boxes, tries = _boxes(labels), 0
    todo = sorted(found, key=shape, reverse=True)
    for k in todo:  # which grows
        if not CUTTABLE[0] < shape(k) < CUTTABLE[1]:
            continue
        if any(line_between(printed, boxes[k], boxes[other]) for other in found if other != k):
            continue
        one = _novelty([found[k]], novelty)
        if SPLIT @ (1, shape(k), 0, NOVELTY[0] - one) <= 0:
            continue  # nothing could be like two digits enough
        if (tries := tries + 1) > MAX_CUT:
            return
        whole = labels == k
        pairs = [(right, cut, [bring(whole & ~right), bring(right)]) for right, cut in _halves(whole)]
        if not pairs:
            continue
        both = novelty(np.array([digit.image for *_, pair in pairs for digit in pair])).reshape(-1, 2).max(1)
        scores = [
            SPLIT @ (1, shape(k), cut, two - one) for (_, cut, _), two in zip(pairs, both.clip(*NOVELTY), strict=True)
        ]
        if max(scores) > 0:
            half, _, (found[k], second) = pairs[int(np.argmax(scores))]
            new = max(found) + 1
            found[new] = second
            labels[half] = new
            boxes = _boxes(labels)
            todo += [k, new]


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """The box of each number in labels, int [h, w], in their pixels."""
    from scipy import ndimage

    every = enumerate(ndimage.find_objects(labels), 1)
    return {k: (box[1].start, box[0].start, box[1].stop, box[0].stop) for k, box in every if box}


def _box(mask: np.ndarray) -> Box:
    """The box of what a mask, bool [h, w], covers, in its pixels."""
    (top, bottom), (left, right) = (mask.any(axis).nonzero()[0][[0, -1]].tolist() for axis in (1, 0))
    return left, top, right + 1, bottom + 1


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """The height and width of what a mask, bool [h, w], covers."""
    left, top, right, bottom = _box(mask)
    return bottom - top, right - left


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two masks in pixels."""
    from scipy import ndimage

    left, top, right, bottom = _box(a | b)
    a, b = (mask[top:bottom, left:right] for mask in (a, b))
    return float(ndimage.distance_transform_edt(~a)[b].min())


def _halves(mask: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The right halves, bool [h, w], of the ways to cut a mask in two digits, and the share of rows that cuts ink."""
    left, top, right, bottom = _box(mask)
    part = mask[top:bottom, left:right]
    h, w = part.shape
    small = resize(part, (64, max(8, round(64 * w / h))))
    out = []
    for path in seams(small):
        at = path[np.arange(h) * 64 // h] * w / small.shape[1]
        piece = part & (np.arange(w) >= at[:, None])
        if all(side.any() and _extent(side)[0] > 0.5 * h for side in (piece, part & ~piece)):
            half = np.zeros_like(mask)
            half[top:bottom, left:right] = piece
            out.append((half, (small[np.arange(64), path] > 0.5).mean()))
    return out


def read_digits(
    source: Source,
    novelty: Model | None = None,
    *,
    format: str = "mnist",  # one of recipes.IMAGE_FORMATS: of the images that the model was trained on
    raw: bool = False,  # the picture is in that format
    multi: bool = False,
    single: bool = False,
) -> list[tuple[np.ndarray, Box]]:
    """The image, uint8 [28, 28], and the box of each digit, by rows and from left to right.

    A picture that is in the format already is left as it is, unless `multi`; any other is brought into MNIST's by
    `preprocess`. Raises InputError as `read_image`, for a picture without a digit, and, unless `multi` or `single`, for
    one with several.
    """
    if raw:
        return [(read_raw(source), (0, 0, SIZE, SIZE))]
    grey = read_image(source)
    if not multi and is_in_format(grey, format):
        return [(grey, (0, 0, SIZE, SIZE))]
    digits = preprocess(grey, novelty, multi=multi, single=single).digits
    if not digits:
        raise InputError(f"no digit was found in {name_of(source)}; `mnist-fa predict --show-steps` draws the steps")
    if len(digits) > 1 and not multi:
        several = f"{name_of(source)} has {len(digits)} digits, not one"
        raise InputError(f"{several}; crop it, or read them as a number with `mnist-fa predict --multi`")
    return [(digit.image, digit.box) for digit in digits]


def _digit(grey, dark: bool, paper, mask: np.ndarray, printed: np.ndarray, factor: int, noise: float) -> Digit:
    """Crop the ink under a mask, bool [h, w], from the full resolution, and bring it into MNIST's format."""
    from scipy import ndimage

    box = _box(mask)

    def in_picture(margin: int) -> Box:
        left, top = (max(n - margin, 0) * factor for n in box[:2])
        h, w = grey.shape
        return left, top, min((box[2] + margin) * factor, w), min((box[3] + margin) * factor, h)

    margin = 2  # strokes are anti-aliased beyond the mask
    part = tuple(slice(max(box[i] - margin, 0), box[i + 2] + margin) for i in (1, 0))
    near = ndimage.binary_dilation(mask[part], np.ones((3, 3)), iterations=margin) & ~printed[part]
    left, top, right, bottom = in_picture(margin)
    crop = grey[top:bottom, left:right]
    crop = reduce(crop if dark else 255 - crop, DETAIL).astype(np.float32) / 255
    paper, near, core = (resize(a, crop.shape) for a in (paper[part], near, mask[part]))
    ink = absorption(crop, paper) * near
    full = max(np.percentile(ink[core > 0.5 * core.max()], 80), 0.05)
    floor = min(3 * noise, 0.2 * full)
    ink = _trim(np.clip((ink - floor) / (full - floor), 0, 1))
    strokes = _usual_strokes(ink)
    return Digit(in_picture(0), ink, strokes, _fit(strokes))


def _trim(ink: np.ndarray) -> np.ndarray:
    rows, columns = ((ink > 0.02).any(axis).nonzero()[0] for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink


def stroke_width(ink: np.ndarray) -> float:
    """The mean stroke width of ink, [h, w] in [0, 1], in pixels: 2 × area / perimeter, which is the total variation."""
    ink = np.pad(ink, 1)
    dy, dx = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    return float(2 * ink.sum() / np.hypot(dy, dx).sum())


def _usual_strokes(ink: np.ndarray) -> np.ndarray:
    """Bring strokes that are thinner or thicker than MNIST's to a width that is usual there."""
    from scipy import ndimage

    long = max(ink.shape)
    reduced = reduce(ink, 100)  # the sensor's noise, which has a perimeter too, is averaged out
    width = stroke_width(reduced) * BOX / max(reduced.shape)
    if THIN <= width <= THICK:
        return ink
    if long < 160:
        ink = _scale_to(ink, 160).clip(0, 1)
        long = 160
    wanted = TYPICAL if width < THIN else THICK
    radius = (wanted - width) * long / (2 * (BOX - wanted))  # the digit grows or shrinks with its strokes
    pad = max(0, int(np.ceil(radius))) + 1
    ink = np.pad(ink, pad)
    inside = ink >= 0.5
    edt = ndimage.distance_transform_edt  # of the side of the edge to which it moves; it takes most of the time
    distance = inside - edt(~inside) if radius > 0 else edt(inside) - ~inside
    moved = np.clip(distance + radius + (0.5 - inside), 0, 1).astype(np.float32)
    return _trim(np.maximum(ink, moved) if radius > 0 else np.minimum(ink, moved))


def fit_strokes(ink: np.ndarray) -> np.ndarray:
    """One digit in ink, float32 [h, w] in [0, 1] → MNIST's format, uint8 [28, 28], with a stroke width usual there."""
    return _fit(_usual_strokes(_trim(ink)))


def _scale_to(ink: np.ndarray, long: int) -> np.ndarray:
    """Resize until the long side is `long` pixels, by area averaging where that shrinks it."""
    scale = long / max(ink.shape)
    if scale == 1:
        return ink
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return resize(ink, tuple(max(1, round(n * scale)) for n in ink.shape), how)


def _fit(ink: np.ndarray) -> np.ndarray:
    """Uint8 [28, 28] of ink with its long side at 20 pixels and its centre of mass in the middle."""
    small = np.rint(_scale_to(ink, BOX) * 255).clip(0, 255).astype(np.uint8)
    image = np.zeros((SIZE, SIZE), np.uint8)
    corner = []
    for axis, n in enumerate(small.shape):
        mass = small.sum(1 - axis, dtype=float)
        centre = (mass * np.arange(n)).sum() / max(mass.sum(), 1)
        corner.append(int(np.clip(round(SIZE / 2 - centre), 0, SIZE - n)))  # as in MNIST, whole pixels
    image[corner[0] : corner[0] + small.shape[0], corner[1] : corner[1] + small.shape[1]] = small
    return image
