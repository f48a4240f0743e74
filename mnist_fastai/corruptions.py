"""MNIST-C, remade: 15 corruptions of MNIST's images that leave the digit readable.

Source: Mu & Gilmer, MNIST-C: A robustness benchmark for computer vision, arXiv:1906.02337, 2019. The corruptions and
their strengths are the paper's; the code, the random numbers and therefore the images are not, so that accuracies are
close to those on the published files, not equal. Where this differs in more than that, the function says so.

Each function maps images, uint8 [n, 28, 28] with 0 the background and 255 full ink, to such images, and draws all its
random numbers at once, image by image.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from .errors import InputError
from .reader.image import SIZE

CHUNK = 1000  # images that are corrupted at once, in less than 0.2 GiB
CENTRE = (SIZE - 1) / 2
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def corrupt(images: np.ndarray, name: str, seed: int = 0) -> np.ndarray:
    """Corrupt images, uint8 [n, 28, 28], by one of CORRUPTIONS. Returns a new array of the same shape and dtype.

    The random numbers follow from (seed, name), and are drawn in the order of the images: the first images of a set
    are corrupted in the same way whatever follows them, and other subsets are to be taken from the result. The same
    seed gives the same bytes each time; another NumPy or another processor may round single pixels differently.
    Raises InputError for an unknown name, for other arrays, and for a seed below 0.
    """
    if name not in CORRUPTIONS:
        raise InputError(f"corruption {name!r} is not known; take one of {', '.join(CORRUPTIONS)}")
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE):
        raise InputError(f"images are {images.dtype} {list(images.shape)}; give uint8 [n, {SIZE}, {SIZE}]")
    rng = np.random.default_rng([seed, *name.encode()])
    chunks = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
    return np.concatenate([images[:0], *(CORRUPTIONS[name](chunk, rng) for chunk in chunks)])


def shot_noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Count photons, 3 on average where there is full ink. More than 3 are shown as 3."""
    photons = rng.poisson(images / 255 * 3)
    return np.minimum(photons, 3).astype(np.uint8) * np.uint8(85)


