"""Reads the header of an npy file: what shape its frames have and where they start.

NumPy's own parser reads it. Nothing in the file is ever unpickled.
"""

import math
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from datamodules.errors import BrokenMediaError

MAX_FRAME_INTERVAL_MS = 1e9
"""Longest time from one frame to the next; 11 days."""

_READ_HEADER = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


class NpyHeader(NamedTuple):
    """Where the frames of an array are."""

    shape: tuple[int, int, int, int]  # [T, H, W, 3]
    start: int  # byte at which the pixels start


def array_duration_ms(num_frames: int, interval_ms: float) -> int:
    """When the last frame of an array ends, in milliseconds after the first one starts."""
    return max(1, round(num_frames * interval_ms))


def read_npy_header(file: BinaryIO, size: int, where: str) -> NpyHeader:
    """Read and check the header.

    Args:
        file: The npy file, at its first byte.
        size: Bytes of the file.
        where: Shard and key or path, for messages.

    Raises:
        BrokenMediaError: It is no uint8 ``[T, H, W, 3]`` in C order, or has too few or too many bytes.
    """
    try:
        version = npy_format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"npy version {version} is not read")
        shape, fortran_order, dtype = _READ_HEADER[version](file)
    except Exception as error:  # NumPy's parser tokenizes and evaluates a literal, which fails in many ways
        raise BrokenMediaError(f"{where}: no npy array ({error}); write it again with numpy.save") from error
    start = file.tell()
    if dtype != np.uint8 or fortran_order or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        order = "Fortran" if fortran_order else "C"
        raise BrokenMediaError(
            f"{where}: the npy array must be uint8 [T, H, W, 3] in C order, got {dtype} {list(shape)} in {order}; "
            "store cached features as safetensors, and other arrays as frames"
        )
    if math.prod(shape) != size - start:
        raise BrokenMediaError(
            f"{where}: the npy array {list(shape)} needs {math.prod(shape)} bytes, but {size - start} are there; "
            "fetch or write it again"
        )
    num_frames, height, width, channels = shape
    return NpyHeader((num_frames, height, width, channels), start)
