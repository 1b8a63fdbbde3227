"""Video decoders behind one small interface. A new backend is one file and one line in ``_BACKENDS``.

Only the chosen frames are kept, and one thread decodes: the data loader's worker processes are what runs side by side.
A decoder that hangs or crashes takes nothing with it: see ``decoding_process``.
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
        """When every frame is first shown, increasing, milliseconds after the first one."""

    @property
    def duration_ms(self) -> int:
        """When the last frame ends."""

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        """Decode the frames of these increasing indices, at the size that was asked for.

        Where a packet of the file shows no frame, the one before it comes, at its own time, and each frame once.
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
        file: The video's file; it stays the caller's to close, after the frames were decoded.
        backend: ``pyav``, ``decord`` or ``torchcodec``.
        size: Largest frame, and how large frames need to be.
        where: Shard and key, for messages.

    Returns:
        The open video.

    Raises:
        ValueError: There is no such backend.
        ImportError: The backend is not installed.
        BrokenMediaError: The bytes are no whole video.
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
