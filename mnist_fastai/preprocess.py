"""A photo or drawing of digits → the 28×28 format that MNIST uses. NumPy, SciPy and Pillow only.

    steps = preprocess(read_image("photo.jpg"))
    [digit.image for digit in steps.digits]  # uint8 [28, 28] each, from left to right

MNIST's format (LeCun et al. 1998, section III.A): white ink on black, the bounding box scaled into 20×20 pixels with
its aspect kept and edges anti-aliased, then placed in 28×28 by its centre of mass. SciPy is imported when first used,
since that takes 0.1 s.
"""

import io
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import InputError

SIZE, BOX = 28, 20  # pixels, of a side of an MNIST image and of the box that its digit is fitted into
MAX_PIXELS = 64_000_000  # a 48-megapixel phone passes
# Pillow reads more, but not without danger: for EPS it starts Ghostscript, which runs the file as a program
FORMATS = "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"

CONTRAST = 0.06  # the least share of light that ink takes away
STRAIGHT = 0.85  # the least part of its way from edge to edge on which a ruled line is seen

MOST = 100  # parts of ink that are looked at, the largest
WORK = 1000  # pixels, of the long side of the copy on which ink is found
DETAIL = 400  # pixels, of the long side of a digit while its strokes are made thicker or thinner
# Widths of strokes in pixels of the 20×20 box. Of MNIST's training images, 98% lie between 1.5 and 4.2, and the median
# is 2.4. Thinner strokes are made TYPICAL, which raises the mean probability of a thin pen's digits from 0.89 to 0.96.
THIN, TYPICAL, THICK = 1.6, 2.4, 4.2


@dataclass
class Digit:
    """One digit that was found."""

    box: tuple[int, int, int, int]  # left, top, right, bottom in the picture's pixels, right and bottom excluded
    ink: np.ndarray  # float32 [h, w] in [0, 1], cropped at full resolution and then at most DETAIL pixels long
    strokes: np.ndarray  # the same with MNIST's stroke width
    image: np.ndarray  # uint8 [28, 28], MNIST's format


@dataclass
class Steps:
    """What `preprocess` did. Pictures are at most WORK pixels long, of the same size but `grey`, and of a sheet alone
    where one lies on something else."""

    grey: np.ndarray  # uint8 [H, W], the picture
    background: np.ndarray  # float32 [h, w] in [0, 1], the paper's brightness, where ink is dark
    ink: np.ndarray  # float32 [h, w] in [0, 1], the share of light that ink takes away
    mask: np.ndarray  # bool [h, w], ink by Otsu's threshold
    labels: np.ndarray  # int [h, w], 0 or the number of the digit, from 1
    digits: list[Digit] = field(default_factory=list)  # from left to right; empty where there is none
    sheet: tuple[int, int, int, int] | None = None  # left, top, right, bottom of a sheet on something else


# --- a file to grey pixels ----------------------------------------------------------------------------------------


