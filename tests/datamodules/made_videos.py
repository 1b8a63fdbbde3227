"""Videos of numbered frames in many forms: what the tests of re-encoding and of odd files share."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from datamodules.media.decoded_frames import Pixels

WIDTH, HEIGHT = 128, 64
_TICKS = 1000  # a second
_MATRICES = {"bt601": (Colorspace.ITU601, 6), "bt709": (Colorspace.ITU709, 1), "bt2020": (Colorspace.BT2020, 9)}
_BLOCKS = np.array([[14, 222, 4], [200, 30, 90], [40, 60, 220], [235, 235, 235]], dtype=np.uint8)
_LOSSY = {"qmin": "1", "qmax": "4", "b": "4M"}
_QUALITY = {"libx264": {"qp": "4"}} | dict.fromkeys(("libvpx", "libvpx-vp9", "mpeg4", "mjpeg", "flv", "wmv2"), _LOSSY)
EIGHT_MATRICES = [  # a, b, c, d: keep, three turns, four mirrors
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]


class Form(NamedTuple):
    """How a video is written."""

    container: str = "mp4"
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    matrix: str = ""  # of _MATRICES; empty = no tag, which means BT.601
    full_range: bool = False
    start_ms: int = 0
    display: tuple[int, int, int, int] = EIGHT_MATRICES[0]
    times_ms: Sequence[int] = tuple(range(0, 1200, 100))
    options: tuple[tuple[str, str], ...] = ()  # of the container
    codec_options: tuple[tuple[str, str], ...] = ()


def numbered_frame(number: int) -> Pixels:
    """RGB ``[64, 128, 3]``: coloured blocks above, the number in eight stripes below."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[: HEIGHT // 2] = np.repeat(_BLOCKS, WIDTH // 4, axis=0)
    bits = [(number >> bit) & 1 for bit in range(8)]
    pixels[HEIGHT // 2 :] = np.repeat(np.array(bits, dtype=np.uint8) * 255, WIDTH // 8)[:, None]
    return pixels


def as_stored(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Undo the turn that a player makes for this display matrix, of frames ``[T, H, W, 3]``."""
    a, b, c, d = matrix
    is_transposed = a == 0
    mirrored, flipped = (c < 0, b < 0) if is_transposed else (a < 0, d < 0)
    undone = pixels[:, :: -1 if flipped else 1, :: -1 if mirrored else 1]
    return undone.transpose(0, 2, 1, 3) if is_transposed else undone


def block_colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour in the middle of the blocks and of the stripes of frames ``[T, H, W, 3]``: ``[T, 12, 3]``."""
    height, width = pixels.shape[1:3]
    above = pixels[:, height // 8 : height * 3 // 8].mean(axis=1).reshape(len(pixels), 4, width // 4, 3)
    below = pixels[:, height * 5 // 8 : height * 7 // 8].mean(axis=1).reshape(len(pixels), 8, width // 8, 3)
    middles = [part[:, :, part.shape[2] // 4 : part.shape[2] * 3 // 4].mean(axis=2) for part in (above, below)]
    return np.concatenate(middles, axis=1)


def numbers(pixels: NDArray[np.uint8]) -> list[int]:
    """The numbers of upright frames ``[T, H, W, 3]`` of any size."""
    bits = block_colours(pixels)[:, 4:].mean(axis=2) > 128
    return [int((row << np.arange(8)).sum()) for row in bits.astype(int)]


def make_video(form: Form) -> bytes:
    """Write the numbered frames at the form's times."""
    target = io.BytesIO()
    with av.open(target, "w", format=form.container, options=dict(form.options)) as output:
        stream = output.add_stream(form.codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, form.pixel_format
        context = stream.codec_context
        context.gop_size, context.thread_count = 5, 1
        context.options = _QUALITY.get(form.codec, {}) | dict(form.codec_options)
        if form.container != "avi":
            context.time_base = Fraction(1, _TICKS)
        if form.matrix:
            context.colorspace = _MATRICES[form.matrix][1]
        if form.matrix or form.full_range:
            context.color_range = ColorRange.JPEG if form.full_range else ColorRange.MPEG
        for number, time in enumerate(form.times_ms):
            output.mux(stream.encode(_frame(form, number, time)))
        output.mux(stream.encode(None))
    return turned(target.getvalue(), form.display)


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 or MOV with these numbers ``a b c d`` in the display matrix of its track."""
    if matrix == EIGHT_MATRICES[0]:
        return data
    start = data.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12: nine 32-bit numbers
    a, b, c, d = (0x10000 * number for number in matrix)
    nine = [a, b, 0, c, d, 0, 0, 0, 0x40000000]
    return data[:start] + b"".join(number.to_bytes(4, "big", signed=True) for number in nine) + data[start + 36 :]


def _frame(form: Form, number: int, time: int) -> Any:
    rgb = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
    frame = rgb.reformat(
        format=form.pixel_format,
        dst_colorspace=_MATRICES[form.matrix or "bt601"][0],
        dst_color_range=ColorRange.JPEG if form.full_range else ColorRange.MPEG,
    )
    if form.container == "avi":
        frame.pts, frame.time_base = time // 100, Fraction(1, 10)
    else:
        frame.pts, frame.time_base = form.start_ms + time, Fraction(1, _TICKS)
    return frame
