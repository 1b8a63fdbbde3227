"""Reads pictures, for training and for the converter alike: their formats, largest size, depth, transparency and turn.

A picture becomes 8-bit RGB as it is shown:

- Grey of 16 bits loses its lower 8 bits. Pillow's own ``convert`` would make everything above 255 white.
- Grey of 32 bits is taken where its scale is known: floats from 0 to 1, integers up to 65535. Others are refused.
- What is transparent shows white, as in vLLM and transformers' Qwen-VL and Idefics. Black text stays readable.
- The EXIF orientation is applied where it is a number from 1 to 8. All else in EXIF is neither used nor checked.
- Of an animation the first frame is read.
"""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base

from datamodules.decoded_frames import DecodedFrames, FrameSize, Pixels, scale_down
from datamodules.errors import BrokenMediaError, OversizedMediaError
from datamodules.file_formats import HEAD_BYTES, format_of

READ_FORMATS = ("JPEG", "PNG", "WEBP")
"""What shards hold, as Pillow names it."""

# Pictures of image generators carry their settings as text, often more than the 1 MB that Pillow allows a compressed
# text. All texts of a picture together stay within Pillow's own bound of memory, 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation."""

_GREY_SCALES = {"L;2": 85, "L;4": 17}
"""By which Pillow multiplies the grey levels of PNG pictures with 2 or 4 bits."""

_WHITE_IS_ZERO = 0
_PHOTOMETRIC_TAG = 262  # TIFF 6.0, PhotometricInterpretation


def read_image(
    file: BinaryIO,
    *,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "image",
) -> DecodedFrames:
    """Decode a JPEG, PNG or WebP picture as a video of one frame.

    A JPEG that is more than twice as large as needed is decoded at a half, a quarter or an eighth of its size, still
    at least twice as large as needed, and scaled down from there.

    Args:
        file: The picture's file.
        size: Largest picture, and how large it needs to be.
        where: Shard and key, for messages.

    Returns:
        One frame, at time 0.

    Raises:
        BrokenMediaError: The bytes are no such picture, or a picture of absurd size.
    """
    with open_picture(file, size=size, where=where) as image:
        width, height = size.scaled(*image.size)
        image.draft("RGB", (2 * width, 2 * height))
        pixels = np.asarray(upright_rgb(image))  # [H, W, 3]
    return DecodedFrames(scale_down(pixels, size)[None], np.zeros(1, dtype=np.int64))


@contextlib.contextmanager
def open_picture(
    file: BinaryIO, *, size: FrameSize, where: str, formats: tuple[str, ...] = READ_FORMATS
) -> Iterator[Image.Image]:
    """Open a picture, and say what is wrong with it where it cannot be opened or, inside the ``with``, be decoded.

    Args:
        file: The picture's file.
        size: Largest picture.
        where: What the messages start with.
        formats: Formats that are tried, as Pillow names them.

    Yields:
        The picture, not decoded yet.

    Raises:
        OversizedMediaError: It has more pixels than ``size`` allows.
        BrokenMediaError: It has another format or is damaged.
    """
    try:
        with Image.open(file, formats=formats) as image:
            if min(image.size) < 1:
                raise BrokenMediaError(f"{where}: the picture cannot be decoded (it has no pixels); leave it out")
            size.check(*image.size, where)
            yield image
    except Image.DecompressionBombError as error:
        raise OversizedMediaError(f"{where}: the picture cannot be decoded ({error}); leave the sample out") from error
    except (BrokenMediaError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever its parsers meet: struct.error, KeyError, AttributeError, ...
        why, advice = _explanation(error, file, formats)
        raise BrokenMediaError(f"{where}: the picture cannot be decoded ({why}); {advice}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture as it is shown: upright, 8 bits a colour, on white.

    Args:
        image: An open picture; a reduced size that was asked for by ``draft`` is kept.

    Returns:
        The picture in mode RGB.

    Raises:
        ValueError: It is grey with 32 bits whose scale is not known. (Pillow's decoders raise other errors as well.)
    """
    raw_mode = _raw_mode(image)
    image.load()
    turn = _TURNS.get(orientation(image))
    rgb = _on_white(image, raw_mode)
    return rgb if turn is None else rgb.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, a number from 1 to 8; 1, upright, where the file tells nothing that can be used."""
    try:
        value = image.getexif().get(Base.Orientation)
    except Exception:  # damaged EXIF of a picture that is good; viewers show it as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an open picture as it is shown."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def _on_white(image: Image.Image, raw_mode: str) -> Image.Image:
    """A decoded picture in RGB, with white where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    grey, shown = image, None
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        grey = Image.fromarray(_eight_bits(image, raw_mode))
    if "transparency" in image.info and image.mode != "P":
        shown = _is_no_key_colour(image, raw_mode)
    elif image.has_transparency_data:
        grey = image.convert("RGBA")
        shown = grey.getchannel("A")
    rgb = grey.convert("RGB")
    if shown is None or shown.getextrema()[0] == 255:
        return rgb
    ground = Image.new("RGB", image.size, "white")
    ground.paste(rgb, mask=shown)
    return ground


def _eight_bits(image: Image.Image, raw_mode: str) -> Pixels:
    """Grey of more than 8 bits as 8 bits ``[H, W]``."""
    values = np.asarray(image)  # [H, W]
    least, most = values.min(), values.max()
    if image.mode == "F":
        if not (least >= 0 and most <= 1):  # NaN is neither
            raise ValueError(
                f"grey of 32-bit floats from {least:g} to {most:g}, expected 0 to 1; write 16-bit integers"
            )
        grey = np.rint(values * 255)
    else:
        if least < 0 or most > 65535 or (image.mode == "I" and 0 < most < 256):
            raise ValueError(
                f"grey of 32-bit integers from {least} to {most}, whose scale is unknown; write 16-bit ones"
            )
        grey = values.astype(np.uint16) >> (4 if raw_mode == "I;12" else 8)
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    return np.asarray(255 - grey if inverted else grey, dtype=np.uint8)


def _is_no_key_colour(image: Image.Image, raw_mode: str) -> Image.Image:
    """255 where a picture does not have the one colour that its header declares transparent, 0 where it has.

    Source: W3C, Portable Network Graphics (Third Edition), 11.3.1.1 tRNS; the colour has the depth of the file.
    """
    key = image.info["transparency"]
    if raw_mode == "RGB;16B":  # Pillow keeps the upper 8 bits alone
        key = tuple(value >> 8 for value in key)
    key = np.asarray(key) * _GREY_SCALES.get(raw_mode, 1)
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    same = values == key
    if image.mode == "RGB":
        same = same.all(axis=-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel, as Pillow writes it; to be asked before the picture is decoded."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _explanation(error: Exception, file: BinaryIO, formats: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong with a picture, and what helps."""
    file.seek(0)
    found = format_of(file.read(HEAD_BYTES))
    if found is not None and found not in formats:
        if found.startswith("a "):
            return f"the file is {found}", "fetch the picture itself"
        return (
            f"the file is {found}, expected {', '.join(formats)}",
            "write it in one of these, or leave the sample out",
        )
    if "MAX_TEXT" in str(error):
        return str(error), "write it again without its long texts, or leave the sample out"
    return str(error) or type(error).__name__, "fetch it again or leave the sample out"
