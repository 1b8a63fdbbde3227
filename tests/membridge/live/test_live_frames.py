"""Frames of a video that plays: as the model was trained to read them, and whatever the source does."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from membridge.live.frame_queue import LiveFrame
from membridge.live.live_frames import LiveFrames, SourceOptions, StalledStreamError
from membridge.live.video_sources import DecodedPicture
from membridge.media_files import read_media_file
from tests.fixtures_data import make_clip, natural_frames

SETTINGS = FrameSettings(28, "crop", None, 4.0)


class MadeSource:
    """A source that does what a test wants."""

    def __init__(self, pictures: Callable[[], Iterator[DecodedPicture]], *, is_live: bool) -> None:
        self.is_live = is_live
        self.period_ms = 250.0
        self.num_damaged = 0
        self.pictures = pictures
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def picture(time_ms: float | None, *, width: int = 40, height: int = 30, level: int = 0) -> DecodedPicture:
    return DecodedPicture(time_ms, (width, height), lambda: np.full((height, width, 3), level, dtype=np.uint8))


def read_source(
    source: MadeSource, *, seconds_for_one: float = 0.0, **options: float | bool
) -> tuple[LiveFrames, list[LiveFrame], list[str]]:
    """Read a source to its end."""
    notes: list[str] = []
    given = SourceOptions("made", **{"fps": 4.0, "timeout_s": 20.0, **options})  # type: ignore[arg-type]
    got: list[LiveFrame] = []
    with LiveFrames(given, SETTINGS, notes.append, lambda *_: source) as frames:
        while some := frames.read(3):
            got += some
            time.sleep(seconds_for_one * len(some))
    assert source.is_closed or frames.failure is not None
    return frames, got, notes


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (36, 90), (400, 300)])
def test_frames_of_a_file_are_those_of_training(fit: str, width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(12, width=width, height=height, frames=natural_frames(12, height, width)))
    settings = FrameSettings(28, fit, None, 4.0)  # type: ignore[arg-type]
    expected = read_media_file(path, settings)
    got: list[LiveFrame] = []
    with LiveFrames(SourceOptions(str(path), 4.0), settings, print) as frames:
        while some := frames.read(5):
            got += some
    assert frames.failure is None
    assert [each.time_ms for each in got] == expected.frame_ms.tolist()
    assert torch.equal(torch.stack([each.pixels for each in got]), expected.frames)


def test_a_file_waits_for_a_slow_model(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(60))
    got = []
    with LiveFrames(SourceOptions(str(path), 4.0, capacity=3), SETTINGS, print) as frames:
        while some := frames.read(1):
            got += some
            time.sleep(0.005)
    assert len(got) == 60
    assert (frames.num_dropped, frames.drops_frames) == (0, False)


def test_a_live_source_does_not_wait_for_a_slow_model_and_says_so() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        for number in range(120):
            time.sleep(0.004)
            yield picture(250.0 * number)

    # Many times slower, so that a busy machine does not make the source as slow as the model.
    frames, got, notes = read_source(MadeSource(pictures, is_live=True), seconds_for_one=0.06, capacity=6)
    assert frames.drops_frames
    assert frames.num_sampled == 120
    assert frames.num_dropped == 120 - len(got) > 30
    assert all(later.time_ms > earlier.time_ms for earlier, later in pairwise(got))
    assert any("the model is slower than the stream; it reads one frame in 2" in note for note in notes)


def test_whether_frames_are_dropped_can_be_chosen() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        return (picture(250.0 * number) for number in range(40))

    chosen = {"capacity": 4, "seconds_for_one": 0.002}
    waits, got, _ = read_source(MadeSource(pictures, is_live=True), drops_frames=False, **chosen)
    assert (len(got), waits.num_dropped) == (40, 0)
    drops, got, _ = read_source(MadeSource(pictures, is_live=False), drops_frames=True, **chosen)
    assert drops.num_dropped == 40 - len(got) > 0


def test_a_change_of_the_picture_size_is_told_and_the_stream_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    clips = [
        make_clip(8, width=width, height=height, container="mpegts", frames=natural_frames(8, height, width, width))
        for width, height in ((64, 48), (96, 80))
    ]
    path.write_bytes(b"".join(clips))
    notes: list[str] = []
    got: list[LiveFrame] = []
    with LiveFrames(SourceOptions(str(path), 4.0), SETTINGS, notes.append) as frames:
        while some := frames.read(5):
            got += some
    assert frames.failure is None
    assert {each.pixels.shape for each in got} == {(3, 28, 28)}
    assert [each.time_ms for each in got] == [250 * number for number in range(16)]
    assert notes == [
        "0:02.0: the times in the stream jump; captions count on from here",
        "0:02.0: the picture size changes from 64 x 48 to 96 x 80",
    ]


def test_first_frames_without_a_time_are_read() -> None:
    times = [None, None, 9000.0, 9250.0]
    _, got, _ = read_source(MadeSource(lambda: map(picture, times), is_live=True))
    assert [each.time_ms for each in got] == [0, 250, 500, 750]


def test_a_source_that_stalls_is_given_up_after_its_last_frame_was_read() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        yield picture(0.0)
        time.sleep(3)

    begin = time.monotonic()
    frames, got, _ = read_source(MadeSource(pictures, is_live=True), timeout_s=0.4)
    assert 0.3 < time.monotonic() - begin < 2.9
    assert len(got) == 1
    assert isinstance(frames.failure, StalledStreamError)
    assert "made sent no frame for 0.4 s; check the sender, or raise --timeout" in str(frames.failure)


def test_a_slow_model_is_no_stall_of_a_file() -> None:
    source = MadeSource(lambda: (picture(250.0 * number) for number in range(6)), is_live=False)
    frames, got, _ = read_source(source, capacity=2, seconds_for_one=0.3, timeout_s=0.4)
    assert (len(got), frames.failure) == (6, None)


def test_a_source_that_breaks_off_gives_its_frames_first() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        yield from (picture(250.0 * number) for number in range(5))
        raise BrokenMediaError("made broke off")

    frames, got, _ = read_source(MadeSource(pictures, is_live=True))
    assert len(got) == 5
    assert str(frames.failure) == "made broke off"


def test_stop_ends_the_reading_at_once() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        number = 0
        while True:
            yield picture(250.0 * number)
            number += 1

    source = MadeSource(pictures, is_live=False)
    with LiveFrames(SourceOptions("made", 4.0), SETTINGS, print, lambda *_: source) as frames:
        assert frames.read(2)
        frames.stop()
        assert frames.read(2) == []
    assert source.is_closed
    assert frames.failure is None


def test_a_stopped_file_is_not_reported_as_too_fast_for_the_model() -> None:
    def pictures() -> Iterator[DecodedPicture]:
        yield from (picture(250.0 * number) for number in range(100))

    notes: list[str] = []
    source = MadeSource(pictures, is_live=False)
    with LiveFrames(SourceOptions("made", 4.0, capacity=2), SETTINGS, notes.append, lambda *_: source) as frames:
        assert frames.read(1)
        time.sleep(0.1)  # until the queue is full
    assert source.is_closed
    assert notes == []


def test_too_large_frames_are_refused(tmp_path: Path) -> None:
    def opener(_options: SourceOptions, size: FrameSize) -> MadeSource:
        size.check(20_000, 20_000, "made")
        raise AssertionError

    with LiveFrames(SourceOptions("made", 4.0), SETTINGS, print, opener) as frames:
        assert frames.read(1) == []
    assert "larger than max_pixels" in str(frames.failure)


def test_a_model_of_cached_features_is_refused() -> None:
    with pytest.raises(ValueError, match="reads cached features of frames, no pixels"):
        LiveFrames(SourceOptions("clip.mp4", 4.0), FrameSettings(None), print)