def impulse_noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make 17% of the pixels black or white, as many the one as the other."""
    chance = rng.random(images.shape)
    return np.where(chance < 0.17, np.where(chance < 0.085, np.uint8(0), np.uint8(255)), images)


def glass_blur(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle pixels locally, as frosted glass does: blur, swap half of the pixels with a neighbour, twice, and blur.

    The σ of both blurs is 0.7. A neighbour is any of the eight or the pixel itself; the original never takes those to
    the right or below.
    """
    n = len(images)
    # pixels first, so that one pixel of all images is one row
    pixels = _to_bytes(_blur(images / 255, 0.7)).reshape(n, -1).T.copy()
    inner = range(SIZE - 2, 0, -1)
    moves = rng.integers(18, size=(n, 2, len(inner) ** 2)).transpose(1, 2, 0)
    every = np.arange(n)
    for turn in moves:
        for here, move in zip((SIZE * row + column for row in inner for column in inner), turn, strict=True):
            # 0 to 8 are the neighbours, row by row, with the pixel itself in the middle; the other half does nothing
            step = np.where(move < 9, SIZE * (move // 3 - 1) + move % 3 - 1, 0)
            there = pixels[here + step, every]
            pixels[here + step, every] = pixels[here]
            pixels[here] = there
    return _to_bytes(_blur(pixels.T.reshape(images.shape) / 255, 0.7))


def motion_blur(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smear each image along a line of up to 45° either way, by half a Gaussian of σ 3 over 10 pixels.

    The line has whole pixels, and one end of it is the sharp one, as in the original.
    """
    radius, sigma = 10, 3
    angle = rng.uniform(-np.pi / 4, np.pi / 4, len(images))
    steps = np.arange(radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    down, right = (np.rint(np.outer(steps, part(angle))).astype(int) for part in (np.sin, np.cos))
    padded = np.pad(images, ((0, 0), (radius, radius), (radius, radius)), "edge")
    width = SIZE + 2 * radius
    starts = width**2 * np.arange(len(images)) + width * (radius + down) + radius + right
    places = (width * ROWS + COLUMNS).ravel()
    total = np.zeros((len(images), SIZE**2))
    for weight, start in zip(weights / weights.sum(), starts, strict=True):
        total += weight * padded.ravel()[start[:, None] + places]
    return _to_bytes(total.reshape(images.shape) / 255)


def shear(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each row sideways by 0.4 of its distance from the middle, slanting the digit to either side.

    The original shears by an angle of 0.4 radians, that is by 0.42.
    """
    return _warp(images, np.array([[[1, 0], [s * 0.4, 1]] for s in _sides(rng, len(images))]))


def scale(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink to 0.7 of the size."""
    return _warp(images, np.broadcast_to(np.eye(2) / 0.7, (len(images), 2, 2)))


def rotate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by 0.4 radians, 23°, either way."""
    cos, sin = np.cos(0.4), np.sin(0.4)
    return _warp(images, np.array([[[cos, s * sin], [-s * sin, cos]] for s in _sides(rng, len(images))]))


def brightness(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add half the range."""
    return np.minimum(images, 127) + np.uint8(128)


def translate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move by 3 pixels up or down, and by 3 to the left or right."""
    shift = 3
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    down, right = shift * _sides(rng, (len(images), 2)).T[..., None, None]
    return padded[np.arange(len(images))[:, None, None], ROWS + shift - down, COLUMNS + shift - right]


def stripe(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Invert the outer columns, 7 on each side."""
    return np.where((COLUMNS < 7) | (COLUMNS >= SIZE - 7), 255 - images, images)


def fog(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add three times a cloud of plasma noise, and scale the sum back to the image's range.

    The cloud is a corner of one of 256×256 pixels, that has 0 and 1 as its extremes. These are taken from every fourth
    pixel of it and the rest is computed only where the image is, which takes a twelfth of the time and makes the range
    smaller by about 1%.
    """
    n, depth, decay = len(images), 3, 1.4**2  # of the noise from one size of detail to the next
    noise = rng.uniform(-1, 1, (n, 4**6 - 1 + 3 * 10**2 + 3 * 20**2))
    cloud, used, strength = np.zeros((n, 1, 1)), 0, 1.0
    for level in range(8):
        if level == 6:
            low, high = cloud.min((1, 2), keepdims=True), cloud.max((1, 2), keepdims=True)
            cloud = np.roll(cloud, 1, (1, 2))[:, :10, :10]  # the image's 28 pixels, 4 before and 4 after
        size = 3 * cloud.shape[1] ** 2
        cloud = _refine(cloud, strength * noise[:, used : used + size])
        used, strength = used + size, strength / decay
    cloud = np.clip((cloud[:, 4 : 4 + SIZE, 4 : 4 + SIZE] - low) / (high - low), 0, 1)
    brightest = images.max((1, 2), keepdims=True) / 255
    return _to_bytes((images / 255 + depth * cloud) * brightest / (brightest + depth))


def spatter(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover the image with dark grey blots of mud where smoothed noise is high."""
    mud = _blur(rng.normal(0.65, 0.3, images.shape), 1) > 0.65
    cover = _blur(mud.astype(float), 1.5)
    cover[cover < 0.8] = 0
    return _to_bytes(images / 255 * (1 - cover) + 63 / 255 * cover)


def dotted_line(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a straight line from the left edge to the right, at any heights, of dashes and gaps of 2 pixels."""
    left, right = rng.integers(SIZE - 1, size=(len(images), 2)).T[..., None, None]
    line = _stroke(ROWS - left - (right - left) * COLUMNS / (SIZE - 1))
    return _to_bytes(images / 255 + line * (COLUMNS // 2 % 2))


def zigzag(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a zigzag from column 2 to column 25 at any height, of period 8 and amplitude 2, almost level."""
    start, rise = rng.integers([0, -5], [SIZE - 1, 5], size=(len(images), 2)).T[..., None, None]
    first, width = 2, 23
    length = np.hypot(width, rise)
    cos, sin = width / length, rise / length
    right, down = COLUMNS - first, ROWS - start
    along, across = cos * right + sin * down, cos * down - sin * right
    wave = 2 - np.abs((along - 2) % 8 - 4)  # 0 at the start
    return _to_bytes(images / 255 + _stroke(across + wave) * ((along >= 0) & (along <= length)))


def canny_edges(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Show the edges alone, one pixel wide, by Canny's method with σ 1 and the thresholds 0.1 and 0.2.

    Gives the same edges as `skimage.feature.canny(image / 255)`. Source: Canny, A computational approach to edge
    detection, IEEE Transactions on Pattern Analysis and Machine Intelligence 8, 1986.
    """
    low, high = 0.1, 0.2
    inside = np.ones((1, SIZE, SIZE))
    smooth = _blur(images / 255, 1, "constant") / _blur(inside, 1, "constant")  # what is outside has no weight
    # Sobel's filter along rows and columns; ndimage.sobel would smooth from image to image as well
    slopes = [
        ndimage.correlate1d(ndimage.correlate1d(smooth, [-1, 0, 1], axis), [1, 2, 1], 3 - axis) for axis in (1, 2)
    ]
    strength = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2)
    inside[:, 1:-1, 1:-1] = 0
    edges = (strength >= low) & (inside == 0)
    # keep what is no weaker than its neighbours across the edge, interpolated between those next to it and the diagonal
    image, row, column = at = edges.nonzero()
    dy, dx = (slope[at] for slope in slopes)
    steep = np.abs(dy) >= np.abs(dx)
    ratio = np.minimum(np.abs(dy), np.abs(dx)) / np.maximum(np.abs(dy), np.abs(dx))
    up, left = np.sign(dy).astype(int), np.sign(dx).astype(int)
    for sign in (1, -1):
        beside = strength[image, row + sign * up * steep, column + sign * left * ~steep]
        diagonal = strength[image, row + sign * up, column + sign * left]
        edges[at] &= ratio * diagonal + (1 - ratio) * beside <= strength[at]
    # of what is left, keep the connected edges that are strong somewhere
    connected = np.zeros((3, 3, 3))
    connected[1] = 1  # within an image
    labels, count = ndimage.label(edges, connected)
    strong = np.zeros(count + 1, bool)
    strong[labels[edges & (strength >= high)]] = True
    return strong[labels] * np.uint8(255)


def _to_bytes(images: np.ndarray) -> np.ndarray:
    """Uint8 from floats, clipped to [0, 1] and rounded to the nearest, halves up."""
    return np.floor(np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


def _blur(images: np.ndarray, sigma: float, mode: str = "nearest") -> np.ndarray:
    """Each image, floats [n, 28, 28], convolved with a Gaussian of so many pixels."""
    return ndimage.gaussian_filter(images, (0, sigma, sigma), mode=mode)


def _sides(rng: np.random.Generator, size: int | tuple[int, ...]) -> np.ndarray:
    """1 or -1, each half of the time."""
    return 2 * rng.integers(2, size=size) - 1


def _warp(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Resample each image bilinearly about its centre.

    `matrices`, [n, 2, 2], lead from a (row, column) of the result to the one that it shows.
    """
    out = np.empty(images.shape)
    for image, matrix, result in zip(images, matrices, out, strict=True):
        offset = CENTRE - matrix.sum(1) * CENTRE
        ndimage.affine_transform(image, matrix, offset, output=result, order=1, mode="grid-constant")
    return _to_bytes(out / 255)


def _refine(grid: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Double the resolution of height maps without borders, [n, s, s], by the diamond-square algorithm.

    `noise`, [n, 3·s·s], is added to the new points.
    """
    n, size, _ = grid.shape
    centres, tops, lefts = noise.reshape(n, 3, size, size).transpose(1, 0, 2, 3)
    out = np.empty((n, 2 * size, 2 * size))
    right, below = np.roll(grid, -1, 2), np.roll(grid, -1, 1)
    centre = (grid + right + below + np.roll(right, -1, 1)) / 4 + centres
    out[:, ::2, ::2] = grid
    out[:, 1::2, 1::2] = centre
    out[:, ::2, 1::2] = (grid + right + centre + np.roll(centre, 1, 1)) / 4 + tops
    out[:, 1::2, ::2] = (grid + below + centre + np.roll(centre, 1, 2)) / 4 + lefts
    return out


def _stroke(distance: np.ndarray) -> np.ndarray:
    """The ink in [0, 1] so many pixels from the middle of a line of 3 pixels, darkest in the middle."""
    return np.clip(1 + np.log(1 - np.minimum(np.abs(distance), 2) / 2.3), 0, 1)


CORRUPTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    function.__name__: function
    for function in (
        shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe, fog,
        spatter, dotted_line, zigzag, canny_edges,
    )
}  # fmt: skip
