"""The process that decodes for another one. It is started by ``decoding_process``, not by hand.

It gets requests over a socket, reads the shard itself, and leaves the frames in a file in memory that both processes
hold, whose pages are used again and again. It imports no torch, so it starts within a fraction of a second. It ends
when the other side is gone, stuck or not.

    python -m datamodules.media.decoding_server SOCKET MEMORY SETTINGS
"""

import contextlib
import fcntl
import importlib
import json
import mmap
import os
import resource
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.errors import SampleError, ShardError
from datamodules.media.decoded_frames import DecodedFrames, Pixels
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.frame_sampling import check_every_frame, sample_frames
from datamodules.media.pictures import read_image

_KEPT_BYTES = 1 << 26
"""What the shared memory is not shrunk below: fresh pages cost more than the frames' way through them."""


def main() -> None:
    """Serve one other process until it is gone."""
    connection, memory = Connection(int(sys.argv[1])), int(sys.argv[2])
    settings = Decoding(**json.loads(sys.argv[3]))
    _stand_alone()
    try:
        if settings.backend != "pyav":
            importlib.import_module(f"datamodules.media.decoders.{settings.backend}_decoder").import_backend()
    except ImportError as error:
        _send(connection, {"error": "ImportError", "message": str(error)})
        return
    _limit_memory(settings.memory_mb)
    _send(connection, {"ready": True})
    while True:
        try:
            request = MediaRequest.from_bytes(connection.recv_bytes())
            with _ending_with(connection):
                reply = _answer(request, settings.backend, memory)
            _send(connection, reply)
        except (EOFError, ConnectionError):
            return


def _stand_alone() -> None:
    """Let nothing but the other side's end or a kill end this process."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):  # Slurm sends these to every process of a job
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # max_pixels is checked instead


@contextlib.contextmanager
def _ending_with(connection: Connection) -> Iterator[None]:
    """Have the kernel end this process when the other side is gone, however deep in a library it hangs.

    Nothing is sent to it while it decodes, so the only event that its end of the socket can signal is a hang-up.
    """
    descriptor = connection.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    if connection.poll():  # it went before the signal was asked for
        raise EOFError
    yield
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _limit_memory(megabytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * mmap.PAGESIZE + megabytes * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _answer(request: MediaRequest, backend: str, memory: int) -> dict[str, Any]:
    try:
        frames = _decode(request, backend)
        _lay_down(frames.pixels, memory)
    except (SampleError, ShardError) as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return {"error": "MemoryError", "message": ""}
    except Exception as error:  # any bytes may be in there: what a library has not foreseen must not end the run
        reason = f"{request.where}: the decoder failed with {type(error).__name__}: {error}; leave the sample out"
        return {"error": "CrashedDecoderError", "message": reason}
    return {"shape": frames.pixels.shape, "frame_ms": frames.frame_ms.tolist()}


def _decode(request: MediaRequest, backend: str) -> DecodedFrames:
    with request.media.open() as file:
        if request.is_image:
            return read_image(file, size=request.size, where=request.where)
        if request.every_frame:
            return check_every_frame(file, size=request.size, where=request.where)
        return sample_frames(
            file,
            request.sampling,
            backend=backend,
            start_ms=request.start_ms,
            end_ms=request.end_ms,
            size=request.size,
            where=request.where,
        )


def _lay_down(pixels: Pixels, memory: int) -> None:
    kept = min(os.fstat(memory).st_size, _KEPT_BYTES)
    os.ftruncate(memory, max(pixels.nbytes, kept))
    with open(memory, "wb", closefd=False) as file:
        file.seek(0)
        file.write(np.ascontiguousarray(pixels).data)


def _send(connection: Connection, reply: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
