"""MNIST digits drawn into pictures as people make them: files of all sizes, papers, pens and lights, from a seed.

`SCENES` has a function for each kind: (image uint8 [28, 28], NumPy Generator) → the bytes of an image file.
`NUMBERS` has one for each kind of several digits: (images uint8 [MOST, 28, 28], NumPy Generator) → the bytes of an
image file, and the number of digits in each of its rows, which are the first of the images.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

BICUBIC = Image.Resampling.BICUBIC
ORIENTATIONS = (None, 2, 3, 4, 5, 6, 7, 8)  # EXIF's, each undone by the transposition of the same place
UNDONE = (None, *(Image.Transpose(t) for t in (0, 3, 1, 5, 2, 6, 4)))  # flips, turns; see `exif`


def resize(a: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(a.astype(np.float32)).resize((width, height), BICUBIC))


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Centre lines, one pixel wide (Zhang and Suen 1984)."""
    mask = np.pad(mask, 1).astype(np.uint8)
    while True:
        before = mask.sum()
        for step in (0, 1):
            n = [np.roll(mask, shift, (0, 1)) for shift in
                 ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))]  # fmt: skip
            count = sum(n)
            turns = sum((n[i] == 0) & (n[(i + 1) % 8] == 1) for i in range(8))
            a, b = ((n[0] * n[2] * n[4], n[2] * n[4] * n[6]), (n[0] * n[2] * n[6], n[0] * n[4] * n[6]))[step]
            mask = mask * ~((mask == 1) & (count >= 2) & (count <= 6) & (turns == 1) & (a == 0) & (b == 0))
        if mask.sum() == before:
            return mask[1:-1, 1:-1] > 0


