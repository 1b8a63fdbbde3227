"""Files that people really have: each is answered about with the right frames, or refused with what to do."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import apps.ask
import membridge
from apps import ask
from command_errors import REFUSED, run_and_exit
from components.pretrained.frame_settings import FrameSettings
from datamodules.media.frame_sampling import frame_times_ms
from membridge.media_files import read_media_file
from tests.datamodules.made_videos import Form, make_video, numbered_frame, numbers, turned
from tests.datamodules.video_files import opened
from tests.fixtures_data import make_clip, make_samples, write_shard
from tests.fixtures_exported import QUESTION, Trained

QUARTER_TURN = (0, 1, -1, 0)  # of a display matrix, as phones that are held upright write it


@pytest.fixture(scope="module")
def model(trained: Trained) -> membridge.VideoLanguageModel:
    return membridge.load(trained.exported)


@pytest.fixture
def said(
    model: membridge.VideoLanguageModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Path], str]:
    """The last line of the command about a file that is refused, once its form has been checked."""
    monkeypatch.setattr(apps.ask, "open_given", lambda _: model)

    def refused(path: Path) -> str:
        with pytest.raises(SystemExit) as ending:
            run_and_exit(lambda: ask.main(["MODEL", str(path), QUESTION]))
        printed = capfd.readouterr()
        assert ending.value.code == REFUSED, printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        line = printed.err.splitlines()[-1]
        assert line.startswith("error: ")
        assert str(path) in line
        return line

    return refused


def sound(container: str, codec: str) -> bytes:
    """A second of noise, without a picture."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=16000)
        stream.layout = "mono"
        samples = np.random.default_rng(0).integers(-9000, 9000, (1, 16000), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=16000)
        for resampled in resampler.resample(frame):
            output.mux(stream.encode(resampled))
        output.mux(stream.encode(None))
    return target.getvalue()


def noise_clip() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    return make_clip(40, frames=pixels, keyframe_interval=5)


def damaged_in_the_middle() -> bytes:
    """The second and third quarter of the frames' bytes are overwritten; the index is undamaged."""
    data = bytearray(noise_clip())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start + size // 4 : start + 3 * size // 4] = b"\xff" * (start + 3 * size // 4 - start - size // 4)
    return bytes(data)


def huge_picture() -> bytes:
    target = io.BytesIO()
    Image.new("L", (9000, 8000)).save(target, "png")
    return target.getvalue()


FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "sound in an mp4": ("talk.mp4", lambda: sound("mp4", "aac"), "it has no video stream"),
    "sound alone": ("talk.mp3", lambda: sound("wav", "pcm_s16le"), "none of a video or picture; give the file of a"),
    "zero length": ("empty.mp4", lambda: b"", "is empty; give the file of a video or picture"),
    "no frames": ("head.mp4", lambda: noise_clip()[:40], "cannot be decoded"),
    "cut off": ("cut.mp4", lambda: noise_clip()[: len(noise_clip()) // 2], "again"),
    "damaged in the middle": ("damaged.mp4", damaged_in_the_middle, "again"),
    "text": ("notes.txt", lambda: b"which colour ?\n" * 99, "none of a video or picture; give the file"),
    "web page": ("page.mp4", lambda: b"<!doctype html><title>404</title>", "is a page of text, neither a video"),
    "too many pixels": ("scan.png", huge_picture, "max_pixels"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(
    name: str, said: Callable[[Path], str], tmp_path: Path
) -> None:
    file, content, message = FILES[name]
    (tmp_path / file).write_bytes(content())
    assert message in said(tmp_path / file)


def test_a_shard_is_named_with_the_command_that_checks_it(said: Callable[[Path], str], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "my videos.mp4", make_samples(2))  # its content counts, not its name
    assert f"is a shard (a tar), not one video; check it with: python -m datamodules.validate '{shard}'" in said(shard)


def test_a_folder_a_device_and_an_address_are_no_files(said: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "videos.mp4").mkdir()
    assert "is a folder; give the file of a video or picture" in said(tmp_path / "videos.mp4")
    assert "is a device or pipe, not a file" in said(Path("/dev/null"))
    assert "is an address; download the file" in said(Path("https://host/a.mp4"))


def test_a_file_that_this_user_may_not_read_is_named(
    said: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(noise_clip())
    path.chmod(0)
    real = Path.open

    def refuse(self: Path, *given: object, **named: object) -> object:  # root may read everything
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *given, **named)  # type: ignore[call-overload]  # as it was called

    monkeypatch.setattr(Path, "open", refuse)
    assert "this user may not do that: change the permissions" in said(path)


def test_frames_of_a_variable_frame_rate_are_those_of_their_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 1000, 2000, 2040, 2080, 4000, 4100]
    data = make_video(Form(times_ms=times))
    (tmp_path / "phone.mp4").write_bytes(data)
    read = read_media_file(tmp_path / "phone.mp4", FrameSettings(64, "stretch", None, 2.0))
    length = opened(data).duration_ms
    asked = frame_times_ms(length, round(2.0 * length / 1000))
    expected = sorted({max(index for index, time in enumerate(times) if time <= at) for at in asked})
    assert len(expected) < len(asked)  # the frame rate does vary
    assert [times.index(time) for time in read.frame_ms.tolist()] == expected
    assert numbers(read.frames.permute(0, 2, 3, 1).numpy()) == expected


def test_a_rotated_video_of_a_phone_is_seen_upright(tmp_path: Path) -> None:
    (tmp_path / "phone.mp4").write_bytes(turned(make_video(Form(times_ms=range(0, 500, 100))), QUARTER_TURN))
    read = read_media_file(tmp_path / "phone.mp4", FrameSettings(64, "stretch", 1))
    seen = read.frames[0].permute(1, 2, 0).numpy().astype(float)
    stored = np.asarray(Image.fromarray(numbered_frame(2)).resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    differences = {turn: np.abs(np.rot90(stored, turn) - seen).mean() for turn in range(4)}
    assert min(differences, key=lambda turn: differences[turn]) == 3  # a quarter turn clockwise


def test_8k_is_read(said: Callable[[Path], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "8k.mp4").write_bytes(make_clip(1, width=7680, height=4320, fps=1))
    with pytest.raises(SystemExit) as ending:
        run_and_exit(lambda: ask.main(["MODEL", str(tmp_path / "8k.mp4"), QUESTION, "--json"]))
    assert ending.value.code == 0
    assert '"frames": 1' in capfd.readouterr().out
