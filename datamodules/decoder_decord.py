"""Decodes videos with decord, an optional package that is often faster on short clips."""

import importlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import BrokenMediaError, undecodable


class DecordDecoder:
    """An open video.

    Source: https://github.com/dmlc/decord (0.6.0 is its last release; it does not turn the films of phones upright,
    and can hang on a container that lists more frames than it holds: its issues 269 and 373).

    Args:
        data: The file's bytes.
        where: Shard and key, for messages.

    Raises:
        ImportError: decord is not installed.
        BrokenMediaError: The bytes are no whole video.
    """

    def __init__(self, data: bytes, where: str) -> None:
        try:
            decord = importlib.import_module("decord")
        except ImportError as error:
            raise ImportError(
                "the video backend 'decord' needs the package decord (pip install 'decord==0.6.0', x86-64 Linux only); "
                "install it or choose the backend 'pyav'"
            ) from error
        self._where = where
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
            times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))  # [frames, start and end]
        except (decord.DECORDError, RuntimeError) as error:
            raise BrokenMediaError(undecodable(where, _first_line(error))) from error
        if not len(times):
            raise BrokenMediaError(f"{where}: the video has no frame")
        self._duration_ms = max(1, round(float(times[-1, 1] - times[0, 0]) * 1000))
        self._starts = np.rint((times[:, 0] - times[0, 0]) * 1000).astype(int)
        self._error = decord.DECORDError

    @property
    def frame_ms(self) -> list[int]:
        """See ``VideoDecoder``."""
        return [int(start) for start in self._starts]

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self._duration_ms

    def frames(self, indices: Sequence[int]) -> Tensor:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        try:
            pictures = self._reader.get_batch(list(indices)).asnumpy()
        except (self._error, RuntimeError) as error:
            raise BrokenMediaError(undecodable(self._where, _first_line(error))) from error
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]  # decord adds a stack trace of its C++ code
