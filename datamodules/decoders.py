"""Video decoders behind one small interface. A new backend is one file and one line in ``_BACKENDS``.

Bytes come from memory, only the chosen frames are kept, and one thread decodes: the data loader's worker processes
are what runs side by side.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from datamodules.decoder_decord import DecordDecoder
from datamodules.decoder_pyav import PyAVDecoder


class VideoDecoder(Protocol):
    """An open video."""

    @property
    def frame_ms(self) -> Sequence[int]:
        """When every frame is first shown, increasing, milliseconds after the first one."""

    @property
    def duration_ms(self) -> int:
        """When the last frame ends."""

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Decode the frames of these increasing indices, uint8 ``[T, 3, H, W]``."""


def open_video(data: bytes, backend: str = "pyav", *, where: str = "video") -> VideoDecoder:
    """Open a video from memory.

    Args:
        data: The file's bytes.
        backend: ``pyav`` or ``decord``.
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
    return _BACKENDS[backend](data, where)


_BACKENDS: dict[str, Callable[[bytes, str], VideoDecoder]] = {"pyav": PyAVDecoder, "decord": DecordDecoder}