def read_image(source: str | Path | bytes | Image.Image | np.ndarray) -> np.ndarray:
    """The grey pixels, uint8 [h, w], of a file, its bytes, a PIL image or pixels [h, w(, 3 or 4)], upright.

    EXIF orientation is applied and transparency laid on white. Pixels of more than 8 bits, which have no known range,
    are scaled by their own. Raises InputError for what is no image, damaged, animated, or larger than MAX_PIXELS, which
    is seen before it is decoded.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on size, which is checked here, and on damaged metadata
            return _read(source, name)
    except InputError:
        raise
    except FileNotFoundError as e:
        raise InputError(f"no file {name}") from e
    except IsADirectoryError as e:
        raise InputError(f"{name} is a folder; give an image in it") from e
    except PermissionError as e:
        raise InputError(f"{name} cannot be read (permission denied); give yourself the right to") from e
    except Image.UnidentifiedImageError as e:
        raise InputError(f"{name} is no image that can be read; save it as PNG or JPEG") from e
    except Image.DecompressionBombError as e:
        raise InputError(f"{name} is too large, over {MAX_PIXELS // 10**6} megapixels; make it smaller") from e
    except Exception as e:  # Pillow's decoders raise whatever the damaged bytes lead them to
        raise InputError(f"{name} is damaged or truncated; save or copy it again") from e


def _read(source, name: str) -> np.ndarray:
    if isinstance(source, np.ndarray):
        pixels = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
            raise InputError(f"{name} has shape {source.shape}; give pixels as [h, w], [h, w, 3] or [h, w, 4]")
        if pixels.ndim == 2 and pixels.dtype != np.uint8:
            return _scale(pixels, name)
        if pixels.dtype != np.uint8:
            raise InputError(f"{name} has colours of type {source.dtype}; give uint8")
        source = Image.fromarray(pixels)
    if isinstance(source, Image.Image):
        return _grey(source, name)
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name} is empty (0 bytes); save or copy it again")
        source = io.BytesIO(source)
    elif not Path(source).is_dir() and not Path(source).stat().st_size:
        raise InputError(f"{name} is empty (0 bytes); save or copy it again")
    with Image.open(source, formats=FORMATS) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's photo and its thumbnail
            raise InputError(f"{name} has several frames; save the one that shows the digit as PNG")
        return _grey(image, name)


def _grey(image: Image.Image, name: str) -> np.ndarray:
    width, height = image.size
    if width * height > MAX_PIXELS:
        size = f"{width:,} × {height:,} pixels"
        raise InputError(f"{name} is too large ({size}, over {MAX_PIXELS // 10**6} megapixels); make it smaller")
    image.draft("L", image.size)  # a JPEG decoder then leaves the colours out: a third of the memory and the time
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        return _scale(np.asarray(image), name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("L", image.size, 255)
        return np.asarray(Image.composite(image.convert("L"), white, image.getchannel("A")))
    return np.asarray(image.convert("L"))


def _scale(pixels: np.ndarray, name: str) -> np.ndarray:
    pixels = pixels.astype(np.float32)
    low, high = pixels.min(), pixels.max()
    if not np.isfinite([low, high]).all():
        raise InputError(f"{name} has pixels that are no finite number; give 8-bit ones")
    return np.rint((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


# --- grey pixels to digits ----------------------------------------------------------------------------------------


def preprocess(grey: np.ndarray) -> Steps:
    """Find the digits in a picture, uint8 [h, w], and bring each into MNIST's format.

    Strokes that belong to one digit stay together though they be apart, and digits that touch are taken for one. Ink
    may be dark or light. Paper is what is at the border, where that is even as in a drawing, and else what most of each
    neighbourhood is. Of a sheet that lies on something else only what is on it counts, unless nothing is.
    """
    if sheet := _sheet(grey):
        (left, top, right, bottom), inside = sheet
        steps = _read_page(grey[top:bottom, left:right], inside)
        if steps.digits:
            for digit in steps.digits:
                digit.box = tuple(n + at for n, at in zip(digit.box, (left, top, left, top), strict=True))
            return replace(steps, grey=grey, sheet=(left, top, right, bottom))
    return _read_page(grey)


def _read_page(grey: np.ndarray, sheet: np.ndarray | None = None) -> Steps:
    """As `preprocess`, on what is paper all over, or where a sheet is, bool [h, w] of any size."""
    from scipy import ndimage

    factor = -(-max(grey.shape) // WORK)
    work = np.asarray(Image.fromarray(grey).reduce(factor), np.float32) / 255
    if sheet is not None:  # the paper and its lines go on beyond the sheet's edges
        sheet = _resize(sheet, work.shape, Image.Resampling.BILINEAR) > 0.5
        work = work[tuple(ndimage.distance_transform_edt(~sheet, return_distances=False, return_indices=True))]
    border = _border(work)
    paper = np.median(border)
    even = (np.abs(border - paper) <= 0.008).mean() > 0.6  # two of 256 levels: drawn, not photographed
    if even:
        dark = _skew(work - paper) <= 0
    else:
        trend = _trend(work)
        dark = _ink_is_dark(work, trend)
    if not dark:
        work = 1 - work
    if even:
        background = np.full_like(work, paper if dark else 1 - paper)
        ink, noise = np.clip(_taken(work, background), 0, 1), 0.0
    else:
        background = _paper(work, trend if dark else 1 - trend)
        ink, noise = _ink(work, background)
    mask, faint = _masks(ink, noise)
    strokes = _without_lines(mask, faint, even=even)
    labels, n = _group(strokes if sheet is None else strokes & sheet)
    steps = Steps(grey, background, ink, mask, labels)
    for i in range(1, n + 1):
        steps.digits.append(_digit(grey, dark, background, labels == i, factor, noise))
    return steps


def _sheet(grey: np.ndarray) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """A sheet that lies on something else: its box in the picture, and where in the box it is, bool [h, w]; or None.

    It is a quadrilateral of the lighter or the darker of two brightnesses, with the other all around, and sharp edges.
    What goes beyond two sides of the picture must differ more than a shadow does, and beyond three is none.
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
        if (
            out is None
            or min(out.max(), -out.min()) < 5
            or bright[out < 0].mean() < 0.7
            or bright[out > 2].mean() > 0.1
        ):
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
    """How many pixels each lies outside the convex hull of a mask, [h, w], negative inside; None if it has not four
    corners, as an ellipse, which has 0.64, or a triangle, or is too small or large."""
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


