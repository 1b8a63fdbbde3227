"""What decides how a picture looks: depth, transparency, turn. The expected pixels follow from the bytes written."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.pictures import open_picture, read_image
from tests.datamodules.picture_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    chunk,
    exif,
    jpeg_segment,
    on_white,
    png,
    turned,
    upright,
    with_exif,
)

RANDOM = np.random.default_rng(5)
PICTURE = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def pixels_of(data: bytes) -> np.ndarray:
    return read_image(io.BytesIO(data)).pixels[0]


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)  # type: ignore[arg-type]
    return target.getvalue()


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_spans_black_to_white(depth: int) -> None:
    samples = np.linspace(0, 2**depth - 1, 64).round().astype(np.int64).reshape(4, 16)
    levels = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    assert np.array_equal(pixels_of(png(samples, depth, GREY)), grey(levels))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_every_depth_shows_white(depth: int) -> None:
    samples = RANDOM.integers(0, 2**depth, (5, 7))
    key = samples[2, 3]
    levels = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    expected = on_white(grey(levels), samples != key)
    assert np.array_equal(pixels_of(png(samples, depth, GREY, transparency=struct.pack(">H", key))), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_shows_white(depth: int) -> None:
    samples = RANDOM.integers(0, 2**depth, (5, 7, 3))
    expected = on_white((samples >> (depth - 8)).astype(np.uint8), (samples != samples[2, 3]).any(axis=-1))
    data = png(samples, depth, RGB, transparency=struct.pack(">HHH", *samples[2, 3]))
    assert np.array_equal(pixels_of(data), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_palette_entries_show_white(depth: int) -> None:
    palette = RANDOM.integers(0, 256, (2**depth, 3), dtype=np.uint8)
    opacity = RANDOM.integers(0, 256, 2**depth, dtype=np.uint8)
    samples = RANDOM.integers(0, 2**depth, (6, 9))
    found = pixels_of(png(samples, depth, PALETTE, palette=palette, transparency=opacity.tobytes()))
    assert np.abs(found - on_white(palette[samples], opacity[samples] / 255)).max() <= 1
    first = pixels_of(png(samples, depth, PALETTE, palette=palette, transparency=b"\0"))
    assert np.array_equal(first, on_white(palette[samples], samples != 0))
    assert np.array_equal(pixels_of(png(samples, depth, PALETTE, palette=palette)), palette[samples])


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "channels"), [(GREY_ALPHA, 2), (RGB_ALPHA, 4)])
def test_alpha_is_laid_on_white(depth: int, colour_type: int, channels: int) -> None:
    samples = RANDOM.integers(0, 2**depth, (5, 7, channels))
    eight = (samples >> (depth - 8)).astype(np.uint8)
    colours = eight[..., :3] if channels == 4 else grey(eight[..., 0])
    found = pixels_of(png(samples, depth, colour_type))
    assert np.abs(found - on_white(colours, eight[..., -1] / 255)).max() <= 1


def test_black_text_on_a_transparent_ground_stays_readable() -> None:
    text = np.zeros((64, 128, 4), dtype=np.uint8)
    text[20:40, 20:60, 3] = 255
    for form in ("png", "webp"):
        found = pixels_of(encoded(text, form, **({"lossless": True} if form == "webp" else {})))
        assert np.array_equal(found, grey(np.where(text[..., 3] > 0, 0, 255)))


def test_a_depth_map_keeps_its_levels() -> None:
    levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    assert pixels_of(encoded(levels, "png")).mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_all_eight_orientations_are_turned_upright(form: str, orientation: int, order: str) -> None:
    stored = encoded(PICTURE, form, **({"lossless": True} if form == "webp" else {}))
    expected = upright(pixels_of(stored), orientation)
    assert np.array_equal(pixels_of(with_exif(stored, turned(orientation, order))), expected)


@pytest.mark.parametrize(
    "entry",
    [
        (0x112, 3, 1, b"\0\0"),
        (0x112, 3, 1, b"\x09\0"),
        (0x112, 1, 1, b"\1"),  # a byte, as some cameras write
        (0x112, 2, 2, b"6\0"),
        (0x112, 5, 1, struct.pack("<I", 8)),
        (0x112, 11, 1, struct.pack("<f", 6.5)),
        (0x112, 3, 2**32 - 1, b"\0\0"),
    ],
)
def test_an_orientation_that_is_no_number_from_1_to_8_is_none(entry: tuple[int, int, int, bytes]) -> None:
    stored = encoded(PICTURE, "jpeg")
    assert np.array_equal(pixels_of(with_exif(stored, exif(entry))), pixels_of(stored))


def test_an_orientation_is_used_beside_other_fields_that_are_wrong() -> None:
    stored = encoded(PICTURE, "jpeg")
    date_as_rational = (0x132, 5, 1, struct.pack("<I", 38))
    data = exif((0x112, 3, 1, b"\6\0"), date_as_rational) + struct.pack("<II", 1, 2)
    assert np.array_equal(pixels_of(with_exif(stored, data)), upright(pixels_of(stored), 6))


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0, b"JFIF\0\1"),
        jpeg_segment(2, b"MPF\0II*\0"),
        jpeg_segment(2, b"ICC_PROFILE\0"),
        jpeg_segment(13, b"Photoshop 3.0\0" + b"8BIM\3\xed"),
        jpeg_segment(1, b"Exif\0\0"),
        jpeg_segment(1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    ],
)
def test_damaged_metadata_do_not_make_a_jpeg_unreadable(segment: bytes) -> None:
    stored = encoded(PICTURE, "jpeg")
    assert np.array_equal(pixels_of(stored[:2] + segment + stored[2:]), pixels_of(stored))


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"pHYs", b"\0"),
        chunk(b"zTXt", b"key\0\7text"),
        chunk(b"sRGB", b""),
        chunk(b"iCCP", b"name\0\0no profile"),
        chunk(b"gAMA", b"")[:-4] + b"sums",
    ],
)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_damaged_or_long_metadata_do_not_make_a_png_unreadable(wrong: bytes, place: str) -> None:
    data = png(PICTURE, 8, RGB, before=wrong) if place == "before" else png(PICTURE, 8, RGB, behind=wrong)
    assert np.array_equal(pixels_of(data), PICTURE)


def test_planes_of_16_bits_are_refused_because_they_would_be_read_as_8_bits() -> None:
    entries = [(256, 3, 1, 4), (257, 3, 1, 2), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 0)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 3, 0), (284, 3, 1, 2)]
    end = 8 + 2 + 12 * len(entries) + 4
    places = {258: end, 273: end + 6, 279: end + 18}
    table = b"".join(struct.pack("<HHII", *entry[:3], places.get(entry[0], entry[3])) for entry in entries)
    values = struct.pack("<3H3I3I", 16, 16, 16, *(end + 30 + 16 * plane for plane in range(3)), 16, 16, 16)
    planes = np.arange(24, dtype=np.uint16).tobytes()
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + values + planes
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (4, 2), "Pillow reads it"
    with (
        pytest.raises(BrokenMediaError, match="16 bits in separate planes"),
        open_picture(io.BytesIO(data), size=FrameSize(), where="a", formats=("TIFF",)),
    ):
        pass


def test_damaged_pixels_are_refused_with_or_without_metadata() -> None:
    data = bytearray(png(PICTURE, 8, RGB, before=chunk(b"pHYs", b"\0")))
    data[data.index(b"IDAT") + 12] ^= 0xFF
    with pytest.raises(BrokenMediaError, match="cannot be decoded"):
        pixels_of(bytes(data))


@pytest.mark.parametrize("form", ["gif", "bmp", "tiff"])
def test_a_picture_of_another_format_is_refused_by_its_name(form: str) -> None:
    with pytest.raises(BrokenMediaError, match=f"the file is {form.upper()}, expected JPEG, PNG, WEBP"):
        pixels_of(encoded(PICTURE, form))


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>404</html>", b' {"error": "not found"}', b"<html>"])
def test_a_server_s_message_under_a_picture_s_name_is_called_one(page: bytes) -> None:
    with pytest.raises(BrokenMediaError, match="the file is a page of text"):
        pixels_of(page)


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (8, 6), (60 * number, 0, 0)) for number in range(3)]
    for form in ("webp", "png"):
        target = io.BytesIO()
        frames[0].save(target, form, save_all=True, append_images=frames[1:], duration=500)
        assert pixels_of(target.getvalue()).max() == 0


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 5), (7, 7)])
def test_pictures_with_very_short_sides_are_read(width: int, height: int) -> None:
    for form in ("jpeg", "png", "webp"):
        data = encoded(np.full((height, width, 3), 200, dtype=np.uint8), form)
        assert pixels_of(data).shape == (height, width, 3)
        assert np.abs(pixels_of(data).astype(int) - 200).max() <= 3