def pen(image: np.ndarray, long: int, width: float | None = None) -> np.ndarray:
    """The ink, float32 in [0, 1], of the digit with its long side `long` pixels, and sharp edges.

    Its own strokes, or those of a pen whose `width` is in pixels of MNIST's 20×20 box.
    """
    rows, columns = (np.nonzero(image.any(axis))[0] for axis in (1, 0))
    digit = np.pad(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255, 3)
    h, w = digit.shape
    if width is None:
        scale = long / (max(h, w) - 6)
        ink = resize(digit, round(h * scale), round(w * scale))
        ink = (ink - 0.4) * max(1.25, scale / 3) + 0.5  # 0 on paper
    else:
        mask = resize(digit, 6 * h, 6 * w) > 0.4
        scale = long / (max(h, w) - 6 + width - 2)  # the strokes' own width goes, the pen's comes
        apart = ndimage.distance_transform_edt(~skeleton(mask)) / 6
        ink = (width / 2 - resize(apart, round(h * scale), round(w * scale))) * scale + 0.5
    ink = ink.clip(0, 1)
    rows, columns = (np.nonzero((ink > 0.02).any(axis))[0] for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(ink: np.ndarray, height: int, width: int, rng=None) -> np.ndarray:
    """The ink on an empty page, in the middle or, by the generator, anywhere."""
    page = np.zeros((height, width), np.float32)
    free = height - ink.shape[0], width - ink.shape[1]
    top, left = (n // 2 if rng is None else rng.integers(0, n + 1) for n in free)
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


def page(image: np.ndarray, rng, long: int = 160, *, width: float | None = None, canvas=None) -> np.ndarray:
    """The ink of a digit of `long` pixels on a page, which is 1.3 to 2 times as large where no `canvas` is given."""
    ink = pen(image, long, width)
    size = max(canvas or round(max(ink.shape) * rng.uniform(1.3, 2)), *ink.shape)
    return place(ink, size, size, rng)


def coloured(ink: np.ndarray, pen_colour=(0, 0, 0), paper=(255, 255, 255), light=None, noise: float = 0.0, rng=None):
    """Pixels uint8 [h, w, 3] of ink on paper under a light [h, w], with a sensor's noise, in 255ths."""
    pixels = ink[..., None] * np.float32(pen_colour) + (1 - ink[..., None]) * np.float32(paper)
    if light is not None:
        pixels *= light[..., None]
    if noise:
        pixels += rng.normal(0, noise, ink.shape)[..., None].astype(np.float32)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def jpeg(pixels: np.ndarray, quality: int = 90, orientation: int | None = None) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


def colours(rng, contrast: float = 80) -> tuple[np.ndarray, np.ndarray]:
    """A pen's and a paper's colour whose brightness is at least `contrast` 255ths apart, either lighter."""
    while True:
        a, b = rng.integers(0, 256, (2, 3))
        if abs((a - b) @ (0.299, 0.587, 0.114)) >= contrast:
            return a, b


def light(h: int, w: int, rng, shadow: bool = False) -> np.ndarray:
    """A gradient in any direction down to 40%, and a vignette; or the soft edge of a shadow."""
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if shadow:
        edge = (along - rng.uniform(-0.5, 0.5)) / rng.uniform(0.02, 0.2)
        return (1 - rng.uniform(0.3, 0.5) / (1 + np.exp(-edge.clip(-30, 30)))).astype(np.float32)
    gradient = 1 - rng.uniform(0.3, 0.6) * (along / 1.42 + 1) / 2
    return (gradient * (1 - rng.uniform(0, 0.3) * (x * x + y * y) / 2)).astype(np.float32)


def lines(h: int, w: int, rng, spacing: float, thick: float, squared: bool = False) -> np.ndarray:
    """Ruled lines, float32 [h, w] in [0, 1], up to 3 degrees off level; with `squared`, those across as well."""
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    angle = np.deg2rad(rng.uniform(-3, 3))
    out = np.zeros((h, w), np.float32)
    for across in (0, 1) if squared else (0,):
        at = (x * np.sin(angle) + y * np.cos(angle)) if not across else (x * np.cos(angle) - y * np.sin(angle))
        apart = np.abs((at + rng.uniform(0, spacing)) % spacing - spacing / 2)
        out = np.maximum(out, (thick / 2 + 0.5 - apart).clip(0, 1))
    return out


def on_lines(image, rng, squared: bool) -> bytes:
    ink = page(image, rng, 160)
    spacing = rng.uniform(40, 90) if squared else rng.uniform(60, 140)
    ruled = lines(*ink.shape, rng, spacing, rng.uniform(1, 3), squared) * rng.uniform(0.3, 0.8)
    return jpeg(coloured(np.maximum(ink, ruled), noise=2, rng=rng))


def framed(image, rng) -> bytes:
    ink = pen(image, 160)
    h, w = (n + 2 * rng.integers(12, 50) for n in ink.shape)
    cell = place(ink, h, w)
    t = int(rng.integers(2, 5))
    cell[:t] = cell[-t:] = cell[:, :t] = cell[:, -t:] = 1
    return jpeg(coloured(place(cell, h + 60, w + 60, rng)))


def specked(image, rng) -> bytes:
    ink = page(image, rng, 160)
    for _ in range(rng.integers(5, 30)):
        r = int(rng.integers(1, 7))
        y, x = (rng.integers(0, n - r) for n in ink.shape)
        ink[y : y + r, x : x + r] = np.maximum(ink[y : y + r, x : x + r], rng.uniform(0.3, 1))
    return png(coloured(ink))


def exif(image, rng) -> bytes:
    pixels = Image.fromarray(coloured(page(image, rng)))
    i = int(rng.integers(0, 8))
    return jpeg(np.asarray(pixels.transpose(UNDONE[i]) if i else pixels), orientation=ORIENTATIONS[i])


def rgba(image, rng) -> bytes:
    ink = page(image, rng)
    colour, _ = colours(rng)
    colour = colour * min(1, 150 / max(colour @ (0.299, 0.587, 0.114), 1))  # a pen to be seen on white
    pixels = np.concatenate([np.broadcast_to(colour, (*ink.shape, 3)), 255 * ink[..., None]], -1)
    return png(np.rint(pixels).astype(np.uint8))


def on_desk(image, rng) -> bytes:
    """A sheet of paper that does not fill the picture, on something darker."""
    ink = page(image, rng, 160, canvas=320)
    pixels = Image.fromarray(coloured(ink, (30, 30, 60), rng.integers(220, 250, 3)))
    size, turn = int(rng.integers(400, 560)), rng.uniform(-8, 8)
    desk = Image.fromarray(coloured(np.zeros((size, size)), paper=rng.integers(30, 150, 3), noise=6, rng=rng))
    at = tuple(int(rng.integers(10, size - 330)) for _ in "xy")
    cut = Image.new("L", pixels.size, 255).rotate(turn, BICUBIC, expand=True)
    desk.paste(pixels.rotate(turn, BICUBIC, expand=True), at, cut)
    return jpeg(np.asarray(desk))


def photo(image, rng) -> bytes:
    """All at once: a pen on ruled or plain paper, in a bad light, with a sensor's noise, blurred, as JPEG."""
    ink = page(image, rng, int(rng.integers(120, 300)), width=rng.uniform(0.7, 3.5), canvas=int(rng.integers(400, 700)))
    h, w = ink.shape
    if rng.random() < 0.5:
        ruled = lines(h, w, rng, rng.uniform(60, 120), rng.uniform(1, 3), rng.random() < 0.4)
        ink = np.maximum(ink, ruled * rng.uniform(0.2, 0.6))
    ink = ndimage.gaussian_filter(ink, rng.uniform(0, 1.2))
    pen_colour = rng.integers(0, 90, 3)
    pixels = coloured(ink, pen_colour, rng.integers(190, 256, 3), light(h, w, rng, rng.random() < 0.3), 4, rng)
    return jpeg(pixels, int(rng.integers(40, 96)))


def segment(shape: tuple[int, int], a, b, thick: float) -> np.ndarray:
    """A straight line from a to b, which are (x, y), with square ends, float32 [h, w] in [0, 1]."""
    along = np.subtract(b, a)
    length = np.hypot(*along)
    y, x = np.ogrid[: shape[0], : shape[1]]
    (cos, sin), x, y = along / length, x - a[0], y - a[1]
    at, off = x * cos + y * sin, np.abs(y * cos - x * sin)
    return (0.5 - np.maximum(np.abs(at - length / 2) - length / 2, off - thick / 2)).clip(0, 1).astype(np.float32)


def rectangle(
    shape: tuple[int, int],
    rng,
    middle,  # (x, y)
    size,  # (w, h)
    thick: float,
    *,
    turn: float = 0,  # degrees
    missing: int = 0,  # sides that are not drawn
    gaps: int = 0,  # in each side, at most
    beyond: float = 0,  # by which the sides go on, as a grid's do, at most
) -> np.ndarray:
    """The sides of a box, float32 [h, w] in [0, 1]."""
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size / 2 @ np.array([(cos, sin), (-sin, cos)]) + middle
    out = np.zeros(shape, np.float32)
    for i in rng.permutation(4)[missing:]:
        a, b = corners[i], corners[(i + 1) % 4]
        along = (b - a) / np.hypot(*(b - a))
        before, after = thick / 2 + beyond * rng.uniform(0.2, 1, 2)
        side = segment(shape, a - along * before, b + along * after, thick)
        for _ in range(rng.integers(gaps + 1)):
            at, gap = a + (b - a) * rng.uniform(0, 1), along * max(size) * rng.uniform(0.01, 0.06)
            side *= 1 - segment(shape, at - gap, at + gap, 4 * thick)
        out = np.maximum(out, side)
    return out


def finish(ink: np.ndarray, rng) -> bytes:
    """A file of ink on white or grey paper, half of them in uneven light with a sensor's noise, a tenth inverted."""
    pen_colour, paper = rng.integers(0, 110, 3), (255, 255, 255) if rng.random() < 0.4 else rng.integers(185, 256, 3)
    uneven = {"light": light(*ink.shape, rng), "noise": rng.uniform(1, 6), "rng": rng} if rng.random() < 0.5 else {}
    pixels = coloured(ink, pen_colour, paper, **uneven)
    pixels = 255 - pixels if rng.random() < 0.1 else pixels
    return png(pixels) if rng.random() < 0.5 else jpeg(pixels, int(rng.integers(60, 96)))


def boxed(
    image,
    rng,
    *,
    turn: float = 1.5,  # degrees, at most
    thick=(0.01, 0.05),  # of the lines, in sides of the box
    margin=(0.02, 0.6),  # from the lines' outer edges to the picture's, in sides; below 0 the lines are cut
    touch: bool = False,  # the digit reaches a line, or crosses it
    specks: int = 0,
    **kwargs,
) -> bytes:
    """A digit in the box of a form or the cell of a table, from 44 to 300 pixels."""
    side = float(np.exp(rng.uniform(np.log(44), np.log(300))))
    size = side * np.array([rng.uniform(0.75, 1.25), 1])
    t = max(1.0, side * rng.uniform(*thick))
    long = max(20, round(min(size) * rng.uniform(0.45, 0.72)))
    ink = pen(image, long, rng.choice([None, rng.uniform(1.5, 3.5)]))
    span = np.array(ink.shape[::-1])
    room = (size - t - span) / 2  # to the lines
    offset = rng.uniform(-1, 1, 2) * np.maximum(room - 3 - 0.03 * side, 0)
    if touch:
        axis = rng.integers(2)
        offset[axis] = (room[axis] + rng.uniform(0, t + 0.06 * side)) * rng.choice([-1, 1])
    shape = tuple(round(n + 2.4 * side) for n in size[::-1])
    middle = np.array(shape[::-1]) / 2
    left, top = np.rint(middle + offset - span / 2).astype(int)
    page = rectangle(shape, rng, middle, size, t, turn=rng.uniform(-turn, turn), **kwargs) * rng.uniform(0.4, 1)
    for _ in range(rng.integers(specks + 1)):
        r = max(1, round(0.02 * side))
        y, x = rng.integers(0, shape[0] - r), rng.integers(0, shape[1] - r)
        page[y : y + r, x : x + r] = 1
    digit = page[top : top + span[1], left : left + span[0]]
    digit[:] = np.maximum(digit, ink)
    low, high = (middle + sign * ((size + t) / 2 + side * rng.uniform(*margin, 2)) for sign in (-1, 1))
    low = np.clip(np.rint(low), 0, np.maximum((left, top) - np.array(2), 0)).astype(int)
    high = np.maximum(np.rint(high), (left, top) + span + 2).astype(int)
    return finish(page[low[1] : high[1], low[0] : high[0]], rng)


def apart(image, rng) -> bytes:
    """A digit whose pen was lifted: cut in two by a straight gap, each part at least a sixth of the ink."""
    ink = pen(image, int(rng.integers(60, 240)))
    long = max(ink.shape)
    for _ in range(100):
        at, angle = rng.uniform(0.2, 0.8, 2) * ink.shape[::-1], rng.uniform(0, np.pi)
        along = 2 * long * np.array([np.cos(angle), np.sin(angle)])
        cut = ink * (1 - segment(ink.shape, at - along, at + along, long * rng.uniform(0.03, 0.1)))
        labels, n = ndimage.label(cut > 0.3, np.ones((3, 3)))
        areas = ndimage.sum_labels(cut > 0.3, labels, np.arange(1, n + 1))
        if n == 2 and areas.min() > areas.sum() / 6:
            break
    size = round(long * rng.uniform(1.3, 2))
    return finish(place(cut, size, size, rng), rng)


MOST = 12  # digits in a picture


def write(images, rng, n: int, long: int, most: float, least: float) -> np.ndarray:
    """The ink of n digits side by side, from `least` to `most` of their height apart, or into one another below 0."""
    inks = [pen(image, long) for image in images[:n]]
    page, right = np.zeros((max(len(ink) for ink in inks), n * 2 * long), np.float32), None
    for ink in inks:
        top = rng.integers(0, len(page) - ink.shape[0] + 1)
        left = 0
        if right is not None:  # the nearest pair of pixels in a row is so far apart
            first = np.where((ink > 0.5).any(1), (ink > 0.5).argmax(1), 10**6)
            left = int((right[top : top + ink.shape[0]] - first).max() + 1 + long * rng.uniform(least, most))
        spot = page[top : top + ink.shape[0], left : left + ink.shape[1]]
        spot[:] = np.maximum(spot, ink)
        inked = page > 0.5
        right = np.where(inked.any(1), page.shape[1] - inked[:, ::-1].argmax(1), -(10**6))
    columns = np.nonzero((page > 0.02).any(0))[0]
    return page[:, : columns[-1] + 1]


def in_a_row(images, rng, least: float, most: float, n: int) -> tuple[bytes, list[int]]:
    long = int(rng.integers(30, 160))
    ink = write(images, rng, n, long, most, least)
    h, w = (k + round(long * rng.uniform(0.2, 1)) for k in ink.shape)
    return finish(place(ink, h, w, rng), rng), [n]


def form(images, rng, *, rows: int = 1, joined: bool = False, crop: bool = False, turn: float = 1) -> tuple:
    """Digits in rows of boxes, which share their sides where `joined`, or are apart; the same number in each row."""
    side, rows = float(rng.integers(40, 110)), int(rng.integers(1, rows + 1))
    n = int(rng.integers(2, MOST // rows // (1 + (rows == 1)) + 1))
    w, h = side * rng.uniform(0.7, 1.1), side
    step = w if joined else w + side * rng.uniform(0.12, 0.4)
    down = h if joined and rng.random() < 0.5 else h * rng.uniform(1.2, 1.6)
    t = max(1.0, side * rng.uniform(0.01, 0.04))
    border = round(t / 2 + side * (0.02 if crop else rng.uniform(0.1, 0.5)))
    shape = round(h + (rows - 1) * down + 2 * border), round(w + (n - 1) * step + 2 * border)
    lines, ink = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i in range(rows * n):
        middle = np.array([w / 2 + i % n * step, h / 2 + i // n * down]) + border
        lines = np.maximum(lines, rectangle(shape, rng, middle, (w, h), t))
        digit = pen(images[i], max(16, round(min(w, h) * rng.uniform(0.5, 0.7))))
        span = np.array(digit.shape[::-1])
        offset = rng.uniform(-1, 1, 2) * np.maximum(((w - t, h - t) - span) / 2 - 2 - 0.03 * side, 0)
        left, top = np.rint(middle + offset - span / 2).astype(int)
        ink[top : top + span[1], left : left + span[0]] = digit
    page = Image.fromarray(np.maximum(ink, lines * rng.uniform(0.4, 1)))
    turned = page.rotate(rng.uniform(-turn, turn), BICUBIC, expand=not crop)
    return finish(np.asarray(turned).clip(0, 1), rng), [n] * rows


SCENES = {
    "white on black": lambda image, rng: png(255 - coloured(page(image, rng))),
    "inversion": lambda image, rng: png(coloured(page(image, rng))),
    "translation": lambda image, rng: png(coloured(page(image, rng, canvas=480))),
    "no margin": lambda image, rng: png(coloured(pen(image, 160))),
    "padding": lambda image, rng: png(coloured(page(image, rng, 60, canvas=int(rng.integers(70, 600))))),
    "40 pixels": lambda image, rng: png(coloured(page(image, rng, 28, canvas=40))),
    "40 to 400 pixels": lambda image, rng: png(coloured(page(image, rng, int(np.exp(rng.uniform(3.4, 5.7)))))),
    "400 to 4,000 pixels": lambda image, rng: jpeg(coloured(page(image, rng, int(np.exp(rng.uniform(5.7, 7.6)))))),
    "transparency": rgba,
    "EXIF rotation": exif,
    "JPEG": lambda image, rng: jpeg(coloured(page(image, rng)), int(rng.integers(30, 96))),
    "lighting": lambda image, rng: jpeg(coloured(p := page(image, rng), light=light(*p.shape, rng), noise=4, rng=rng)),
    "shadow": lambda image, rng: jpeg(
        coloured(p := page(image, rng), light=light(*p.shape, rng, shadow=True), noise=4, rng=rng)
    ),
    "colour": lambda image, rng: png(coloured(page(image, rng), *colours(rng))),
    "thin pen": lambda image, rng: png(coloured(page(image, rng, 240, width=rng.uniform(0.4, 1.2)))),
    "thick pen": lambda image, rng: png(coloured(page(image, rng, 240, width=rng.uniform(3, 4.5)))),
    "ruled paper": lambda image, rng: on_lines(image, rng, squared=False),
    "squared paper": lambda image, rng: on_lines(image, rng, squared=True),
    "specks": specked,
    "frame": framed,
    "sheet on a desk": on_desk,
    "photo": photo,
    "box": boxed,
    "box with an open side": lambda image, rng: boxed(image, rng, missing=1),
    "turned box": lambda image, rng: boxed(image, rng, turn=7),
    "broken box": lambda image, rng: boxed(image, rng, gaps=3, specks=20),
    "box touched": lambda image, rng: boxed(image, rng, touch=True),
    "cropped box": lambda image, rng: boxed(image, rng, margin=(-0.15, 0.15)),
    "cell of a grid": lambda image, rng: boxed(image, rng, beyond=1000),
    "cell cut along its lines": lambda image, rng: boxed(
        image, rng, beyond=1000, thick=(0.02, 0.09), margin=(-0.09, 0.01), missing=int(rng.integers(3))
    ),
    "cell touched": lambda image, rng: boxed(image, rng, beyond=1000, margin=(-0.1, 0.2), touch=True),
    "strokes apart": apart,
}
NUMBERS = {
    "side by side": lambda images, rng: in_a_row(images, rng, 0.08, 0.4, int(rng.integers(2, 7))),
    "touching": lambda images, rng: in_a_row(images, rng, -0.06, 0.0, 2),
    "boxes of a form": form,
    "joined boxes": lambda images, rng: form(images, rng, joined=True),
    "rows of boxes": lambda images, rng: form(images, rng, rows=3, joined=rng.random() < 0.5),
}
