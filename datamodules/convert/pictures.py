"""Reads the pictures that are converted: whether one is whole, how large it is, and its pixels."""

from pathlib import Path

from PIL import Image, ImageOps

from datamodules.convert.problems import damaged

_READ_FORMATS = ("JPEG", "PNG", "WEBP")  # what the reader of shards decodes, as Pillow names them
_ENCODED_FORMATS = (*_READ_FORMATS, "GIF", "BMP", "TIFF")  # not all: for some Pillow starts other programs
_MOST_PIXELS = 80_000_000


def probe_image(path: Path) -> tuple[int, int]:
    """Width and height of a picture, once it was decoded at the smallest scale that its format has.

    Raises:
        RowProblem: It is no whole JPEG, PNG or WebP picture, or one of absurd size.
    """
    try:
        with Image.open(path, formats=_READ_FORMATS) as image:
            _refuse_bomb(path, image)
            turned = image.getexif().get(0x0112, 1) >= 5
            width, height = image.size
            image.draft("RGB", (width // 8, height // 8))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from error
    return (height, width) if turned else (width, height)


def open_image(path: Path) -> Image.Image:
    """Decode a picture, upright and in RGB.

    Raises:
        RowProblem: It cannot be decoded.
    """
    try:
        with Image.open(path, formats=_ENCODED_FORMATS) as image:
            _refuse_bomb(path, image)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from error


def _refuse_bomb(path: Path, image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise damaged(path, f"{image.width}x{image.height} pixels are more than {_MOST_PIXELS}, a decompression bomb")
