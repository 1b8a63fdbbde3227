"""Reads pictures as 8-bit RGB, for training and for the converter alike.

What is done with depth, transparency and orientation:

- Grey of 16 bits loses its lower 8 bits. Pillow's own ``convert`` would make everything above 255 white.
- Grey of 32 bits is read where its scale is known: floats from 0 to 1, integers up to 65535. Others are refused.
- Transparent pixels become white, as in vLLM and transformers' Qwen-VL and Idefics, so black text stays readable.
- The EXIF orientation is applied where it is a number from 1 to 8. No other metadata is used, and damaged metadata do
  not make a picture unreadable.
- The first frame of an animation is read.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from datamodules.errors import BrokenMediaError, OversizedMediaError
from datamodules.media.decoded_frames import DecodedFrames, FrameSize, Pixels, scale_down
from datamodules.media.file_formats import HEAD_BYTES, TEXT_FORMATS, format_of
from datamodules.media.picture_metadata import without_metadata

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")  # about metadata, which are not used

READ_FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats in shards, as Pillow names them."""

_MAKE_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes a picture upright, by its EXIF orientation."""

_GREY_SCALES = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow multiplies the grey levels of PNG pictures with 2 or 4 bits."""

# TIFF 6.0: BitsPerSample, PhotometricInterpretation, PlanarConfiguration
_DEPTH_TAG, _PHOTOMETRIC_TAG, _PLANES_TAG = 258, 262, 284
_WHITE_IS_ZERO, _SEPARATE_PLANES = 0, 2


class OpenPicture(NamedTuple):
    """An open picture."""

    image: Image.Image  # a JPEG is not decoded yet, so ``draft`` can request a reduced size
    raw_mode: str  # Pillow's name of the stored pixel format; "" = unknown

    def shown_size(self) -> tuple[int, int]:
        """Width and height as it is shown."""
        width, height = self.image.size
        return (height, width) if exif_orientation(self.image) >= 5 else (width, height)

    def upright_rgb(self) -> Image.Image:
        """Decode it upright, with 8 bits a colour, on a white background.

        Returns:
            The picture in mode RGB, at the reduced size if ``draft`` requested one.

        Raises:
            ValueError: It is grey with 32 bits of unknown scale. (Pillow's decoders raise other errors too.)
        """
        self.image.load()
        operation = _MAKE_UPRIGHT.get(exif_orientation(self.image))
        rgb = _on_white(self.image, self.raw_mode)
        return rgb if operation is None else rgb.transpose(operation)


def read_image(
    file: BinaryIO,
    *,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "image",
) -> DecodedFrames:
    """Decode a JPEG, PNG or WebP picture as a video of one frame.

    A JPEG is decoded at a half, a quarter or an eighth of its size if that is at least twice as large as needed, and
    then scaled down.

    Args:
        file: The picture's file.
        size: Largest picture, and how large it must be.
        where: Shard and key, for messages.

    Returns:
        One frame, at time 0, with the picture's size.

    Raises:
        BrokenMediaError: The bytes are no such picture, or it has too many pixels.
    """
    with open_picture(file, size=size, where=where) as picture:
        shown_width, shown_height = picture.shown_size()
        width, height = size.scaled(*picture.image.size)
        picture.image.draft("RGB", (2 * width, 2 * height))
        pixels = np.asarray(picture.upright_rgb())  # [H, W, 3]
    frames = scale_down(pixels, size)[None]
    return DecodedFrames(frames, np.zeros(1, dtype=np.int64), (shown_height, shown_width))


