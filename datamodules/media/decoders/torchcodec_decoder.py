"""Decodes videos with torchcodec, an optional package of the PyTorch project."""

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
    """The package's decoders.

    Raises:
        ImportError: torchcodec or the FFmpeg libraries that it looks for are not installed.
    """
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError) as error:  # OSError: it was built for another version of torch
        raise ImportError(
            "the video backend 'torchcodec' needs the package torchcodec (pip install 'torchcodec>=0.12,<0.14'; newer "
            "ones need a newer torch) and FFmpeg's shared libraries; install them or choose the backend 'pyav'. It "
            f"said: {str(error).strip()[:200]}"
        ) from error


class TorchCodecDecoder:
    """An open video. PyAV reads the times of frames and checks that the file is complete; torchcodec decodes.

    Args:
        file: The video's file.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.

    Raises:
        ImportError: torchcodec is not installed.
        BrokenMediaError: The bytes are no complete video.
    """

    def __init__(self, file: BinaryIO, size: FrameSize, where: str) -> None:
        decoders = import_backend()
        self._size = size
        self._where = where
        self._timeline = read_video_timeline(file, size, where)
        if self._timeline.order_is_guessed:
            raise BrokenMediaError(
                f"{where}: the file stores no times of its frames, and torchcodec guesses their order; encode it again "
                "or choose the backend 'pyav'"
            )
        check_orientation(file, size, self._timeline, "torchcodec", where)
        file.seek(0)
        try:
            self._decoder = decoders.VideoDecoder(
                file,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",
                stream_index=self._timeline.stream_index,
            )
        except (RuntimeError, ValueError) as error:
            raise BrokenMediaError(undecodable(where, error)) from error

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
            BrokenMediaError: A chosen frame cannot be decoded, or torchcodec numbers the frames differently.
        """
        pixels = decode_in_portions(indices, self._decode, self._size, self._where)
        return DecodedFrames(pixels, self.frame_ms[list(indices)])

    def _decode(self, indices: list[int]) -> Pixels:
        try:
            batch = self._decoder.get_frames_at(indices)
        except (RuntimeError, IndexError) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error
        found_ms = (batch.pts_seconds.numpy() - float(self._timeline.shown[0] * self._timeline.time_base)) * 1000
        if np.abs(found_ms - self.frame_ms[indices]).max() > _TOLERANCE_MS:
            raise BrokenMediaError(
                f"{self._where}: torchcodec gives frames at {found_ms.round().tolist()} ms for those at "
                f"{self.frame_ms[indices].tolist()} ms; encode the video again or choose the backend 'pyav'"
            )
        pictures: Pixels = batch.data.numpy()
        return pictures
