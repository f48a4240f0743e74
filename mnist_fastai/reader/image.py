"""A file, bytes, PIL image or array → upright grey pixels. NumPy and Pillow only."""

import io
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from ..errors import InputError
from ..files import read_bytes, read_stream

SIZE = 28  # pixels per side of an MNIST image
MAX_PIXELS = 64_000_000  # a 48-megapixel phone passes
MAX_BYTES = 2**29  # of a file; a TIFF of as many pixels, of 16 bits in four channels, has less
# Pillow reads more, but not without danger: for EPS it starts Ghostscript, which runs the file as a program
FORMATS = "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"
TURNS = {  # by EXIF orientation; Pillow's exif_transpose also writes the metadata again, and fails where it is damaged
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
REASONS = {  # what decoding a file raises, and the sentence about it
    Image.UnidentifiedImageError: "{} is no image that can be read; save it as PNG or JPEG",
    Image.DecompressionBombError: f"{{}} is too large, over {MAX_PIXELS // 10**6} megapixels; make it smaller",
    Exception: "{} is damaged or truncated; save or copy it again",
}
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom excluded
Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray  # pixels are [h, w], [h, w, 3] or [h, w, 4]


def name_of(source: Source) -> str:
    """What an error message calls a picture."""
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", None)  # an open file's
    return str(name) if isinstance(name, (str, Path)) else "the image"


def read_image(source: Source) -> np.ndarray:
    """Upright grey pixels, uint8 [h, w] in [0, 255], of a picture.

    It is a path, the bytes of a file, an open file, a PIL image, or pixels [h, w(, 3 or 4)]. EXIF orientation is
    applied, and transparency is composited on white. Pixels of more than 8 bits, whose range is unknown, are scaled by
    their minimum and maximum. Raises InputError for what is no image, damaged, animated, or larger than MAX_BYTES or
    MAX_PIXELS, which is checked before decoding.
    """
    name = name_of(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on size, which is checked here, and on damaged metadata
            return _read(source, name)
    except InputError:
        raise
    except Exception as e:  # Pillow's decoders raise whatever the damaged bytes lead them to
        raise InputError(next(why for kind, why in REASONS.items() if isinstance(e, kind)).format(name)) from e


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
    content = read_content(source)
    if not content:
        raise InputError(f"{name} is empty (0 bytes); save or copy it again")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.draft("L", image.size)  # a JPEG decoder then leaves the colours out: a third of the memory and the time
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's photo and its thumbnail
            raise InputError(f"{name} has several frames; save the one that shows the digit as PNG")
        return _grey(image, name)


def read_content(source: str | os.PathLike | bytes | BinaryIO) -> bytes:
    """The bytes of a file, a named pipe or a stream. Raises InputError where it cannot be read, or is too large."""
    if isinstance(source, bytes):
        return source
    if hasattr(source, "read"):
        return read_stream(source, name_of(source), MAX_BYTES)
    if not isinstance(source, (str, os.PathLike)):
        kind = f"an object of type {type(source).__name__}"
        raise InputError(f"{kind} is no picture; give a path, bytes, an open file or pixels")
    return read_bytes(source, MAX_BYTES, pipe=True)


def _grey(image: Image.Image, name: str) -> np.ndarray:
    width, height = image.size
    if width * height > MAX_PIXELS:
        size = f"{width:,} × {height:,} pixels"
        raise InputError(f"{name} is too large ({size}, over {MAX_PIXELS // 10**6} megapixels); make it smaller")
    image.load()  # which turns a TIFF
    with suppress(Exception):  # where the metadata is damaged, the pixels need not be
        image = image.transpose(TURNS[image.getexif()[ExifTags.Base.Orientation]])
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


def read_raw(source: Source) -> np.ndarray:
    """The pixels, uint8 [28, 28], of an image in MNIST's format. Raises InputError as above, and for another size."""
    pixels = read_image(source)
    if pixels.shape != (SIZE, SIZE):
        height, width = pixels.shape
        raise InputError(f"{name_of(source)} has {width}×{height} pixels, not MNIST's {SIZE}×{SIZE}; leave raw out")
    return pixels


def resize(picture: np.ndarray, shape: tuple[int, int], how=Image.Resampling.BILINEAR) -> np.ndarray:
    """Float32 [h, w] of any picture [H, W], `shape` being (h, w)."""
    picture = np.ascontiguousarray(picture, np.float32)
    return picture if picture.shape == shape else np.asarray(Image.fromarray(picture).resize(shape[::-1], how))


def reduce(picture: np.ndarray, long: int) -> np.ndarray:
    """Shrink by area averaging over a whole number of pixels, until the long side has at most `long`."""
    factor = -(-max(picture.shape) // long)
    return picture if factor == 1 else np.asarray(Image.fromarray(picture).reduce(factor))