@contextlib.contextmanager
def open_picture(
    file: BinaryIO, *, size: FrameSize, where: str, formats: tuple[str, ...] = READ_FORMATS
) -> Iterator[OpenPicture]:
    """Open a picture; errors of opening and, inside the ``with``, of decoding get a clear message.

    Args:
        file: The picture's file.
        size: Largest picture.
        where: Start of the messages.
        formats: Formats that are tried, as Pillow names them.

    Yields:
        The picture.

    Raises:
        OversizedMediaError: It has more pixels than ``size`` allows.
        BrokenMediaError: It has another format or is damaged.
    """
    try:
        picture = _open(file, size, where, formats)
        with picture.image:
            yield picture
    except Image.DecompressionBombError as error:
        raise OversizedMediaError(f"{where}: the picture cannot be decoded ({error}); leave the sample out") from error
    except (BrokenMediaError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever its parsers meet: struct.error, KeyError, AttributeError, ...
        why, advice = _explanation(error, file, formats)
        raise BrokenMediaError(f"{where}: the picture cannot be decoded ({why}); {advice}") from error


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, a number from 1 to 8; 1, upright, where the file has none that is valid."""
    try:
        value = image.getexif().get(Base.Orientation)
    except Exception:  # damaged EXIF of a good picture, which viewers show as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _open(file: BinaryIO, size: FrameSize, where: str, formats: tuple[str, ...]) -> OpenPicture:
    try:
        return _open_as_it_is(file, size, where, formats)
    except (BrokenMediaError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        file.seek(0)
        bare = without_metadata(file.read())
        if bare is None:
            raise
        return _open_as_it_is(io.BytesIO(bare), size, where, formats)


def _open_as_it_is(file: BinaryIO, size: FrameSize, where: str, formats: tuple[str, ...]) -> OpenPicture:
    image = Image.open(file, formats=formats)
    size.check(*image.size, where)
    picture = OpenPicture(image, _raw_mode(image))
    _refuse_misread(image)
    if image.format == "PNG":  # its metadata may come after its pixels
        image.load()
    return picture


def _refuse_misread(image: Image.Image) -> None:
    """Refuse what Pillow reads wrongly without an error: separate planes of more than 8 bits in a TIFF."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES_TAG) == _SEPARATE_PLANES and max(tags.get(_DEPTH_TAG, (8,))) > 8 and len(image.getbands()) > 1:
        raise ValueError("colours of 16 bits in separate planes, which are not read; write it as PNG")


def _raw_mode(image: Image.Image) -> str:
    """The stored pixel format of a picture that is not decoded yet."""
    tiles = getattr(image, "tile", None) or [("", None, 0, "")]
    arguments = tiles[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _on_white(image: Image.Image, raw_mode: str) -> Image.Image:
    """A decoded picture in RGB on a white background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    colours, shown = image, None
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        colours = Image.fromarray(_eight_bits(image, raw_mode))
    if "transparency" in image.info and image.mode != "P":
        shown = _alpha_of_transparent_colour(image, raw_mode)
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        shown = colours.getchannel("A")
    rgb = colours.convert("RGB")
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


def _alpha_of_transparent_colour(image: Image.Image, raw_mode: str) -> Image.Image:
    """Alpha of a picture whose header declares one colour transparent: 0 for pixels of that colour, else 255.

    Source: W3C, Portable Network Graphics (Third Edition), 11.3.1.1 tRNS; the colour has the depth of the file.
    """
    key = image.info["transparency"]
    if raw_mode == "RGB;16B":  # Pillow stores the upper 8 bits only
        key = tuple(value >> 8 for value in key)
    key = np.asarray(key) * _GREY_SCALES.get(raw_mode, 1)
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    same = values == key
    if image.mode == "RGB":
        same = same.all(axis=-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _explanation(error: Exception, file: BinaryIO, formats: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong with a picture, and what to do."""
    file.seek(0)
    found = format_of(file.read(HEAD_BYTES))
    if found is not None and found not in formats:
        if found in TEXT_FORMATS:
            return f"the file is {found}", "fetch the picture itself"
        return (
            f"the file is {found}, expected {', '.join(formats)}",
            "write it in one of these, or leave the sample out",
        )
    if isinstance(error, UnidentifiedImageError):  # its message names a Python object, not the file
        if found is None:
            return "no known format of pictures", "fetch it again or leave the sample out"
        return (
            f"this {found} is damaged, or stores pixels in a way that is not read",
            "fetch it again, or write it as PNG",
        )
    return str(error) or type(error).__name__, "fetch it again or leave the sample out"
