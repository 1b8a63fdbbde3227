"""Sources that can be captioned while they play, and what is said of those that cannot."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from membridge.live.video_sources import DecodedPicture, check_source, open_source, shown_name
from tests.fixtures_data import make_clip

FFMPEG = ["ffmpeg", "-v", "error", "-nostdin"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(16, fps=8))
    return path


def pictures_of(source: str, timeout_s: float = 10.0, **options: str) -> list[DecodedPicture]:
    opened = open_source(source, FrameSize(), timeout_s, options)
    try:
        return list(opened.pictures())
    finally:
        opened.close()


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("mpegts", "libx264"), ("matroska", "libx264")])
def test_every_frame_of_a_file_comes(container: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "a: strange?name#.bin"
    path.write_bytes(make_clip(10, container=container, codec=codec))
    found = pictures_of(str(path))
    assert len(found) == 10
    assert found[0].pixels().shape == (48, 64, 3)


def test_a_file_is_not_live_and_a_frame_of_a_large_file_is_scaled_down(clip: Path) -> None:
    opened = open_source(str(clip), FrameSize(side=8), 5.0, {})
    assert not opened.is_live
    assert opened.period_ms == 125.0
    assert next(iter(opened.pictures())).pixels().shape == (8, 11, 3)


def test_damaged_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    data = bytearray(make_clip(200, container="mpegts", keyframe_interval=10))
    for position in range(len(data) // 3, len(data) // 3 + 4000):
        data[position] ^= 0x5A if position % 188 > 20 else 0
    path = tmp_path / "damaged.ts"
    path.write_bytes(data)
    opened = open_source(str(path), FrameSize(), 5.0, {})
    assert 100 < len(list(opened.pictures())) <= 200


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.mp4", FileNotFoundError, "there is no file none.mp4"),
        (".", ValueError, "is a folder; give the file of a video"),
        ("camera:x", ValueError, "write camera:0 for the first one"),
        ("ftp://host/a.mp4", ValueError, "ftp://host/a.mp4 has an unknown form"),
        ("concat://a.mp4|b.mp4", ValueError, "has an unknown form"),
    ],
)
def test_what_is_no_source_is_refused(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("|", r"\|")):
        check_source(source)


def test_a_camera_without_opencv_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membridge.live.video_sources.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="a camera needs OpenCV: pip install opencv-python-headless"):
        check_source("camera:0")


class MadeCamera:
    """Two frames in blue, as OpenCV gives them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_frames = 0

    def isOpened(self) -> bool:
        return self.number == 0

    def read(self) -> tuple[bool, Any]:
        self.num_frames += 1
        frame = np.zeros((30, 40, 3), dtype=np.uint8)
        frame[..., 0] = 255
        return (True, frame) if self.num_frames < 3 else (False, None)

    def release(self) -> None:
        pass


def test_a_camera_is_read_in_rgb_with_times(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.SimpleNamespace(
        VideoCapture=MadeCamera,
        COLOR_BGR2RGB=4,
        cvtColor=lambda frame, _code: frame[..., ::-1].copy(),
        getTickCount=time.perf_counter_ns,
        getTickFrequency=lambda: 1e9,
    )
    monkeypatch.setitem(sys.modules, "cv2", made)
    found = pictures_of("camera:0")
    assert [each.size for each in found] == [(40, 30)] * 2
    assert found[0].time_ms is not None
    assert found[1].time_ms is not None
    assert 0 <= found[0].time_ms <= found[1].time_ms < 10_000
    assert found[0].pixels()[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(BrokenMediaError, match="camera:1 cannot be opened; check that it is there"):
        open_source("camera:1", FrameSize(), 1.0, {})


def test_a_playlist_does_not_make_a_file_open_others(tmp_path: Path, clip: Path) -> None:
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {clip.name}\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BrokenMediaError, match="cannot be read as a video"):
            pictures_of(str(tmp_path / name))


def test_a_song_and_a_text_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video" * 1000)
    with pytest.raises(BrokenMediaError, match=r"text\.mp4 cannot be read as a video .*; give the file of a video"):
        pictures_of(str(tmp_path / "text.mp4"))


def test_nobody_who_listens_is_told_without_the_password() -> None:
    for form in ("rtsp", "http"):
        with pytest.raises(BrokenMediaError) as refused:
            pictures_of(f"{form}://user:secret@127.0.0.1:{free_port()}/live")
        assert "nobody listens there" in str(refused.value)
        assert "secret" not in str(refused.value)
    assert shown_name("rtsp://user:secret@host/live") == "rtsp://host/live"


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_file_of_a_web_server_is_not_live_and_a_missing_one_is_told(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    )
    with web_server(tmp_path) as address:
        opened = open_source(f"{address}/clip.mp4", FrameSize(), 5.0, {})
        assert not opened.is_live
        assert len(list(opened.pictures())) == 16
        opened.close()
        with pytest.raises(BrokenMediaError, match=r"cannot be opened \(.*404.*\); check the address"):
            pictures_of(f"{address}/none.mp4")
        with contextlib.suppress(BrokenMediaError):  # a playlist of a server names a file of this machine
            assert pictures_of(f"{address}/list.m3u8") == []


@pytest.mark.slow
def test_a_stream_over_http_is_live_and_ends(clip: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/live"
    command = [*FFMPEG, "-re", "-i", str(clip), "-c", "copy", "-f", "mpegts", "-listen", "1", address]
    with running(command):
        time.sleep(1.0)
        opened = open_source(address, FrameSize(), 10.0, {})
        assert opened.is_live
        assert len(list(opened.pictures())) == 16


def listened(port: int, *, send: list[str]) -> Iterator[DecodedPicture]:
    """Listen for RTSP, and let ffmpeg push a clip."""
    address = f"rtsp://127.0.0.1:{port}/camera"

    def push() -> None:
        time.sleep(1.0)
        subprocess.run([*FFMPEG, *send, "-f", "rtsp", "-rtsp_transport", "tcp", address], check=False)

    thread = threading.Thread(target=push)
    thread.start()
    opened = open_source(address, FrameSize(), 20.0, {"rtsp_flags": "listen", "listen_timeout": "15"})
    assert opened.is_live
    yield from opened.pictures()
    opened.close()
    thread.join(20)


@pytest.mark.slow
def test_rtsp_is_read_until_the_sender_ends(clip: Path) -> None:
    found = list(listened(free_port(), send=["-re", "-i", str(clip), "-c", "copy"]))
    assert 14 <= len(found) <= 16
    assert found[-1].pixels().shape == (48, 64, 3)


@pytest.mark.slow
def test_a_sender_that_is_killed_ends_the_stream(clip: Path) -> None:
    port = free_port()
    address = f"rtsp://127.0.0.1:{port}/camera"
    command = [*FFMPEG, "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "rtsp"]
    started: list[subprocess.Popen[bytes]] = []

    def push() -> None:
        time.sleep(1.0)
        started.append(subprocess.Popen([*command, "-rtsp_transport", "tcp", address]))

    threading.Thread(target=push).start()
    opened = open_source(address, FrameSize(), 20.0, {"rtsp_flags": "listen", "listen_timeout": "15"})
    num_frames = 0
    for _ in opened.pictures():
        num_frames += 1
        if num_frames == 10:
            started[0].kill()
    started[0].wait()
    assert num_frames >= 10
