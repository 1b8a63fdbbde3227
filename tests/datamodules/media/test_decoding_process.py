"""Decoders that hang, crash or gorge take their own process with them, and nothing else."""

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import (
    BrokenMediaError,
    CrashedDecoderError,
    OversizedMediaError,
    SampleError,
    ShardError,
    StuckDecoderError,
)
from datamodules.media import decoding_process
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling, sample_frames
from datamodules.media.pictures import read_image
from datamodules.shards.media_range import MediaRange
from tests.fixtures_data import make_clip, make_gif, make_image

ROOT = Path(__file__).resolve().parents[3]
SAMPLING = FrameSampling(num_frames=4)


def request(path: Path, data: bytes | None = None, **changes: Any) -> MediaRequest:
    """A request for a file, with bytes around it as in a shard."""
    content = make_clip(9) if data is None else data
    path.write_bytes(b"before" + content + b"after")
    plain = MediaRequest(MediaRange(path, 6, len(content)), False, SAMPLING, FrameSize(), f"shard x.tar, key '{path}'")
    return plain._replace(**changes)


def server_pid(settings: Decoding) -> int:
    return decoding_process._servers[settings]._process.pid


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether the process is gone, or a zombie that waits for a parent outside the test, before so many seconds."""
    for _ in range(int(seconds / 0.05)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoding]:
    settings = Decoding("decord", timeout_s=3, memory_mb=256)
    monkeypatch.setattr(decoding_process, "_SERVER", "tests.datamodules.media.faulty_decoding_server")
    yield settings
    if settings in decoding_process._servers:
        decoding_process._servers.pop(settings).kill()


@pytest.fixture
def ask(faulty: Decoding, tmp_path: Path) -> Any:
    clip = request(tmp_path / "a.mp4")

    def ask(how: str) -> int:
        """Have a sample decoded that does this; give how many samples its process has decoded."""
        return int(decode_media(clip._replace(where=f"key {how}"), faulty).pixels[0, 0, 0, 0])

    return ask


@pytest.mark.parametrize("container", ["mp4", "webm", "gif"])
def test_the_process_gives_the_frames_that_decoding_here_gives(tmp_path: Path, container: str) -> None:
    codec = {"mp4": "libx264", "webm": "libvpx"}
    data = make_gif(30) if container == "gif" else make_clip(30, container=container, codec=codec[container])
    size = FrameSize(side=20)
    asked = request(tmp_path / "a", data, start_ms=1000, end_ms=5000, size=size)
    ours = decode_media(asked, Decoding())
    here = sample_frames(io.BytesIO(data), SAMPLING, start_ms=1000, end_ms=5000, size=size)
    assert ours.pixels.shape == (4, 20, 27, 3)
    assert np.array_equal(ours.pixels, here.pixels)
    assert ours.frame_ms.tolist() == here.frame_ms.tolist()


@pytest.mark.parametrize("widths", [(4, 4, 4), (4, 400, 2), (400, 4, 400), (300, 301, 300)])
def test_images_are_decoded_there_too_and_results_stay_what_they_were(tmp_path: Path, widths: tuple[int, ...]) -> None:
    images = [make_image(50 + 60 * number, width=width) for number, width in enumerate(widths)]
    requests = [request(tmp_path / f"{number}.png", data, is_image=True) for number, data in enumerate(images)]
    results = [decode_media(asked, Decoding()).pixels for asked in requests]
    for data, result in zip(images, results, strict=True):
        assert np.array_equal(result, read_image(io.BytesIO(data)).pixels)


def test_a_sample_s_own_errors_come_back_with_their_kind_and_words(tmp_path: Path) -> None:
    with pytest.raises(BrokenMediaError, match=r"key '.*b\.mp4': .*cannot be decoded"):
        decode_media(request(tmp_path / "b.mp4", make_clip(3)[:400]), Decoding())
    pid = server_pid(Decoding())
    with pytest.raises(SampleError, match="is after the video's end") as caught:
        decode_media(request(tmp_path / "a.mp4", start_ms=10**6), Decoding())
    assert type(caught.value) is SampleError
    with pytest.raises(ShardError, match="ends before byte"):
        decode_media(request(tmp_path / "c.mp4")._replace(media=MediaRange(tmp_path / "c.mp4", 0, 10**6)), Decoding())
    assert server_pid(Decoding()) == pid


def test_a_file_that_was_removed_from_a_cache_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    asked = request(tmp_path / "a.mp4")

    class Vanishing(MediaRange):
        def open_file(self) -> io.FileIO:
            file = super().open_file()
            self.path.unlink()
            return file

    assert len(decode_media(asked._replace(media=Vanishing(*asked.media)), Decoding()).pixels) == 4


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_a_stuck_decoder_is_killed_in_time_and_the_next_sample_decoded(ask: Any, faulty: Decoding, how: str) -> None:
    assert ask("well") == 1
    pid = server_pid(faulty)
    with pytest.raises(StuckDecoderError, match=rf"key {how}: the decoder \(decord\) did not finish within 3 s"):
        ask(how)
    assert not Path(f"/proc/{pid}").exists()
    assert ask("well") == 1  # in a new process


def test_time_that_the_machine_did_not_let_it_run_is_not_counted(
    ask: Any, monkeypatch: pytest.MonkeyPatch, faulty: Decoding
) -> None:
    assert ask("well") == 1
    waited = itertools.chain([5.0, 7.0], itertools.repeat(9.0))
    monkeypatch.setattr(decoding_process, "_seconds_without_processor", lambda pid: next(waited))
    start = time.monotonic()
    with pytest.raises(StuckDecoderError):
        ask("hang")
    assert time.monotonic() - start > faulty.timeout_s + 3.9


def test_a_process_that_runs_alone_waits_for_no_other() -> None:
    before = decoding_process._seconds_without_processor(os.getpid())
    time.sleep(0.2)
    assert 0 <= decoding_process._seconds_without_processor(os.getpid()) - before < 0.2


@pytest.mark.parametrize(
    ("how", "reason"), [("segfault", "SIGSEGV"), ("killed", "SIGKILL, as .* memory runs out"), ("leave", "status 3")]
)
def test_a_crash_is_the_sample_s_and_says_how(ask: Any, how: str, reason: str) -> None:
    for _ in range(2):  # in a new process, and in a used one
        with pytest.raises(CrashedDecoderError, match=rf"key {how}: .* ended its process \(.*{reason}"):
            ask(how)
        assert ask("well") == 1


def test_what_earlier_samples_left_behind_is_not_held_against_one(ask: Any) -> None:
    assert ask("well") == 1
    assert ask("segfault-when-used") == 1


def test_memory_is_bounded(ask: Any) -> None:
    with pytest.raises(OversizedMediaError, match="key gorge: decoding takes more memory than memory_mb 256"):
        ask("gorge")
    assert ask("well") == 1


def test_what_no_library_foresaw_is_the_sample_s_error(ask: Any, faulty: Decoding) -> None:
    with pytest.raises(CrashedDecoderError, match="key surprise: the decoder failed with KeyError: 'what nobody"):
        ask("surprise")
    pid = server_pid(faulty)
    assert ask("print") == 2
    assert server_pid(faulty) == pid


def test_an_interrupted_request_does_not_answer_the_next(
    ask: Any, faulty: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("well") == 1
    server = decoding_process._servers[faulty]

    def interrupted(timeout: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(server._connection, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask("well")
    assert ask("well") == 1
    assert server_pid(faulty) != server._process.pid


def test_killed_servers_leave_nothing_open(ask: Any) -> None:
    assert ask("well") == 1
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(CrashedDecoderError):
            ask("leave")
    assert ask("well") == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_signals_to_a_whole_job_leave_the_server_at_work(ask: Any, faulty: Decoding) -> None:
    assert ask("well") == 1
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        os.kill(server_pid(faulty), name)
    assert ask("well") == 2


def _decode_in_child(asked: MediaRequest, settings: Decoding, results: Any) -> None:
    frames = decode_media(asked, settings)
    results.put((server_pid(settings), int(frames.pixels.sum())))


def test_a_forked_worker_has_a_server_of_its_own_which_ends_with_it(tmp_path: Path) -> None:
    asked, settings = request(tmp_path / "a.mp4"), Decoding()
    total = int(decode_media(asked, settings).pixels.sum())
    pid = server_pid(settings)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    worker = fork.Process(target=_decode_in_child, args=(asked, settings, results), daemon=True)
    worker.start()
    childs_server, childs_total = results.get(timeout=60)
    worker.join()
    assert childs_server != pid
    assert childs_total == total == int(decode_media(asked, settings).pixels.sum())
    assert not Path(f"/proc/{childs_server}").exists()  # waited for: no zombie either
    assert server_pid(settings) == pid


ORPHANING = """
import os, signal, sys, threading, time
from pathlib import Path
from datamodules.media import decoding_process
from datamodules.media.decoding import Decoding, MediaRequest

