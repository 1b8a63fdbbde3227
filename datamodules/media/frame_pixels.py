"""Converts a decoded frame to upright RGB pixels, for training and conversion alike.

The conversion follows the frame's pixel format and bit depth, colour matrix and range (BT.601 limited where the file
has none, FFmpeg's default), alpha, and the rotation or mirror of a player. Two things stay as they are stored, as in
other
loaders: pixels that are not square are not stretched, and HDR is not mapped to the range of a standard screen.
"""

from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from datamodules.media.decoded_frames import Pixels

_SCALER_MATRICES = {3: Colorspace.ITU601, 10: Colorspace.BT2020}
"""Numbers of AVColorSpace that FFmpeg's scaler refuses, and the matrix to use instead: a reserved number has no
meaning, and BT.2020 with constant luminance is nearest to BT.2020."""

_OTHER_MATRICES = {8: "YCgCo", 11: "SMPTE 2085", 12: "chroma-derived", 13: "chroma-derived", 14: "ICtCp"}


class Orientation(NamedTuple):
    """How stored pixels become upright: one of the eight symmetries of a rectangle."""

    transposed: bool = False  # rows and columns are swapped, before the mirrors
    mirrored: bool = False  # left and right are swapped
    flipped: bool = False  # top and bottom are swapped

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.int32]) -> "Orientation":
        """Read the nine numbers ``a b u c d v x y w`` of a display matrix, rounded to the nearest symmetry.

        A stored point ``(p, q)`` is shown at ``(a p + c q + x, b p + d q + y)``. Source: ISO/IEC 14496-12, 8.3.2.
        """
        a, b, _, c, d = (int(number) for number in matrix[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def is_mirror(self) -> bool:
        """Whether rotation alone cannot make the pixels upright."""
        return self.transposed ^ self.mirrored ^ self.flipped

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as they are shown."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, pixels: Pixels) -> Pixels:
        """Make ``[H, W, 3]`` upright."""
        swapped = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return swapped[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


_ROTATIONS = (  # by 0, 90, 180 and 270 degrees counterclockwise
    Orientation(),
    Orientation(transposed=True, flipped=True),
    Orientation(mirrored=True, flipped=True),
    Orientation(transposed=True, mirrored=True),
)


def stored_orientation(frame: Any) -> Orientation | None:
    """The orientation that is stored with this frame; None where there is none.

    The matrix of a container comes with every frame. A matrix in the video stream comes with some frames, and is valid
    for the frames after it too.
    """
    try:
        side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV cannot list side data that it has no name for, such as Exif; ``rotation`` still works
        return _ROTATIONS[round(frame.rotation / 90) % 4]
    return None if side_data is None else Orientation.of_matrix(np.frombuffer(bytes(side_data), dtype=np.int32))


def frame_orientation(frame: Any) -> Orientation:
    """The orientation of this frame, the first one of a video; upright where none is stored."""
    return stored_orientation(frame) or Orientation()


class PixelReader:
    """Converts frames to RGB pixels; reuses FFmpeg's tables for all frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def read(self, frame: Any, width: int, height: int, orientation: Orientation) -> Pixels:
        """Convert and scale a frame, and make it upright.

        Args:
            frame: PyAV's decoded frame.
            width: Pixels of a row after scaling, as stored.
            height: Pixels of a column after scaling, as stored.
            orientation: How it becomes upright.

        Returns:
            RGB ``[height, width, 3]``, or ``[width, height, 3]`` where the orientation transposes.

        Raises:
            ValueError: Its colour matrix is one that FFmpeg's scaler does not know.
        """
        scaled = None if (width, height) == (frame.width, frame.height) else Interpolation.BICUBIC
        has_alpha = any(component.is_alpha for component in frame.format.components)
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if has_alpha else "rgb24",
            src_colorspace=_matrix(frame),
            interpolation=scaled,
            threads=1,
        )
        pixels: Any = converted.to_ndarray()
        return orientation.apply(_on_white(pixels) if has_alpha else pixels)


def _matrix(frame: Any) -> Colorspace | None:
    """The colour matrix for the scaler; None = the frame's own."""
    number = int(frame.colorspace)
    if (number in _OTHER_MATRICES or number > max(_OTHER_MATRICES)) and not frame.format.is_rgb:
        raise ValueError(f"its colour matrix {_OTHER_MATRICES.get(number, number)} is not converted")
    return _SCALER_MATRICES.get(number)


def _on_white(pixels: Pixels) -> Pixels:
    """Blend RGBA ``[H, W, 4]`` with white, as for pictures."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class Yuv420Writer:
    """Makes frames for an encoder: 4:2:0, BT.601, limited range. ``tag`` writes that into the stream."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    @staticmethod
    def tag(codec_context: Any) -> None:
        """Write the pixel format and colours of the frames into the stream's header."""
        codec_context.pix_fmt = "yuv420p"
        codec_context.colorspace = 6  # AVCOL_SPC_SMPTE170M, which is BT.601
        codec_context.color_range = ColorRange.MPEG

    def write(self, pixels: Pixels) -> Any:
        """A new frame of RGB ``[H, W, 3]``."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return self._reformatter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
