"""Opens what can be captioned while it plays: a file, the standard input, a camera, or a stream of the network."""

import contextlib
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av

from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize, Pixels, scale_down
from datamodules.media.frame_pixels import Orientation, PixelReader, stored_orientation
from datamodules.media.video_container import CONVERTED_FORMATS, best_video_stream

_NETWORK = re.compile(r"(rtsp|rtsps|https?)://", re.IGNORECASE)
_CAMERA = re.compile(r"camera:(\d+)")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_STREAM_FORMATS = f"{CONVERTED_FORMATS},hls,mpjpeg,h264,hevc,rtsp"
_STREAM_PROTOCOLS = "http,https,tcp,udp,rtp,srtp,tls,tls_psk,crypto,httpproxy"
_DEFAULT_PERIOD_MS = 40.0
_MOST_DAMAGED_IN_A_ROW = 1000
"""Packets; a stream that is joined between two keyframes begins with some that cannot be decoded."""
_GRACE_S = 2.0
"""The reader of the frames reports a time-out first; this one only ends the connection."""


class DecodedPicture(NamedTuple):
    """A decoded frame whose pixels are converted only if it is sampled."""

    time_ms: float | None  # in the stream; None if it has no time
    size: tuple[int, int]  # width and height in the stream
    pixels: Callable[[], Pixels]  # uint8 RGB [H, W, 3], upright


class VideoSource(Protocol):
    """An open source.

    Attributes:
        is_live: Whether it goes on while nobody reads.
        period_ms: Time from one frame to the next, as far as it is known.
        num_damaged: Frames and packets so far that could not be decoded.
    """

    is_live: bool
    period_ms: float
    num_damaged: int

    def pictures(self) -> Iterator[DecodedPicture]:
        """Its frames until it ends.

        Raises:
            BrokenMediaError: It cannot be read any further.
        """
        ...

    def close(self) -> None:
        """Give it up."""
        ...


def shown_name(source: str) -> str:
    """A source for messages, without the user and password of an address."""
    return "the standard input" if source == "-" else _LOGIN.sub("", source)


def check_source(source: str) -> None:
    """Refuse a source that cannot be opened, as far as that is known without opening it.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is a camera, and OpenCV is not installed.
        ValueError: It is no source.
    """
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError(
                "the standard input is a terminal; send a video to it: ... | python -m apps.caption MODEL -"
            )
        return
    if _CAMERA.fullmatch(source):
        if find_spec("cv2") is None:
            raise ImportError("a camera needs OpenCV: pip install opencv-python-headless")
        return
    if source.startswith("camera:"):
        raise ValueError(f"{source} is no camera; write camera:0 for the first one, camera:1 for the second")
    if _NETWORK.match(source):
        return
    if re.match(r"[a-zA-Z][\w+.-]+://", source):
        raise ValueError(f"{shown_name(source)} has an unknown form; give a file, -, camera:0, rtsp:// or http(s)://")
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {source} (seen from {Path.cwd()})")
    if path.is_dir():
        raise ValueError(f"{source} is a folder; give the file of a video")


def open_source(
    source: str, size: FrameSize, timeout_s: float, options: Mapping[str, str] | None = None
) -> VideoSource:
    """Open a source. May take as long as the time-out, and for a file or the standard input longer.

    Args:
        source: File, ``-`` for the standard input, ``camera:N``, or an address ``rtsp://``, ``http://``, ``https://``.
        size: Largest frame, and how large frames must be.
        timeout_s: Longest time without a packet of a network stream.
        options: FFmpeg's options for opening it, by name.

    Raises:
        BrokenMediaError: It cannot be opened, or has no video.
    """
    camera = _CAMERA.fullmatch(source)
    if camera is not None:
        return CameraSource(int(camera[1]), size)
    return ContainerSource(source, size, timeout_s, options or {})


