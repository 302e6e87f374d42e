"""Promises of nasengine.pixels."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nasengine.pixels import Unreadable, fitted, square


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image_of(pixels: Any, mode: str | None = None) -> Image.Image:
    array = np.asarray(pixels)
    image = Image.fromarray(array)
    assert mode is None or image.mode == mode
    return image


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def raw_png(rows: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG written by hand, as Pillow cannot write colour ones. rows: [H, W, samples]."""
    height, width = rows.shape[:2]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def reason_of(content: bytes) -> str:
    with pytest.raises(Unreadable) as left_out:
        square(content, 8)
    return str(left_out.value)


def test_an_image_of_the_right_size_is_kept_bit_for_bit() -> None:
    pixels = noise(8, 8)
    assert np.array_equal(square(saved(image_of(pixels)), 8), pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_agree(kind: str) -> None:
    pixels = noise(8, 8)
    assert np.array_equal(square(saved(image_of(pixels), kind), 8), pixels)


@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 6), ("WEBP", 6), ("GIF", 6)])
def test_lossy_formats_keep_a_plain_colour(kind: str, tolerance: int) -> None:
    found = square(saved(Image.new("RGB", (20, 20), (200, 100, 50)), kind), 8)
    assert np.abs(found.astype(int) - (200, 100, 50)).max() <= tolerance


