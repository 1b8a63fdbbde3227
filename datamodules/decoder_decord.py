"""Decodes videos with decord, an optional package that is often faster on short clips."""

import importlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.decoded_frames import FrameSize, Pixels, decode_in_portions
from datamodules.errors import BrokenMediaError, undecodable


def import_backend() -> Any:
    """The package.

    Raises:
        ImportError: decord is not installed.
    """
    try:
        return importlib.import_module("decord")
    except ImportError as error:
        raise ImportError(
            "the video backend 'decord' needs the package decord (pip install 'decord==0.6.0', x86-64 Linux only); "
            "install it or choose the backend 'pyav'"
        ) from error


class DecordDecoder:
    """An open video. The whole file is read into memory.

    Source: https://github.com/dmlc/decord (0.6.0 is its last release; it does not turn the films of phones upright,
    and can hang on a container that lists more frames than it holds: its issues 269 and 373).

    Args:
        file: The video's file.
        size: Largest frame, and how large frames need to be.
        where: Shard and key, for messages.

    Raises:
        ImportError: decord is not installed.
        BrokenMediaError: The bytes are no whole video.
    """

    def __init__(self, file: BinaryIO, size: FrameSize, where: str) -> None:
        decord = import_backend()
        self._size = size
        self._where = where
        try:
            self._reader = decord.VideoReader(file, num_threads=1)
            times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))  # [frames, start and end]
        except (decord.DECORDError, RuntimeError) as error:
            raise BrokenMediaError(undecodable(where, _first_line(error))) from error
        if not len(times):
            raise BrokenMediaError(f"{where}: the video has no frame")
        self._duration_ms = max(1, round(float(times[-1, 1] - times[0, 0]) * 1000))
        self._starts: NDArray[np.int64] = np.rint((times[:, 0] - times[0, 0]) * 1000).astype(np.int64)
        self._error = decord.DECORDError

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """See ``VideoDecoder``."""
        return self._starts

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self._duration_ms

    def frames(self, indices: Sequence[int]) -> Pixels:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        return decode_in_portions(indices, self._decode, self._size, self._where)

    def _decode(self, indices: list[int]) -> Pixels:
        try:
            pictures: Pixels = self._reader.get_batch(indices).asnumpy()
        except (self._error, RuntimeError) as error:
            raise BrokenMediaError(undecodable(self._where, _first_line(error))) from error
        return pictures


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]  # decord adds a stack trace of its C++ code