class ContainerSource:
    """A file, the standard input or a stream of the network, decoded with FFmpeg's libraries.

    Frames that are damaged are left out and counted.

    Args:
        source: See ``open_source``.
        size: Largest frame, and how large frames must be.
        timeout_s: Longest time without a packet of a network stream.
        options: FFmpeg's options.

    Raises:
        BrokenMediaError: It cannot be opened, or has no video.
    """

    def __init__(self, source: str, size: FrameSize, timeout_s: float, options: Mapping[str, str]) -> None:
        self.num_damaged = 0
        self._where = shown_name(source)
        self._size = size
        self._pixels = PixelReader()
        self._orientation = Orientation()
        is_network = _NETWORK.match(source) is not None
        address, chosen = _address_and_options(source, is_network=is_network)
        timeout = timeout_s + _GRACE_S if is_network else None
        try:
            # Titles and comments in old encodings are common, and must not be an error.
            self._container: Any = av.open(
                address, metadata_errors="replace", options={**chosen, **options}, timeout=timeout
            )
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(_cannot_open(source, error)) from error
        try:
            self._stream = best_video_stream(self._container, self._where)
        except BrokenMediaError:
            self._container.close()
            raise
        self._stream.codec_context.options = {"max_pixels": str(size.max_pixels)}  # headers can lie
        rate = self._stream.average_rate
        self.period_ms = 1000 / float(rate) if rate else _DEFAULT_PERIOD_MS
        has_length = self._container.duration is not None
        self.is_live = is_network and (source.lower().startswith("rtsp") or not has_length)

    def pictures(self) -> Iterator[DecodedPicture]:
        """See ``VideoSource``."""
        damaged_in_a_row = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    self.num_damaged += 1
                    damaged_in_a_row += 1
                    if damaged_in_a_row > _MOST_DAMAGED_IN_A_ROW:
                        raise BrokenMediaError(f"{self._where}: none of its frames can be decoded any more") from error
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        self.num_damaged += 1
                    else:
                        damaged_in_a_row = 0
                        yield self._picture(frame)
        except av.error.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(f"{self._where} broke off ({_reason(error)})") from error

    def close(self) -> None:
        """See ``VideoSource``."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()

    def _picture(self, frame: Any) -> DecodedPicture:
        self._size.check(frame.width, frame.height, self._where)
        self._orientation = orientation = stored_orientation(frame) or self._orientation

        def pixels() -> Pixels:
            try:
                return self._pixels.read(frame, *self._size.scaled(frame.width, frame.height), orientation)
            except ValueError as error:
                raise BrokenMediaError(f"{self._where}: {error}") from error

        time_ms = None if frame.time is None else frame.time * 1000
        return DecodedPicture(time_ms, (frame.width, frame.height), pixels)


class CameraSource:
    """A camera, read with OpenCV.

    Args:
        number: Which camera, from 0.
        size: Largest frame, and how large frames must be.

    Raises:
        BrokenMediaError: There is no such camera, or it is in use.
    """

    def __init__(self, number: int, size: FrameSize) -> None:
        self.is_live = True
        self.num_damaged = 0
        self.period_ms = _DEFAULT_PERIOD_MS
        self._size = size
        self._where = f"camera:{number}"
        self._cv2: Any = import_module("cv2")
        self._camera = self._cv2.VideoCapture(number)
        if not self._camera.isOpened():
            self._camera.release()
            raise BrokenMediaError(f"{self._where} cannot be opened; check that it is there and in no other program")
        self._start = self._cv2.getTickCount()

    def pictures(self) -> Iterator[DecodedPicture]:
        """See ``VideoSource``. A frame has the time at which it was read."""
        while True:
            is_read, picture = self._camera.read()
            if not is_read:
                return
            height, width = picture.shape[:2]
            self._size.check(width, height, self._where)
            time_ms = 1000 * (self._cv2.getTickCount() - self._start) / self._cv2.getTickFrequency()

            def pixels(picture: Any = picture) -> Pixels:
                return scale_down(self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB), self._size)

            yield DecodedPicture(time_ms, (width, height), pixels)

    def close(self) -> None:
        """See ``VideoSource``."""
        self._camera.release()


def _address_and_options(source: str, *, is_network: bool) -> tuple[str, dict[str, str]]:
    """What FFmpeg opens, and its options. A playlist must not make FFmpeg open files or other forms of addresses."""
    if not is_network:
        address = "pipe:0" if source == "-" else f"file:{Path(source).absolute()}"
        return address, {"format_whitelist": CONVERTED_FORMATS, "protocol_whitelist": "file,pipe"}
    if source.lower().startswith("rtsp"):
        return source, {"rtsp_transport": "tcp"}  # over UDP pictures break where packets are lost
    return source, {"format_whitelist": _STREAM_FORMATS, "protocol_whitelist": _STREAM_PROTOCOLS}


def _cannot_open(source: str, error: OSError) -> str:
    name = shown_name(source)
    if isinstance(error, av.error.ConnectionRefusedError):
        return f"{name} cannot be opened: nobody listens there; check the address, and that the sender runs"
    if isinstance(error, av.error.HTTPClientError):
        return (
            f"{name} cannot be opened ({_reason(error)}); check the address, and the user and password if it needs them"
        )
    if source == "-" or _is_pipe(source):
        return (
            f"{name} cannot be read as a video ({_reason(error)}); a pipe needs a format that is read from its start, "
            "such as MPEG-TS or Matroska: ffmpeg ... -f mpegts - | ..."
        )
    if _NETWORK.match(source):
        return f"{name} cannot be opened ({_reason(error)}); check the address, and that it is a video"
    return f"{name} cannot be read as a video ({_reason(error)}); give the file of a video"


def _is_pipe(source: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(Path(source).stat().st_mode)
    return False


def _reason(error: OSError) -> str:
    """FFmpeg's reason without the address, which may have a password."""
    return error.strerror or type(error).__name__
