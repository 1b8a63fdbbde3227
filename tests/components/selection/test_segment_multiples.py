import pytest

from components.interfaces import WholeVideo
from components.selection.segment_multiples import SegmentMultiples


@pytest.mark.parametrize(
    ("num_frames", "kept"),
    [(1, 1), (31, 31), (32, 64), (63, 64), (64, 64), (65, 64), (100, 96), (128, 128), (129, 128)],
)
def test_longer_videos_give_full_segments_and_at_least_two(num_frames: int, kept: int) -> None:
    index = SegmentMultiples(32).frame_index(WholeVideo.of_length(num_frames))
    assert len(index) == kept
    assert bool((index.diff() >= 0).all())
    assert index[0] == 0
    assert index[-1] == num_frames - 1


def test_a_short_video_is_stretched_by_frames_that_stand_twice() -> None:
    assert SegmentMultiples(2).frame_index(WholeVideo.of_length(3)).tolist() == [0, 0, 1, 2]
    assert SegmentMultiples(2).frame_index(WholeVideo.of_length(1)).tolist() == [0]


def test_no_frames_of_a_segment_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        SegmentMultiples(0)
