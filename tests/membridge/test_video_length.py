"""Whether a video is longer than allowed is known before it is decoded."""

from pathlib import Path

import pytest

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import SampleError
from membridge.video_length import has_frame_after
from tests.fixtures_data import make_clip, make_image

FRAMES = FrameSettings(28, "crop", 5)


@pytest.mark.parametrize(("time_ms", "expected"), [(0, True), (2000, True), (2999, True), (3000, False), (9000, False)])
def test_a_video_has_frames_until_its_end(tmp_path: Path, time_ms: int, expected: bool) -> None:
    (tmp_path / "clip.mp4").write_bytes(make_clip(12, fps=4))
    assert has_frame_after(tmp_path / "clip.mp4", time_ms, FRAMES) is expected


def test_a_picture_has_none(tmp_path: Path) -> None:
    (tmp_path / "picture.mp4").write_bytes(make_image())
    assert not has_frame_after(tmp_path / "picture.mp4", 1000, FRAMES)


def test_a_broken_video_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(make_clip(12)[:700])
    with pytest.raises(SampleError, match="cannot be decoded"):
        has_frame_after(tmp_path / "clip.mp4", 1000, FRAMES)