decoding_process._SERVER = "tests.datamodules.media.faulty_decoding_server"
settings, asked = Decoding("decord", timeout_s=600), MediaRequest.from_bytes({asked!r})
decoding_process.decode_media(asked._replace(where="key well"), settings)
print(decoding_process._servers[settings]._process.pid, flush=True)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
decoding_process.decode_media(asked, settings)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["well", "hang", "hang-in-c"])
def test_the_server_ends_when_its_process_is_killed(tmp_path: Path, how: str) -> None:
    code = ORPHANING.format(asked=request(tmp_path / "a.mp4", where=f"key {how}").to_bytes())
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert ends(int(run.stdout))


def test_a_missing_backend_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match=r"pip install 'decord==0.6.0'.*or choose the backend 'pyav'"):
        decode_media(request(tmp_path / "a.mp4"), Decoding("decord", timeout_s=3))


def test_a_server_that_cannot_start_is_no_sample_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_process, "_SERVER", "datamodules.not_there")
    with pytest.raises(RuntimeError, match=r"could not be started \(exit status 1\)"):
        decode_media(request(tmp_path / "a.mp4"), Decoding(timeout_s=4))


def test_the_server_starts_without_torch() -> None:
    code = "import sys, datamodules.media.decoding_server; assert not {'torch', 'torchvision'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("wrong", [{"backend": "opencv"}, {"timeout_s": 0}, {"max_pixels": 0}, {"memory_mb": -1}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"choose one of pyav, decord, torchcodec|must be positive"):
        Decoding(**wrong)
