"""A decoding server whose decord backend does what the end of a sample's name says. Started by tests in its place."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.media import decoding_server
from datamodules.media.decoded_frames import DecodedFrames, FrameSize
from datamodules.media.decoders import decord_decoder
from datamodules.media.decoders import open_video as decoders

_made = 0


class FaultyDecoder:
    """Its one pixel tells how many videos this process has opened."""

    frame_ms: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    duration_ms = 1000

    def __init__(self, file: BinaryIO, size: FrameSize, where: str) -> None:
        global _made
        _made += 1
        misbehave(where.split()[-1])

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        return DecodedFrames(np.full((1, 1, 1, 3), _made, dtype=np.uint8), self.frame_ms)


def misbehave(how: str) -> None:
    if how == "hang":
        time.sleep(3600)
    elif how == "hang-in-c":
        ctypes.PyDLL(None).sleep(3600)  # and holds the interpreter's lock
    elif how == "spin":
        while True:
            pass
    elif how == "segfault" or (how == "segfault-when-used" and _made > 1):
        ctypes.string_at(0)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "leave":
        os._exit(3)
    elif how == "surprise":
        raise KeyError("what nobody foresaw")
    elif how == "gorge":
        hoard = []
        while True:
            hoard.append(np.empty(8 << 20, dtype=np.uint8))
    elif how == "print":
        print("noise from a C library")
        sys.stdout.flush()


if __name__ == "__main__":
    decord_decoder.import_backend = lambda: None
    decoders._BACKENDS["decord"] = FaultyDecoder
    decoding_server.main()