def test_the_middle_square_is_kept() -> None:
    """Thirds of red, green and blue: the middle square is green, lying and standing.

    Its rim takes a little from beside, as it does when the whole image is resized and then cropped.
    """
    lying = np.zeros((10, 30, 3), dtype=np.uint8)
    lying[:, :10, 0] = lying[:, 10:20, 1] = lying[:, 20:, 2] = 255
    for pixels in (lying, lying.transpose(1, 0, 2)):
        found = square(saved(image_of(pixels)), 8)
        assert np.array_equal(found[1:-1, 1:-1], np.broadcast_to(np.uint8([0, 255, 0]), (6, 6, 3)))
        assert found[..., 1].min() > 225


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    """A chessboard of single pixels is grey from afar: (0 + 255) / 2, not black or white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(square(saved(image_of(board)), 8)[1:-1, 1:-1].astype(int) - 127.5).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
def test_tiny_images_are_enlarged(size: tuple[int, int]) -> None:
    assert np.array_equal(square(saved(Image.new("L", size, 77)), 8), np.full((8, 8), 77))


def test_a_huge_jpeg_decoded_at_a_fraction_looks_the_same() -> None:
    ramp = np.linspace(0, 255, 1600)
    pixels = np.stack(
        [np.tile(ramp, (1200, 1)), np.tile(ramp[:1200, None], (1, 1600)), np.full((1200, 1600), 90)], axis=-1
    )
    image = image_of(pixels.astype(np.uint8))
    assert np.abs(square(saved(image, "JPEG", quality=95), 16).astype(int) - fitted(image, 16)).max() <= 3


STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # "turn me a quarter clockwise": stored a quarter the other way
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_images_are_turned_upright(orientation: int, kind: str) -> None:
    pixels = noise(8, 8)
    move = STORED_AS[orientation]
    stored = image_of(pixels) if move is None else image_of(pixels).transpose(move)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(square(saved(stored, kind, exif=exif), 8), pixels)


def test_a_lying_photograph_of_a_phone_stands_up() -> None:
    """Stored lying, sky (blue) to the left; orientation 6 turns it a quarter clockwise, so the sky is on top."""
    stored = np.zeros((60, 80, 3), dtype=np.uint8)
    stored[:, :40, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    found = square(saved(image_of(stored), "JPEG", exif=exif, quality=95), 8)
    assert found[:3, :, 2].min() > 240 and found[5:, :, 2].max() < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "by hand", "big-endian TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(kind: str) -> None:
    """65,535 / 255 = 257, so 257 v becomes v, and what lies between is rounded: 128 down, 129 up."""
    values = np.array([[0, 128], [129, 257], [100 * 257, 200 * 257], [65406, 65535]], dtype=np.uint16).repeat(4, axis=1)
    expected = np.array([[0, 0], [1, 1], [100, 200], [254, 255]]).repeat(4, axis=1)
    values, expected = np.tile(values, (2, 1)), np.tile(expected, (2, 1))
    content = raw_png(values[..., None], 0) if kind == "by hand" else saved(image_of(values, "I;16"), kind[-4:].strip())
    if kind == "big-endian TIFF":
        content = saved(Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes()), "TIFF")
    found = square(content, 8)
    assert found.shape == (8, 8) and np.array_equal(found, expected)


def test_sixteen_bit_colour_is_scaled_to_eight() -> None:
    rows = np.zeros((8, 8, 3), dtype=np.uint16)
    rows[..., 0], rows[..., 1] = 65535, 100 * 257
    assert np.array_equal(square(raw_png(rows, 2), 8), np.broadcast_to(np.uint8([255, 100, 0]), (8, 8, 3)))


def test_cmyk_becomes_rgb() -> None:
    """No cyan, full magenta and yellow, no black: red."""
    content = saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(square(content, 8).astype(int) - (255, 0, 0)).max() <= 4


def test_palettes_become_rgb() -> None:
    content = saved(Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE))
    assert np.array_equal(square(content, 8), np.broadcast_to(np.uint8([10, 200, 30]), (8, 8, 3)))


def test_transparency_is_laid_on_white() -> None:
    """Half transparent black over white is 127 or 128; fully transparent is white, opaque stays."""
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:3, :, 3], rgba[3:5, :, 3], rgba[5:, :, 3] = 255, 128, 0
    found = square(saved(image_of(rgba, "RGBA")), 8)
    assert found[:3].max() == 0 and found[5:].min() == 255 and abs(int(found[4, 4, 0]) - 127) <= 1
    grey = square(saved(image_of(rgba).convert("LA")), 8)
    assert grey.ndim == 2 and np.array_equal(grey, found[..., 0])


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert np.array_equal(square(saved(image, transparency=1), 8), np.full((8, 8, 3), 255))


def test_black_and_white_is_grey() -> None:
    found = square(saved(Image.new("1", (8, 8), 1)), 8)
    assert found.shape == (8, 8) and found.min() == 255


def test_an_empty_file_is_said_to_be_empty() -> None:
    assert reason_of(b"") == "is empty"


@pytest.mark.parametrize("content", [b"I am a text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 50])
def test_other_files_are_said_to_be_no_image(content: bytes) -> None:
    assert reason_of(content) == "is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_half_a_file_is_said_to_be_truncated_or_damaged(kind: str) -> None:
    content = saved(image_of(noise(64, 64)), kind)
    assert reason_of(content[: len(content) // 2]).startswith(("is truncated", "is damaged"))


def test_half_a_jpeg_is_said_to_be_truncated() -> None:
    content = saved(image_of(noise(64, 64)), "JPEG")
    assert reason_of(content[: len(content) // 2]) == "is truncated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_the_mere_beginning_of_an_image_is_not_taken_for_another_kind_of_file(kind: str) -> None:
    assert reason_of(saved(image_of(noise(8, 8)), kind)[:10]).startswith(("is truncated", "is damaged"))


def test_flipped_bits_are_said_to_be_damage() -> None:
    content = bytearray(saved(image_of(noise(64, 64))))
    content[len(content) // 2] ^= 255
    assert reason_of(bytes(content)).startswith("is damaged")


@pytest.mark.parametrize("side", [11, 20])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_not_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns up to twice its limit and raises beyond; neither is decoded."""
    content = saved(Image.new("L", (side, side)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)
    assert reason_of(content) == "has more than 120 pixels"


def test_pixels_without_a_known_range_are_refused() -> None:
    assert reason_of(saved(image_of(np.full((8, 8), 0.5, dtype=np.float32), "F"), "TIFF")) == (
        "has floating-point pixels; save it with 8 or 16 bits"
    )
    assert reason_of(saved(image_of(np.full((8, 8), 70000, dtype=np.int32), "I"), "TIFF")) == (
        "has 32-bit pixels; save it with 8 or 16 bits"
    )
