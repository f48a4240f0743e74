"""MNIST digits drawn into pictures as people make them: files of all sizes, papers, pens and lights, from a seed.

`SCENES` has a function for each kind: (image uint8 [28, 28], NumPy Generator) → the bytes of an image file.
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
        ink = (ink - 0.4) * max(1, scale / 3) + 0.5
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
}
