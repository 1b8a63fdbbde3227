"""The haystack: endless, the same every time, and of given clips no more than a part in memory."""

from pathlib import Path

import numpy as np
import pytest

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from membridge.haystack_test import backgrounds
from membridge.haystack_test.backgrounds import ClipBackground, MadeBackground
from membridge.media_files import read_media_file
from tests.fixtures_data import make_clip, natural_frames

SETTINGS = FrameSettings(56, num_frames=None, fps=2.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two clips of 2 frames a second, of 5 and 20 s."""
    folder = tmp_path_factory.mktemp("clips")
    paths = []
    for number, count in enumerate((10, 40)):
        paths.append(folder / f"clip{number}.mp4")
        frames = natural_frames(count, 84, 96, number)
        paths[-1].write_bytes(make_clip(count, width=96, height=84, fps=2, frames=frames))
    return paths


def test_clips_are_joined_and_repeated_as_a_model_reads_their_files(clips: list[Path]) -> None:
    background = ClipBackground(clips)
    assert background.duration_ms == 25_000
    expected = np.concatenate([read_media_file(path, SETTINGS).frames.permute(0, 2, 3, 1).numpy() for path in clips])
    for repetition in (0, 3):
        times = [repetition * 25_000 + 250 + 500 * number for number in range(50)]
        shown = np.stack([background.frame(time, SETTINGS) for time in times])
        assert np.array_equal(shown, expected)


def test_clips_are_not_held_in_memory(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    piece = backgrounds._PIECE * 56 * 56 * 3
    monkeypatch.setattr(backgrounds, "_MOST_CACHED_BYTES", 2 * piece)
    background = ClipBackground(clips)
    for time in range(0, 60_000, 500):
        background.frame(time, SETTINGS)
        assert sum(each.nbytes for each in background._pieces.values()) <= 2 * piece


def test_a_damaged_or_missing_clip_is_named(clips: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clips[0].read_bytes()[:500])
    with pytest.raises(BrokenMediaError, match=r"broken\.mp4 cannot be a part of the haystack"):
        ClipBackground([clips[0], broken])
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.mp4"):
        ClipBackground([tmp_path / "missing.mp4"])
    with pytest.raises(ValueError, match="at least one video file"):
        ClipBackground([])


def test_other_clips_are_another_haystack(clips: list[Path]) -> None:
    assert ClipBackground(clips).identity == ClipBackground(clips).identity
    assert len({ClipBackground(some).identity for some in (clips, clips[:1], clips[::-1])}) == 3
    assert MadeBackground(1).identity != MadeBackground(2).identity


def test_made_up_scenes_are_the_same_in_any_order_and_change_with_time() -> None:
    times = [0, 500, 3999, 4000, 2**31 + 500]
    forth = [MadeBackground(1).frame(time, SETTINGS) for time in times]
    one = MadeBackground(1)
    back = [one.frame(time, SETTINGS).copy() for time in reversed(times)][::-1]
    for first, second in zip(forth, back, strict=True):
        assert first.shape == (56, 56, 3)
        assert np.array_equal(first, second)
    assert len({frame.tobytes() for frame in forth}) == len(times)
    assert not np.array_equal(MadeBackground(2).frame(0, SETTINGS), forth[0])
