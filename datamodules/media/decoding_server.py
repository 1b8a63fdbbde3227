"""The program of the process that decodes for another one. ``decoding_process`` starts it; do not start it by hand.

It gets requests over a socket, reads the shard itself, and writes the frames to a file in shared memory, whose pages
are reused. It does not import torch, so it starts within a fraction of a second. It ends when its client has ended,
even if a decoder hangs.

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

_MIN_MEMORY_BYTES = 1 << 26
"""The shared memory is not made smaller than this: new pages cost more time than copying the frames."""


def main() -> None:
    """Serve one client process until it ends."""
    connection, memory = Connection(int(sys.argv[1])), int(sys.argv[2])
    settings = Decoding(**json.loads(sys.argv[3]))
    _ignore_signals()
    try:
        if settings.backend != "pyav":
            importlib.import_module(f"datamodules.media.decoders.{settings.backend}_decoder").import_backend()
    except ImportError as error:
        _send(connection, {"error": "ImportError", "message": str(error)})
        return
    _limit_memory(settings.memory_mb)
    with contextlib.suppress(EOFError, ConnectionError):  # the client has ended
        _send(connection, {"ready": True})
        while True:
            request = MediaRequest.from_bytes(connection.recv_bytes())
            with _end_with_client(connection):
                reply = _answer(request, settings.backend, memory)
            _send(connection, reply)


def _ignore_signals() -> None:
    """Let this process end only when its client ends, or by a kill."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):  # Slurm sends these to every process of a job
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # ``FrameSize.check`` is used instead


@contextlib.contextmanager
def _end_with_client(connection: Connection) -> Iterator[None]:
    """Let the kernel end this process when its client ends, even while a library does not return.

    The client sends nothing while this process decodes, so the only event on the socket is its close.
    """
    descriptor = connection.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    if connection.poll():  # the client ended before the signal was requested
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
        _write_frames(frames.pixels, memory)
    except (SampleError, ShardError) as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return {"error": "MemoryError", "message": ""}
    except Exception as error:  # a file may hold any bytes: an unexpected error of a library must not end the run
        reason = f"{request.where}: the decoder failed with {type(error).__name__}: {error}; leave the sample out"
        return {"error": "CrashedDecoderError", "message": reason}
    times = frames.frame_ms.tolist()
    return {"shape": frames.pixels.shape, "frame_ms": times, "picture_size": frames.picture_size}


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


def _write_frames(pixels: Pixels, memory: int) -> None:
    least = min(os.fstat(memory).st_size, _MIN_MEMORY_BYTES)
    os.ftruncate(memory, max(pixels.nbytes, least))
    with open(memory, "wb", closefd=False) as file:
        file.seek(0)
        file.write(np.ascontiguousarray(pixels).data)


def _send(connection: Connection, reply: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
