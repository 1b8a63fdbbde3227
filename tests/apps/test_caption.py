"""``python -m apps.caption``: what it prints and writes while a video plays, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import webvtt

import membridge
from apps import caption
from apps.caption import INCOMPLETE
from command_errors import INTERRUPTED, REFUSED, run_and_exit
from components.segmenters.uniform import Uniform
from tests.documentation import ROOT
from tests.fixtures_data import make_clip, natural_frames
from tests.fixtures_exported import QUESTION, Trained

FFMPEG = ["ffmpeg", "-v", "error", "-nostdin"]
LINE = re.compile(r"\[(\d\d:\d\d) - (\d\d:\d\d)\] (.+)")


@pytest.fixture
def model(trained: Trained) -> str:
    return str(trained.exported)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with videos of 9 s and of 60 s, and a broken one."""
    frames = natural_frames(18, 84, 96)
    (tmp_path / "a.mp4").write_bytes(make_clip(18, width=96, height=84, fps=2, frames=frames))
    (tmp_path / "a.ts").write_bytes(make_clip(18, width=96, height=84, fps=2, frames=frames, container="mpegts"))
    for name, container in (("long.mp4", "mp4"), ("long.ts", "mpegts")):
        (tmp_path / name).write_bytes(make_clip(120, width=96, height=84, fps=2, container=container))
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:700])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ends(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status and what was printed to both outputs."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ending:
        run_and_exit(lambda: caption.main(arguments))
    printed = capfd.readouterr()
    assert isinstance(ending.value.code, int)
    assert "Traceback" not in printed.err
    return ending.value.code, printed.out, printed.err


def start(arguments: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "apps.caption", *arguments, "--question", QUESTION, "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_caption_for_every_scene_is_printed_and_written(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = ["--srt", "out/a.srt", "--vtt", "out/a.vtt", "--jsonl", "out/a.jsonl"]
    status, out, err = ends([model, "a.mp4", "--question", QUESTION, *files], capfd)
    assert status == 0
    lines = [LINE.fullmatch(line) for line in out.splitlines()]
    assert all(lines)
    assert [line[1] for line in lines if line] == ["00:00", "00:02", "00:04", "00:06", "00:08"]
    assert err.splitlines()[-1] == "a.mp4: 5 captions of 18 frames"
    rows = [json.loads(line) for line in Path("out/a.jsonl").read_text().splitlines()]
    texts = [line[3] for line in lines if line]
    assert [each["caption"] for each in rows] == texts
    assert [each["frames"] for each in rows] == [4, 4, 4, 4, 2]
    assert [each.text for each in webvtt.read("out/a.vtt")] == texts
    assert Path("out/a.srt").read_text().count(" --> ") == 5
    loaded = membridge.load(model)
    assert texts[0] == loaded.answer("a.mp4", QUESTION, start_ms=0, end_ms=2000)


@pytest.mark.slow
def test_the_standard_input_and_a_file_give_equal_captions(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, expected, _ = ends([model, "a.ts", "--question", QUESTION], capfd)
    with (folder / "a.ts").open("rb") as file:
        process = start([model, "-"], stdin=file.fileno())
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out == expected
    assert err.splitlines()[-1] == "the standard input: 5 captions of 18 frames"


def test_a_caption_may_be_about_the_video_so_far(model: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ends([model, "a.mp4", "--question", QUESTION, "--about", "video"], capfd)
    assert status == 0
    loaded = membridge.load(model)
    texts = [line.split("] ", 1)[1] for line in out.splitlines()]
    assert texts[-1] == loaded.answer("a.mp4", QUESTION)
    assert texts[1] == loaded.answer("a.mp4", QUESTION, end_ms=4000)


def test_fps_of_the_command_line_is_used(model: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = ends([model, "a.mp4", "--fps", "1"], capfd)
    assert status == 0
    assert [line[:15] for line in out.splitlines()] == ["[00:00 - 00:04]", "[00:04 - 00:08]", "[00:08 - 00:09]"]
    assert "3 captions of 9 frames" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4"], "there is no file none.mp4"),
        (["broken.mp4"], "broken.mp4 cannot be read as a video"),
        (["camera:x"], "camera:x is no camera; write camera:0"),
        (["a.mp4", "--srt", "a.mp4", "--overwrite"], "a.mp4 is the video that is read"),
        (["a.mp4", "--srt", "long.mp4"], "long.mp4 is there already; choose another file, or give --overwrite"),
        (["a.mp4", "--fps", "0"], "0 is not a number above 0"),
        (["a.mp4", "--fps", "1e-300"], "1e-300 is not from 0.0001 to 1000 frames per second"),
        (["a.mp4", "--timeout", "nan"], "nan is not a number above 0"),
        (["a.mp4", "--max-new-tokens", "0"], "0 is not a number of at least 1"),
        (["a.mp4", "--ffmpeg-option", "x"], "x is no NAME=VALUE"),
        (["a.mp4", "--question", "red " * 400], "max_position_embeddings"),
        ([f"rtsp://127.0.0.1:{9}/x"], "nobody listens there"),
    ],
)
def test_what_cannot_be_captioned_says_why(
    arguments: list[str], message: str, model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "long.mp4").read_bytes()
    status, _, err = ends([model, *arguments], capfd)
    assert status == REFUSED
    assert message in err.splitlines()[-1]
    assert (folder / "long.mp4").read_bytes() == before


def test_a_source_that_cannot_be_read_replaces_no_captions(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "old.srt").write_text("old")
    assert ends([model, "broken.mp4", "--srt", "old.srt", "--overwrite"], capfd)[0] == REFUSED
    assert (folder / "old.srt").read_text() == "old"


def test_a_model_that_needs_the_complete_video_is_refused(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = membridge.load(model)
    loaded.segmenter = Uniform(3)
    monkeypatch.setattr(caption, "open_given", lambda _options: loaded)
    status, _, err = ends([model, "a.mp4"], capfd)
    assert status == REFUSED
    assert "Uniform knows no boundary before the video has ended" in err.splitlines()[-1]


@pytest.mark.slow
def test_an_input_that_stalls_is_captioned_as_far_as_it_came(model: str, folder: Path) -> None:
    process = start([model, "-", "--timeout", "3", "--jsonl", "a.jsonl"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.buffer.write((folder / "long.ts").read_bytes())  # FFmpeg waits for some seconds of it
    process.stdin.flush()
    assert process.wait(120) == INCOMPLETE
    assert process.stderr is not None
    last = process.stderr.read().splitlines()[-1]
    assert last == "error: the standard input sent no frame for 3 s; check the sender, or raise --timeout"
    assert sum(json.loads(line)["frames"] for line in Path("a.jsonl").read_text().splitlines()) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_complete_files(number: signal.Signals, model: str, folder: Path) -> None:
    process = start([model, "-", "--vtt", "a.vtt"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.buffer.write((folder / "long.ts").read_bytes())  # FFmpeg waits for some seconds of it
    process.stdin.flush()
    first = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert "stopped" in err.splitlines()[-1]
    # What was shown for less than two seconds may get an empty caption, which the reader of the file passes over.
    told = [line for line in (first + out).splitlines() if not line.endswith("(the model gave an empty caption)")]
    assert len(webvtt.read("a.vtt")) == len(told)


@pytest.mark.slow
def test_files_are_complete_after_a_kill_at_any_moment(model: str, folder: Path) -> None:
    for number, delay in enumerate((0.0, 0.03, 0.1, 0.2)):
        names = [f"{number}.{form}" for form in ("srt", "vtt", "jsonl")]
        files = [word for name in names for word in (f"--{name.split('.')[1]}", name)]
        process = start([model, "long.mp4", *files])
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        printed = 1 + len(process.communicate()[0].splitlines())
        found = len(webvtt.read(names[1]))
        rows = [json.loads(line) for line in Path(names[2]).read_text().splitlines()]
        blocks = Path(names[0]).read_text().split("\n\n")[:-1]
        assert 0 < printed <= len(rows) <= found <= len(blocks) <= printed + 1
        assert [block.splitlines()[0] for block in blocks] == [str(1 + n) for n in range(len(blocks))]
        assert rows[-1]["start"] == 2.0 * (len(rows) - 1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["ends", "freezes"])
def test_a_camera_over_rtsp_is_captioned_until_it_ends_or_freezes(ending: str, model: str, folder: Path) -> None:
    address = f"rtsp://127.0.0.1:{free_port()}/camera"
    options = ["--ffmpeg-option", "rtsp_flags=listen", "--ffmpeg-option", "listen_timeout=60", "--timeout", "20"]
    timeout = [*options, "--timeout", "8"] if ending == "freezes" else options
    process = start([model, address, *timeout, "--srt", "a.srt"])
    sender: list[subprocess.Popen[bytes]] = []
    loop = ["-stream_loop", "-1"] if ending == "freezes" else []

    def push() -> None:
        port = int(address.split(":")[2].split("/")[0])
        while process.poll() is None:  # it listens as soon as the model is open
            listening = Path("/proc/net/tcp").read_text()
            if f"0100007F:{port:04X} 00000000:0000 0A" in listening:
                break
            time.sleep(0.1)
        command = [*FFMPEG, "-re", *loop, "-i", "a.mp4", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", address]
        sender.append(subprocess.Popen(command))

    threading.Thread(target=push).start()
    assert process.stdout is not None
    assert LINE.fullmatch(process.stdout.readline().strip())
    if ending == "freezes":
        sender[0].send_signal(signal.SIGSTOP)
    out, err = process.communicate(timeout=90)
    sender[0].kill()
    sender[0].wait()
    if ending == "freezes":
        assert process.returncode == INCOMPLETE
        assert f"error: {address} sent no frame for 8 s" in err.splitlines()[-1]
    else:
        assert process.returncode == 0
        assert re.search(r"captions of 1[678] frames; 0 of 1[678] frames dropped evenly", err)
    assert Path("a.srt").read_text().count(" --> ") == 1 + len(out.splitlines())


@pytest.mark.slow
def test_ctrl_c_ends_a_live_stream_with_success(model: str, folder: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/live"
    command = [*FFMPEG, "-re", "-stream_loop", "-1", "-i", "a.mp4", "-c", "copy", "-f", "mpegts", "-listen", "1"]
    with subprocess.Popen([*command, address]) as sender:
        process = start([model, address])
        assert process.stdout is not None
        assert LINE.fullmatch(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        sender.kill()
    assert process.returncode == 0
    assert err.splitlines()[-1].endswith("; stopped")
