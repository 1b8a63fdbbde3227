"""Opens a video with one of several decoding libraries. A new one is one file and one line in ``_BACKENDS``.

Only the chosen frames are stored. One thread decodes, because several worker processes decode at the same time.
``decoding_process`` protects the training process from a decoder that hangs or crashes.
"""

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.media.decoded_frames import DecodedFrames, FrameSize
from datamodules.media.decoders.decord_decoder import DecordDecoder
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from datamodules.media.decoders.torchcodec_decoder import TorchCodecDecoder
from datamodules.media.video_container import check_container


class VideoDecoder(Protocol):
    """An open video."""

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """[T] int64: start of every frame, increasing, in milliseconds after the first one."""

    @property
    def duration_ms(self) -> int:
        """End of the last frame, in milliseconds after the start of the first one."""

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        """Decode the frames of these increasing indices, at the requested size.

        If a packet of the file shows no frame, the frame before it is returned, with its own time. No frame is returned
        twice.
        """


def open_video(
    file: BinaryIO,
    backend: str = "pyav",
    *,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "video",
) -> VideoDecoder:
    """Open a video.

    Args:
        file: The video's file; the caller closes it after the frames were decoded.
        backend: ``pyav``, ``decord`` or ``torchcodec``.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.

    Returns:
        The open video.

    Raises:
        ValueError: There is no such backend.
        ImportError: The backend is not installed.
        BrokenMediaError: The bytes are no complete video.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"video backend {backend!r} is unknown; choose one of {', '.join(_BACKENDS)}")
    check_container(file, where)
    return _BACKENDS[backend](file, size, where)


_BACKENDS: dict[str, Callable[[BinaryIO, FrameSize, str], VideoDecoder]] = {
    "pyav": PyAVDecoder,
    "decord": DecordDecoder,
    "torchcodec": TorchCodecDecoder,
}
