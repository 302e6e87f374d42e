"""One image file as a small square of bytes, or the reason why it cannot be one. Touches no disk."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from nasengine.errors import EngineError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Decoders that strangers' bytes may reach; Pillow has others that start programs (EPS) or are rarely looked after."""
LARGE, ONE_LARGE = 2**24, threading.Lock()
"""Images of more pixels are decoded one at a time: each may take a gigabyte."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
"""How files of these formats begin, to tell a damaged image from something else."""


class Unreadable(EngineError):
    """An image file is left out; the text completes a sentence that begins with its name."""


def square(content: bytes, size: int, *, most_pixels: int | None = None, grey: bool = False) -> NDArray[np.uint8]:
    """The image in `content`, upright, on white, cropped to its middle and resized: [S, S] if grey, else [S, S, 3].

    Args:
        content: of an image file.
        size: S.
        most_pixels: of a larger image nothing is decoded; Pillow's own limit if left out.
        grey: make colours grey.

    Raises:
        Unreadable: saying what is wrong with the file.
    """
    if not content:
        raise Unreadable("is empty")
    limit = most_pixels or Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if limit and image.width * image.height > limit:
                raise Image.DecompressionBombError
            image.draft(None, (2 * size, 2 * size))  # a JPEG far too large is decoded at a fraction of its size
            with ONE_LARGE if image.width * image.height > LARGE else nullcontext():
                image.load()
                upright = (
                    image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)
                )
                plain = _grey_or_rgb(upright)
                return fitted(plain.convert("L") if grey else plain, size)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        damaged = content.startswith(SIGNATURES)
        raise Unreadable("is damaged" if damaged else "is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(f"has more than {limit:,} pixels") from None
    except Exception as error:  # a decoder given strangers' bytes raises anything: this is the rim
        why = str(error) or type(error).__name__
        raise Unreadable("is truncated" if "truncated" in why.lower() else f"is damaged ({why})") from error


def fitted(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The largest centred square of an L or RGB image, resized (Pillow's antialiased bilinear)."""
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    return np.asarray(image)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise Unreadable("has floating-point pixels; save it with 8 or 16 bits")
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits (which Pillow may keep in 32) scaled so that 65,535 becomes 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("has 32-bit pixels; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
