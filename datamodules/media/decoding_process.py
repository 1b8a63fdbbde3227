"""Decodes media in a process of its own that can be killed.

A decoder may hang, crash or request any amount of memory on a damaged or hostile file, so none runs in the training
process or its data loader workers. Each of those starts one ``decoding_server`` when it first needs one. A server that
does not answer in time is killed, and only its sample is lost.

The worker waits while its server decodes, so the two use one core together. Linux only.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import (
    BrokenMediaError,
    CrashedDecoderError,
    OversizedMediaError,
    SampleError,
    ShardError,
    StuckDecoderError,
)
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.worker_signals import signals_held_in_children

_SERVER = "datamodules.media.decoding_server"
_START_S = 120.0  # on a busy node's network file system even Python starts slowly
_END_S = 2.0
_ERRORS = {
    error.__name__: error
    for error in (ShardError, SampleError, BrokenMediaError, OversizedMediaError, CrashedDecoderError)
}


def decode_media(request: MediaRequest, settings: Decoding) -> DecodedFrames:
    """Decode in this process's server for these settings; it is started if there is none.

    A sample that ends a server which decoded others before is retried once in a fresh process, in case earlier samples
    corrupted this one.

    Args:
        request: What to decode.
        settings: Backend and limits.

    Returns:
        The frames, copied out of the shared memory; equal to those that decoding in this process would give.

    Raises:
        StuckDecoderError: The decoder did not finish within ``timeout_s`` and was killed.
        CrashedDecoderError: Its process ended.
        OversizedMediaError: Frames or memory are beyond their limits.
        BrokenMediaError: The media cannot be decoded.
        SampleError: The requested part is not in the video.
        ShardError: The shard was removed.
        ImportError: The backend is not installed.
    """
    with _lock:
        server = _running_server(settings)
        try:
            return server.ask(request)
        except (CrashedDecoderError, OversizedMediaError):
            if server.is_running or server.num_asked == 1:
                raise
        return _running_server(settings).ask(request)


class _Server:
    """One running server."""

    def __init__(self, settings: Decoding) -> None:
        self.num_asked = 0
        self.is_running = True
        self._settings = settings
        self._memory = os.memfd_create("frames")
        self._connection, theirs = Pipe()
        with theirs, signals_held_in_children():
            shared = [theirs.fileno(), self._memory]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _SERVER, *map(str, shared), json.dumps(asdict(settings))],
                pass_fds=shared,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._wait_until_ready()

    def ask(self, request: MediaRequest) -> DecodedFrames:
        """See ``decode_media``. After any error other than the sample's own, the server has ended."""
        self.num_asked += 1
        with request.media.open_file() as file:  # the server reads it by descriptor, even if its name is removed
            media = request.media._replace(path=Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"))
            try:
                reply = self._exchange(request._replace(media=media))
            except BaseException:  # an interrupt too: a late answer would be read as the answer to the next request
                self.kill()
                raise
        if "error" in reply:
            self._raise(reply["error"], reply["message"], request.where)
        pixels = np.empty(reply["shape"], dtype=np.uint8)
        with open(self._memory, "rb", closefd=False) as file:  # opened again, because a file object has a buffer
            file.seek(0)
            file.readinto(pixels.data.cast("B"))
        size = reply["picture_size"]
        frame_ms = np.array(reply["frame_ms"], dtype=np.int64)
        return DecodedFrames(pixels, frame_ms, None if size is None else tuple(size))

    def stop(self) -> int | None:
        """Close the connection, which ends the process, and return its exit status."""
        self._close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int | None:
        """Kill the process and return its exit status; None if the kernel cannot end it."""
        self._close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_S)
        return None

    def _close(self) -> None:
        if self.is_running:
            self.is_running = False
            self._connection.close()
            os.close(self._memory)

    def _exchange(self, request: MediaRequest) -> dict[str, Any]:
        try:
            self._connection.send_bytes(request.to_bytes())
            self._wait(request.where)
            reply: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise CrashedDecoderError(
                f"{request.where}: the decoder ({self._settings.backend}) ended its process "
                f"({_exit_reason(self.stop())}); encode the media again or leave the sample out"
            ) from error
        return reply

    def _wait(self, where: str) -> None:
        timeout_s = self._settings.timeout_s
        start, started_waiting = time.monotonic(), _seconds_without_processor(self._process.pid)
        left = timeout_s
        while not self._connection.poll(left):
            waited = _seconds_without_processor(self._process.pid) - started_waiting
            left = timeout_s + waited - (time.monotonic() - start)
            if left <= 0:
                raise StuckDecoderError(
                    f"{where}: the decoder ({self._settings.backend}) did not finish within {timeout_s:g} s and was "
                    "killed; encode the media again or leave the sample out. If it is only long, raise the decoding's "
                    "timeout_s"
                )

    def _raise(self, error: str, message: str, where: str) -> None:
        if error != "MemoryError":
            raise _ERRORS[error](message)
        self.stop()  # after a failed allocation the process may be in any state
        raise OversizedMediaError(
            f"{where}: decoding takes more memory than memory_mb {self._settings.memory_mb} allows; scale the media "
            "down, ask for fewer frames, or raise memory_mb"
        )

    def _wait_until_ready(self) -> None:
        try:
            if not self._connection.poll(_START_S):
                self.kill()
                raise EOFError
            reply = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                f"the decoding process could not be started ({_exit_reason(self.stop())}); read what it printed"
            ) from error
        if "error" in reply:
            self.stop()
            raise ImportError(reply["message"])


def _seconds_without_processor(pid: int) -> float:
    """How long a process waited for a processor; 0 where the kernel does not report it.

    On an overloaded node that can be most of the time. A sample must not fail because of other programs there.
    """
    waited = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            waited += int(thread.read_text().split()[1])
    return waited / 1e9


def _exit_reason(status: int | None) -> str:
    if status is None:
        return "it does not react to being killed"
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, as the kernel sends where memory runs out" if name == "SIGKILL" else name


def _environment() -> dict[str, str]:
    """This process's environment, with this package on the path, one thread, and memory that stays allocated."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    allocator = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}  # glibc's
    return {**os.environ, **threads, **allocator, "PYTHONPATH": os.pathsep.join(paths)}


_lock = threading.Lock()
_servers: dict[Decoding, _Server] = {}


def _running_server(settings: Decoding) -> _Server:
    if not _servers:
        Finalize(None, _stop_servers, exitpriority=10)
    server = _servers.get(settings)
    if server is None or not server.is_running:
        server = _servers[settings] = _Server(settings)
    return server


def _stop_servers() -> None:
    for server in _servers.values():
        server.stop()


def _forget_servers() -> None:
    """Forget the servers after a fork: two processes must not use the same one."""
    global _lock
    _lock = threading.Lock()
    _servers.clear()


os.register_at_fork(after_in_child=_forget_servers)
