"""Video decoders behind one small interface. A new backend is one file and one line in ``_BACKENDS``.

Only the chosen frames are kept, and one thread decodes: the data loader's worker processes are what runs side by side.
A decoder that hangs or crashes takes nothing with it: see ``decoding_process``.
"""

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.decoded_frames import FrameSize, Pixels
from datamodules.decoder_decord import DecordDecoder
from datamodules.decoder_pyav import PyAVDecoder
from datamodules.decoder_torchcodec import TorchCodecDecoder
from datamodules.errors import BrokenMediaError

_EBML = b"\x1a\x45\xdf\xa3"
_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"}


class VideoDecoder(Protocol):
    """An open video."""

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """When every frame is first shown, increasing, milliseconds after the first one."""

    @property
    def duration_ms(self) -> int:
        """When the last frame ends."""

    def frames(self, indices: Sequence[int]) -> Pixels:
        """Decode the frames of these increasing indices, ``[T, H, W, 3]``, at the size that was asked for."""


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


def check_container(file: BinaryIO, where: str) -> None:
    """Let only real video containers reach a decoder.

    FFmpeg knows formats that are lists of other files and addresses (HLS playlists, concatenation scripts). Under the
    name of a video they would make it open any file or connection, so the format is told from the first bytes here.

    Raises:
        BrokenMediaError: The file is no MP4, MOV, Matroska, WebM, AVI or GIF.
    """
    file.seek(0)
    first = file.read(12)
    file.seek(0)
    is_riff = first[:4] == b"RIFF" and first[8:11] == b"AVI"
    if not (is_riff or first[4:8] in _MOV_BOXES or first[:4] == _EBML or first[:4] == b"GIF8"):
        raise BrokenMediaError(
            f"{where}: the file is no MP4, MOV, Matroska, WebM, AVI or GIF (it starts with {first!r}); convert it, or "
            "leave the sample out"
        )


_BACKENDS: dict[str, Callable[[BinaryIO, FrameSize, str], VideoDecoder]] = {
    "pyav": PyAVDecoder,
    "decord": DecordDecoder,
    "torchcodec": TorchCodecDecoder,
}
