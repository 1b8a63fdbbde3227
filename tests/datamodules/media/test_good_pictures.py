"""Thousands of good pictures that are odd: all are converted, checked and read, and every pixel is right.

Sizes are 1 to 16 pixels, EXIF holds nonsense beside the orientation, names are right or wrong. What should be shown
follows from the samples that are written, not from another reading of the file. A case follows from its number.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules.media.pictures import read_image
from datamodules.validate.shard_check import ShardCheck
from tests.datamodules.convert.conversions import convert, llava_item, read_samples, write_json
from tests.datamodules.picture_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    exif,
    on_white,
    png,
    upright,
    with_exif,
)

Generator = np.random.Generator
LONG = [pytest.mark.nightly, pytest.mark.timeout(1200)]


class Picture(NamedTuple):
    """A file and what it shows."""

    data: bytes
    shown: np.ndarray  # [H, W, 3]
    tolerance: float = 0.0  # levels, of the mean difference


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=-1).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(target, form, **options)
    return target.getvalue()


def random_png(generator: Generator, height: int, width: int) -> Picture:
    colour_type = int(generator.choice([GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA]))
    depths = {GREY: [1, 2, 4, 8, 16], PALETTE: [1, 2, 4, 8]}.get(colour_type, [8, 16])
    depth = int(generator.choice(depths))
    channels = {RGB: (3,), GREY_ALPHA: (2,), RGB_ALPHA: (4,)}.get(colour_type, ())
    samples = generator.integers(0, 2**depth, (height, width, *channels))
    if colour_type == PALETTE:
        palette = generator.integers(0, 256, (2**depth, 3), dtype=np.uint8)
        opacity = generator.integers(0, 256, generator.integers(0, 2**depth + 1), dtype=np.uint8)
        whole = np.concatenate([opacity, np.full(2**depth - len(opacity), 255, np.uint8)])
        data = png(samples, depth, PALETTE, palette=palette, transparency=opacity.tobytes())
        return Picture(data, on_white(palette[samples], whole[samples] / 255), 1)
    eight = (samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)).astype(np.uint8)
    if colour_type in (GREY_ALPHA, RGB_ALPHA):
        colours = eight[..., :3] if colour_type == RGB_ALPHA else grey(eight[..., 0])
        return Picture(png(samples, depth, colour_type), on_white(colours, eight[..., -1] / 255), 1)
    colours = eight if colour_type == RGB else grey(eight)
    if generator.random() < 0.5:
        return Picture(png(samples, depth, colour_type), colours)
    key = samples[generator.integers(height), generator.integers(width)]
    shows = (samples != key).any(axis=-1) if colour_type == RGB else samples != key
    transparency = struct.pack(">HHH", *key) if colour_type == RGB else struct.pack(">H", key)
    return Picture(png(samples, depth, colour_type, transparency=transparency), on_white(colours, shows))


def random_jpeg(generator: Generator, height: int, width: int) -> Picture:
    options = {"quality": 100, "subsampling": 0, "progressive": bool(generator.integers(2))}
    kind = generator.integers(3)
    if kind == 0:
        levels = generator.integers(0, 256, (height, width), dtype=np.uint8)
        return Picture(saved(levels, "JPEG", **options), grey(levels), 1.5)
    if kind == 1:
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Picture(saved(pixels, "JPEG", **options), pixels, 1.5)
    inks = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
    light = 255.0 - inks
    image = Image.fromarray(inks, mode="CMYK")
    return Picture(saved(image, "JPEG", **options), light[..., :3] * light[..., 3:] / 255, 2)


def random_webp(generator: Generator, height: int, width: int) -> Picture:
    pixels = generator.integers(0, 256, (height, width, int(generator.integers(3, 5))), dtype=np.uint8)
    data = saved(pixels, "WEBP", lossless=True, exact=True)
    alpha = pixels[..., 3] / 255 if pixels.shape[2] == 4 else np.ones((height, width))
    return Picture(data, on_white(pixels[..., :3], alpha), 1)


def random_gif(generator: Generator, height: int, width: int) -> Picture:
    samples = generator.integers(0, 256, (height, width), dtype=np.uint8)
    palette = generator.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(samples, mode="P")
    image.putpalette(palette.tobytes())
    clear = samples[0, 0]
    if generator.random() < 0.5:
        return Picture(saved(image, "GIF"), palette[samples])
    return Picture(saved(image, "GIF", transparency=int(clear)), on_white(palette[samples], samples != clear))


def random_bmp(generator: Generator, height: int, width: int) -> Picture:
    if generator.random() < 0.3:
        bits = generator.random((height, width)) < 0.5
        return Picture(saved(Image.fromarray(bits), "BMP"), grey(bits * 255))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(saved(pixels, "BMP"), pixels)


def random_tiff(generator: Generator, height: int, width: int) -> Picture:
    orientation = int(generator.integers(1, 9))
    compression = str(generator.choice(["raw", "tiff_lzw", "tiff_deflate"]))
    options = {"tiffinfo": {274: orientation}, "compression": compression}
    kind = generator.integers(4)
    if kind == 0:
        samples = generator.integers(0, 65536, (height, width)).astype(np.uint16)
        return Picture(saved(samples, "TIFF", **options), upright(grey(samples >> 8), orientation))
    if kind == 1:
        fractions = generator.random((height, width)).astype(np.float32)
        options["compression"] = "raw"
        return Picture(saved(fractions, "TIFF", **options), upright(grey(np.rint(fractions * 255)), orientation))
    pixels = generator.integers(0, 256, (height, width, int(kind) + 1), dtype=np.uint8)
    alpha = pixels[..., 3] / 255 if kind == 3 else np.ones((height, width))
    shown = on_white(pixels[..., :3], alpha)
    return Picture(saved(pixels, "TIFF", **options), upright(shown, orientation), 1)


FORMS: dict[str, Callable[[Generator, int, int], Picture]] = {
    "png": random_png, "jpg": random_jpeg, "webp": random_webp, "gif": random_gif, "bmp": random_bmp, "tif": random_tiff
}  # fmt: skip


def odd_exif(generator: Generator, orientation: int | None) -> bytes:
    """EXIF of a readable orientation, or none, among fields of wrong types, counts and places."""
    order = str(generator.choice(["<", ">"]))
    entries = [] if orientation is None else [(0x112, 3, 1, struct.pack(f"{order}H", orientation))]
    for _ in range(generator.integers(0, 5)):
        tag = int(generator.choice([0x10F, 0x11A, 0x128, 0x132, 0x8769, 0x8825, 0x9286, 0x927C, 0xA005, 0xFFFF]))
        kind, count = int(generator.integers(0, 14)), int(generator.choice([0, 1, 2, 38, 2**31, 2**32 - 1]))
        entries.append((tag, kind, count, generator.bytes(4)))
    return exif(*entries, order=order) + generator.bytes(int(generator.integers(0, 40)))


def random_picture(case: int) -> tuple[str, Picture]:
    """Name and picture of a case."""
    generator = np.random.default_rng([11, case])
    form = list(FORMS)[case % len(FORMS)]
    height, width = (int(side) for side in generator.integers(1, 17, 2))
    picture = FORMS[form](generator, height, width)
    if form in ("png", "jpg", "webp") and generator.random() < 0.8:
        orientation = int(generator.integers(1, 9)) if generator.random() < 0.8 else None
        data = with_exif(picture.data, odd_exif(generator, orientation))
        picture = Picture(data, upright(picture.shown, orientation or 1), picture.tolerance)
    # A GIF called .mp4 is a video, whatever field names it.
    others = [".jpg", ".PNG", "", ".jpg" if form == "gif" else ".mp4"]
    ending = str(generator.choice([f".{form}", f".{form}", *others]))
    return f"{case:05d}{ending}", picture


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells what is odd about EXIF
@pytest.mark.parametrize("cases", [range(300), pytest.param(range(300, 2300), id="2000", marks=LONG)])
@pytest.mark.parametrize("options", [[], ["--reencode", "16"]], ids=["plain", "reencode"])
def test_good_pictures_come_through_with_their_pixels(tmp_path: Path, cases: range, options: list[str]) -> None:
    pictures = dict(map(random_picture, cases))
    for name, picture in pictures.items():
        (tmp_path / name).write_bytes(picture.data)
    rows = write_json(tmp_path / "rows.json", [llava_item(image=name) for name in pictures])
    convert("llava", rows, tmp_path / "out", *options)
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert [sample.problem for sample in ShardCheck().run(str(shard)).samples if sample.problem] == []
    samples = read_samples(tmp_path / "out")
    assert len(samples) == len(pictures)
    for sample in samples:
        name = str(sample.record.meta["media"])
        expected = pictures[name]
        with sample.media[0].content.open() as file:
            found = read_image(file).pixels[0]
        assert found.shape == expected.shown.shape, name
        assert (sample.record.meta["height"], sample.record.meta["width"]) == found.shape[:2], name
        assert np.abs(found - np.asarray(expected.shown, dtype=float)).mean() <= expected.tolerance, name
