"""Decodes videos with decord, an optional package."""

import importlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import BrokenMediaError, undecodable
from datamodules.media.decoded_frames import DecodedFrames, FrameSize, Pixels, decode_in_portions
from datamodules.media.decoders.orientation_check import check_orientation
from datamodules.media.decoders.pyav_decoder import read_video_timeline

_TOLERANCE_MS = 2


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
    """An open video. decord reads the file into memory and decodes from the first frame, because its seeks miss frames.

    decord numbers frames without reading their times, and returns wrong frames of some files. So PyAV reads the times,
    frames are counted from the first one without a seek, and a file is refused if decord lists other frames, or if it
    must be mirrored.

    Source: https://github.com/dmlc/decord (0.6.0 is its last release; it can hang on a container that lists more frames
    than it holds: its issues 269 and 373; its issues 24 and 91 tell of wrong frames after a seek).

    Args:
        file: The video's file.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.

    Raises:
        ImportError: decord is not installed.
        BrokenMediaError: The bytes are no complete video, or decord lists other frames than the file has.
    """

    def __init__(self, file: BinaryIO, size: FrameSize, where: str) -> None:
        decord = import_backend()
        self._size = size
        self._where = where
        self._error = decord.DECORDError
        self._timeline = read_video_timeline(file, size, where)
        check_orientation(file, size, self._timeline, "decord", where)
        file.seek(0)
        try:
            self._reader = decord.VideoReader(file, num_threads=1)
            times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))  # [frames, start and end]
        except (self._error, RuntimeError, OverflowError) as error:
            raise BrokenMediaError(undecodable(where, error)) from error
        self._check_times(times)
        self._position = 0

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """See ``VideoDecoder``."""
        return self._timeline.frame_ms

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self._timeline.duration_ms

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        self._reader.seek(0)
        self._position = 0
        pixels = decode_in_portions(indices, self._decode, self._size, self._where)
        return DecodedFrames(pixels, self.frame_ms[list(indices)])

    def _decode(self, indices: list[int]) -> Pixels:
        pictures = []
        try:
            for index in indices:
                for _ in range(index - self._position):  # its skip_frames seeks
                    self._reader.next()
                pictures.append(self._reader.next().asnumpy())
                self._position = index + 1
        except (self._error, RuntimeError, StopIteration) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error
        return np.stack(pictures)

    def _check_times(self, times: NDArray[np.float64]) -> None:
        expected = self.frame_ms
        agree = not self._timeline.order_is_guessed and len(times) == len(expected)
        if agree:
            found = (times[:, 0] - times[0, 0]) * 1000
            agree = bool(np.abs(found - expected).max() <= _TOLERANCE_MS)
        if not agree:
            raise BrokenMediaError(
                f"{self._where}: decord lists {len(times)} frames at other times than the {len(expected)} that the "
                "file shows; encode the video again or choose the backend 'pyav'"
            )
