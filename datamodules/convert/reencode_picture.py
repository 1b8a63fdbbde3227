"""Checks and converts pictures for shards, with the code that reads them in training (``datamodules.media.pictures``).

JPEG, PNG and WebP pictures are stored as they are. GIF, BMP, TIFF, AVIF and JPEG 2000 pictures become PNG, without
loss. The format follows from the bytes, because many data sets name all their pictures ``.jpg``.
"""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.errors import BrokenMediaError, OversizedMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.pictures import READ_FORMATS, OpenPicture, open_picture

CONVERTED_FORMATS = ("GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""Formats that become PNG, as Pillow names them. Formats for which Pillow starts other programs are not among them."""

PICTURE_FORMATS = frozenset({*READ_FORMATS, *CONVERTED_FORMATS, "HEIC", "JPEG XL", "PNM", "PSD", "ICO", "SVG"})
"""All known formats of pictures; those that are neither read nor converted are refused."""

_ANIMATED_FORMATS = ("PNG", "WEBP", "AVIF")  # not JPEG (MPO) and TIFF with several pictures; GIF is a video
_SHORTEST_MS = 10
_USUAL_MS = 100
_CLOCK = Fraction(1, 1000)  # Matroska's ticks
_JPEG_QUALITY = 92


class PictureFacts(NamedTuple):
    """Size and format of a picture."""

    width: int  # upright, after applying the EXIF orientation
    height: int
    format: str  # as Pillow names it
    num_frames: int  # of an animation; 1 for all others


def probe_image(path: Path) -> PictureFacts:
    """Measure a picture and decode it, to find damage, at the smallest scale of its format.

    Raises:
        RowProblem: Training would refuse it even as PNG.
    """
    with _opened(path) as picture:
        image = picture.image
        width, height = picture.shown_size()
        form = "JPEG" if image.format == "MPO" else str(image.format)
        num_frames = getattr(image, "n_frames", 1) if form in _ANIMATED_FORMATS else 1
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        picture.upright_rgb()
    return PictureFacts(width, height, form, num_frames)


def write_picture(path: Path, target: Path, size: int | None = None) -> PictureFacts:
    """Write a picture smaller, as JPEG, or without loss, as PNG.

    Args:
        path: The picture.
        target: File to write.
        size: Pixels of the shorter side of the JPEG; None = PNG of the picture's own size.

    Returns:
        What was written.

    Raises:
        RowProblem: It cannot be decoded.
    """
    with _opened(path) as picture:
        image = picture.upright_rgb()
    if size is None:
        image.save(target, "PNG")
        return PictureFacts(*image.size, "PNG", 1)
    scale = size / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image.resize((width, height), Image.Resampling.LANCZOS).save(target, "JPEG", quality=_JPEG_QUALITY)
    return PictureFacts(width, height, "JPEG", 1)


def write_animation(path: Path, target: Path, tick: Callable[[], None]) -> None:
    """Write the frames of an animated picture as a video, without loss (FFV1 in Matroska), each at its own time.

    Args:
        path: The animation.
        target: File to write.
        tick: Called after every frame.

    Raises:
        RowProblem: A frame cannot be decoded.
    """
    stream, end_ms = None, 0
    with av.open(str(target), "w", format="matroska", options={"fflags": "+bitexact"}) as output:
        for rgb, duration_ms in _frames(path):
            frame = av.VideoFrame.from_ndarray(np.asarray(rgb), format="rgb24").reformat(format="bgr0")
            if stream is None:
                stream = output.add_stream("ffv1", rate=1000)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "bgr0"
                stream.codec_context.time_base = stream.time_base = _CLOCK
                stream.codec_context.gop_size = stream.codec_context.thread_count = 1
            frame.pts, frame.time_base, frame.duration = end_ms, _CLOCK, duration_ms
            for packet in stream.encode(frame):  # FFV1 hands over every frame at once
                packet.duration = duration_ms
                output.mux(packet)
            end_ms += duration_ms
            tick()


def _frames(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """The frames of an animation in RGB, each with its duration in milliseconds."""
    with _opened(path) as picture:
        image = picture.image
        # The first picture of an APNG may be only for programs that do not know APNG.
        first = 1 if image.info.get("default_image") else 0
        for number in range(first, getattr(image, "n_frames", 1)):
            image.seek(number)
            rgb = picture.upright_rgb()
            duration_ms = round(image.info.get("duration") or 0)
            # Browsers replace 0 and 10 ms by 100 ms.
            yield rgb, duration_ms if duration_ms > _SHORTEST_MS else _USUAL_MS


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[OpenPicture]:
    """Open a picture in any format that can be converted; errors become a ``RowProblem``."""
    size = FrameSize()
    try:
        with (
            path.open("rb") as file,
            open_picture(file, size=size, where=str(path), formats=(*READ_FORMATS, *CONVERTED_FORMATS)) as picture,
        ):
            yield picture
    except OversizedMediaError as error:
        why = f"{path} has more than the {size.max_pixels} pixels that are read; scale it down"
        raise RowProblem(Reason.OVERSIZED, why) from error
    except BrokenMediaError as error:
        raise RowProblem(Reason.DAMAGED, str(error)) from error