def _border(picture: np.ndarray) -> np.ndarray:
    """The pixels within 4% of the edges, clockwise or not: what is there is mostly paper."""
    b = max(1, round(0.04 * min(picture.shape)))
    return np.concatenate([part.ravel() for part in (picture[:b], picture[-b:], picture[b:-b, :b], picture[b:-b, -b:])])


def _resize(picture: np.ndarray, shape: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture, np.float32)).resize(shape[::-1], how))


def _reduce(picture: np.ndarray, long: int) -> np.ndarray:
    """By area averaging over a whole number of pixels, so that the long side has at most `long`."""
    return np.asarray(Image.fromarray(picture).reduce(-(-max(picture.shape) // long)))


def _skew(difference: np.ndarray) -> float:
    return float((difference * difference * difference).sum())  # ten times as fast as ** 3


def _trend(work: np.ndarray) -> np.ndarray:
    """A quadratic surface with the least absolute error, which ink and shadows hardly move: gradient and vignette."""
    small = _reduce(work, 50)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in small.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    weights = np.ones(small.size)
    for _ in range(8):
        surface = np.linalg.lstsq(terms * weights[:, None], small.ravel() * weights, rcond=None)[0]
        weights = np.maximum(np.abs(small.ravel() - terms @ surface), 0.01) ** -0.5
    return _resize((terms @ surface).reshape(small.shape), work.shape, Image.Resampling.BILINEAR)


def _ink_is_dark(work: np.ndarray, trend: np.ndarray) -> bool:
    """Whether what differs most from the paper around it is darker."""
    from scipy import ndimage

    flat = work - trend
    small = _reduce(flat, 50)
    around = ndimage.median_filter(small, max(3, max(small.shape) // 3), mode="nearest")
    return _skew(flat - _resize(around, work.shape, Image.Resampling.BILINEAR)) <= 0


def _paper(work: np.ndarray, trend: np.ndarray) -> np.ndarray:
    """The brightness of the paper: whatever is dark and narrow is covered (morphological closing).

    Narrow is a third of the picture, as a stroke may be that fills it; or a sixth or a twelfth, where that covers the
    darkest ink as well: the edge of a shadow is the less taken for ink.
    """
    from scipy import ndimage

    trend = np.maximum(trend, 0.1)
    flat = _reduce(work / trend, 250)
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
    return _resize(paper, work.shape, Image.Resampling.BILINEAR) * trend


def _taken(light: np.ndarray, paper: np.ndarray) -> np.ndarray:
    return (paper - light) / np.maximum(paper, 0.05)


def _ink(work: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, float]:
    """The share of light that ink takes away, and the standard deviation of the paper's noise in it."""
    ink = _taken(work, background)
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


def _masks(ink: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Where ink is, and where there may be some of half its strength, bool [h, w]; nowhere on empty paper."""
    threshold = max(_otsu(ink), 5 * noise, CONTRAST)
    return ink >= threshold, ink >= max(threshold / 2, 3 * noise)


def _without_lines(mask: np.ndarray, faint: np.ndarray, even: bool) -> np.ndarray:
    """The mask without ruled lines; where there are none on even paper, with faint ink that hangs together with it.

    Strokes that cross a line stay whole. In uneven light faint ink may be a shadow, and on ruled paper a line's rest.
    """
    from scipy import ndimage

    lines = _level_lines(faint) | _level_lines(faint.T).T
    if lines.any() or not even:
        return mask & ~lines
    return ndimage.binary_propagation(mask, np.ones((3, 3)), faint)


def _level_lines(mask: np.ndarray) -> np.ndarray:
    """What is straight, thin, and goes from edge to edge, up to 7 degrees off level, bool [h, w].

    Of such a line it has those columns where nothing but the line is, as when staff lines are taken out of music.
    """
    from scipy import ndimage

    h, w = mask.shape
    columns = np.linspace(0, w - 1, min(w, 128)).astype(int)
    some = ndimage.binary_dilation(mask[:, columns], [[0, 1, 0]] * 3)  # a line is never quite straight
    if some.any(0).mean() < STRAIGHT:
        return np.zeros_like(mask)
    runs, n = ndimage.label(mask, [[0, 1, 0]] * 3)  # of ink in a column
    length = np.bincount(runs.ravel(), minlength=n + 1)
    length[0] = h
    cut = np.zeros(n + 1, bool)
    rows, centred = np.arange(h)[:, None], np.arange(w) - w / 2
    for slope in np.linspace(-0.12, 0.12, 49):
        y = rows + np.rint(slope * centred[columns]).astype(int)
        inside = (y >= 0) & (y < h)
        covered = (np.take_along_axis(some, y.clip(0, h - 1), 0) & inside).sum(1)
        for row in np.nonzero((covered > STRAIGHT * inside.sum(1)) & (inside.mean(1) > 0.3))[0]:
            at = np.rint(row + slope * centred + np.arange(-2, 3)[:, None]).astype(int).clip(0, h - 1)
            near = runs[at, np.arange(w)]  # [5, w], the runs within two rows of the line
            thickness = np.percentile(length[near].min(0), 25)  # a digit may hide most of the line
            if thickness <= max(1, 0.04 * h):  # a digit that fills its picture has strokes of 0.1
                cut[near[length[near] <= 1.6 * thickness + 1]] = True
    return cut[runs]


@dataclass
class Part:
    """A connected piece of ink: its number in the labels, its pixels, and its bounding box, ends excluded."""

    number: int
    area: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def _group(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Parts of the mask → digits, numbered from left to right in the labels, and how many. The rest gets 0."""
    from scipy import ndimage

    labels, n = ndimage.label(mask, np.ones((3, 3)))
    area, boxes = np.bincount(labels.ravel(), minlength=n + 1), ndimage.find_objects(labels)
    parts = []
    for i in np.argsort(-area[1:], kind="stable")[:MOST]:
        y, x = boxes[i]
        parts.append(Part(i + 1, area[i + 1], y.start, y.stop, x.start, x.stop))
    parts = _without_corners(_without_frames(parts, labels), *mask.shape)
    number = np.zeros(n + 1, np.uint8)
    digits = _digits(parts, smallest=max(4, 0.02 * max(mask.shape)))
    for k, digit in enumerate(digits, 1):
        number[[part.number for part in digit]] = k
    return number[labels], len(digits)


def _without_frames(parts: list[Part], labels: np.ndarray) -> list[Part]:
    """Without what has another part in a hole that is too large to belong to the same digit: a table's cell."""
    from scipy import ndimage

    def frames(a: Part) -> bool:
        inside = [
            b.number
            for b in parts
            if b.height > 0.3 * a.height
            and a.top < b.top
            and b.bottom < a.bottom
            and a.left < b.left
            and b.right < a.right
        ]
        if not inside:
            return False
        here = labels[a.top : a.bottom, a.left : a.right]
        return bool(np.isin(here[ndimage.binary_fill_holes(here == a.number)], inside).any())

    return [part for part in parts if not frames(part)]


def _without_corners(parts: list[Part], h: int, w: int) -> list[Part]:
    """Without what lies across a corner of the picture, where there is something else: a shadow, or a line's end.

    A picture that is cropped to its digits has ink at all four sides, and keeps it.
    """
    at = np.array([(p.top == 0, p.bottom == h, p.left == 0, p.right == w) for p in parts]).reshape(-1, 4)
    rest = [
        p for p, (top, bottom, left, right) in zip(parts, at, strict=True) if not ((top or bottom) and (left or right))
    ]
    if at.any(0).all() or not any(max(p.height, p.width) >= max(4, 0.04 * max(h, w)) for p in rest):
        return parts
    return rest


def _digits(parts: list[Part], smallest: float) -> list[list[Part]]:
    """Which parts are one digit, from left to right.

    The numbers were chosen on training images. Of the 60,000, 1,456 are in several parts at the threshold, and 17 of
    them are taken for several digits; of 1,800 pairs side by side, apart by a twentieth of their height or more, 98.6%
    are seen as two.
    """
    if not parts:
        return []
    largest = max(p.area for p in parts)
    size = max(max(p.height, p.width / 2) for p in parts if p.area >= 0.25 * largest)  # of a digit
    if size < smallest:
        return []

    def joined(a: Part, b: Part) -> bool:
        dx = max(a.left, b.left) - min(a.right, b.right)
        dy = max(a.top, b.top) - min(a.bottom, b.bottom)
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


# --- a digit to MNIST's format ------------------------------------------------------------------------------------


def _digit(grey, dark: bool, background: np.ndarray, mask: np.ndarray, factor: int, noise: float) -> Digit:
    """Crop the ink under a mask at full resolution, and bring it into MNIST's format."""
    from scipy import ndimage

    def span(axis: int, margin: int) -> tuple[int, int]:
        at = np.nonzero(mask.any(1 - axis))[0]
        return max(int(at[0]) - margin, 0), min(int(at[-1]) + 1 + margin, mask.shape[axis])

    def in_picture(margin: int) -> tuple[int, int, int, int]:
        (top, bottom), (left, right) = span(0, margin), span(1, margin)
        h, w = grey.shape
        return left * factor, top * factor, min(right * factor, w), min(bottom * factor, h)

    margin = 2  # strokes are anti-aliased beyond the mask
    part = tuple(slice(*span(axis, margin)) for axis in (0, 1))
    near = ndimage.binary_dilation(mask[part], np.ones((3, 3)), iterations=margin)
    left, top, right, bottom = in_picture(margin)
    crop = grey[top:bottom, left:right]
    crop = _reduce(crop if dark else 255 - crop, DETAIL).astype(np.float32) / 255
    paper, near, core = (
        _resize(a, crop.shape, Image.Resampling.BILINEAR) for a in (background[part], near, mask[part])
    )
    ink = _taken(crop, paper) * near
    full = max(np.percentile(ink[core > 0.5 * core.max()], 80), 0.05)
    floor = min(3 * noise, 0.2 * full)
    ink = _trim(np.clip((ink - floor) / (full - floor), 0, 1))
    strokes = _usual_strokes(ink)
    return Digit(in_picture(0), ink, strokes, _fit(strokes))


def _trim(ink: np.ndarray) -> np.ndarray:
    rows, columns = ((ink > 0.02).any(axis).nonzero()[0] for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def stroke_width(ink: np.ndarray) -> float:
    """The mean width of strokes, 2 × area / perimeter, in pixels; the perimeter is the total variation of the ink."""
    ink = np.pad(ink, 1)
    dy, dx = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    return float(2 * ink.sum() / np.hypot(dy, dx).sum())


def _usual_strokes(ink: np.ndarray) -> np.ndarray:
    """Make strokes that are thinner or thicker than any of MNIST's as wide as is usual there."""
    from scipy import ndimage

    long = max(ink.shape)
    reduced = _reduce(ink, 100)  # the sensor's noise, which has a perimeter too, is averaged out
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
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    moved = np.clip(distance + radius + (0.5 - inside), 0, 1).astype(np.float32)
    return _trim(np.maximum(ink, moved) if radius > 0 else np.minimum(ink, moved))


def _scale_to(ink: np.ndarray, long: int) -> np.ndarray:
    """Make the long side `long` pixels, by area averaging where that is less."""
    scale = long / max(ink.shape)
    if scale == 1:
        return ink
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return _resize(ink, tuple(max(1, round(n * scale)) for n in ink.shape), how)


def _fit(ink: np.ndarray) -> np.ndarray:
    """The long side to 20 pixels, the centre of mass to the centre of 28×28."""
    small = np.rint(_scale_to(ink, BOX) * 255).clip(0, 255).astype(np.uint8)
    image = np.zeros((SIZE, SIZE), np.uint8)
    corner = []
    for axis, n in enumerate(small.shape):
        mass = small.sum(1 - axis, dtype=float)
        centre = (mass * np.arange(n)).sum() / max(mass.sum(), 1)
        corner.append(int(np.clip(round(SIZE / 2 - centre), 0, SIZE - n)))  # as in MNIST, whole pixels
    image[corner[0] : corner[0] + small.shape[0], corner[1] : corner[1] + small.shape[1]] = small
    return image
