"""From a decoded frame to the pixels that a viewer sees. Training and conversion both do it here.

What describes a frame's pixels: its pixel format and bit depth, its colour matrix and range (BT.601 limited where a
file tells nothing, as FFmpeg takes it), its alpha, and how a player turns or mirrors it. Two things are left as they
are stored, as other loaders do: pixels that are not square are not stretched, and HDR is not mapped to the range of a
standard screen.
"""

from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from datamodules.media.decoded_frames import Pixels

_SCALER_MATRICES = {3: Colorspace.ITU601, 10: Colorspace.BT2020}
"""Numbers of AVColorSpace that FFmpeg's scaler refuses, and what it should take: a reserved number says nothing, and
BT.2020 with constant luminance is nearest to BT.2020."""

_OTHER_MATRICES = {8: "YCgCo", 11: "SMPTE 2085", 12: "chroma-derived", 13: "chroma-derived", 14: "ICtCp"}


class Orientation(NamedTuple):
    """How stored pixels become upright: one of the eight symmetries of a rectangle."""

    transposed: bool = False  # rows and columns change places, before the mirrors
    mirrored: bool = False  # left and right change places
    flipped: bool = False  # top and bottom change places

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.int32]) -> "Orientation":
        """Read the nine numbers ``a b u c d v x y w`` of a display matrix; the nearest symmetry counts.

        A stored point ``(p, q)`` is shown at ``(a p + c q + x, b p + d q + y)``. Source: ISO/IEC 14496-12, 8.3.2.
        """
        a, b, _, c, d = (int(number) for number in matrix[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def is_mirror(self) -> bool:
        """Whether no turn alone makes the pixels upright."""
        return self.transposed ^ self.mirrored ^ self.flipped

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as they are shown."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, pixels: Pixels) -> Pixels:
        """Turn ``[H, W, 3]``."""
        turned = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return turned[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


_QUARTER_TURNS = (  # counterclockwise
    Orientation(),
    Orientation(transposed=True, flipped=True),
    Orientation(mirrored=True, flipped=True),
    Orientation(transposed=True, mirrored=True),
)


def stored_orientation(frame: Any) -> Orientation | None:
    """How a player turns and mirrors this frame; None where the frame tells nothing.

    A container's matrix comes with every frame. One in the film's own stream comes with some frames, and holds for
    those after it.
    """
    try:
        side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    except (
        ValueError
    ):  # PyAV cannot list side data that it has no name for, such as Exif; the turn it tells all the same
        return _QUARTER_TURNS[round(frame.rotation / 90) % 4]
    return None if side_data is None else Orientation.of_matrix(np.frombuffer(bytes(side_data), dtype=np.int32))


def frame_orientation(frame: Any) -> Orientation:
    """How a player turns and mirrors this frame, the first one of a film."""
    return stored_orientation(frame) or Orientation()


class PixelReader:
    """Makes RGB pixels of frames; keeps FFmpeg's tables from frame to frame."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def read(self, frame: Any, width: int, height: int, orientation: Orientation) -> Pixels:
        """Convert, scale and turn a frame.

        Args:
            frame: PyAV's decoded frame.
            width: Pixels that its rows are scaled to, before it is turned.
            height: The same of its columns.
            orientation: How it becomes upright.

        Returns:
            RGB ``[height, width, 3]``, or ``[width, height, 3]`` where the turn transposes.

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
    """The colour matrix that the scaler has to take; None = the frame's own."""
    number = int(frame.colorspace)
    if (number in _OTHER_MATRICES or number > max(_OTHER_MATRICES)) and not frame.format.is_rgb:
        raise ValueError(f"its colour matrix {_OTHER_MATRICES.get(number, number)} is not converted")
    return _SCALER_MATRICES.get(number)


def _on_white(pixels: Pixels) -> Pixels:
    """Lay RGBA ``[H, W, 4]`` on a white ground, as pictures are."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class Yuv420Writer:
    """Makes frames for an encoder: 4:2:0, BT.601, limited range. Tag the stream through ``tag``."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    @staticmethod
    def tag(codec_context: Any) -> None:
        """Let the stream tell the form that its frames have."""
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
