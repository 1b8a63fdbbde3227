import pytest
import torch
from torch import Tensor

from components.segmenters.dynamic_cuts import DynamicCuts


def turned_by(*degrees: float) -> Tensor:
    """Class vectors, each turned by an angle from the one before."""
    angles = torch.tensor([0.0, *degrees]).cumsum(0).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cut(segmenter: DynamicCuts, *videos: Tensor) -> list[int]:
    found: Tensor = segmenter.segment(torch.cat(videos), torch.tensor([len(video) for video in videos]))
    return found.tolist()


def test_least_similar_neighbours_are_cut_apart() -> None:
    assert cut(DynamicCuts(3, threshold=-1.0), turned_by(5, 30, 10, 20, 15)) == [0, 0, 1, 1, 2, 2]


def test_all_neighbours_below_the_threshold_are_cut_apart_too() -> None:
    frames = turned_by(5, 40, 50, 60, 10)
    assert cut(DynamicCuts(2, threshold=0.9), frames) == [0, 0, 1, 2, 3, 3]
    assert cut(DynamicCuts(1, threshold=0.9), frames) == [0, 0, 1, 2, 3, 3]
    assert cut(DynamicCuts(1, threshold=-1.0), frames) == [0] * 6


def test_of_equally_similar_neighbours_the_earlier_are_cut_apart() -> None:
    assert cut(DynamicCuts(3), torch.ones(5, 2)) == [0, 1, 2, 2, 2]


def test_video_of_fewer_frames_than_segments_has_one_frame_in_each() -> None:
    assert cut(DynamicCuts(8), torch.ones(3, 2)) == [0, 1, 2]
    assert cut(DynamicCuts(8), torch.ones(1, 2)) == [0]


def test_videos_of_a_batch_are_cut_as_alone() -> None:
    videos = (turned_by(5, 30, 10), turned_by(), turned_by(40, 50, 10, 10, 70))
    segmenter = DynamicCuts(3)
    assert cut(segmenter, *videos) == [number for video in videos for number in cut(segmenter, video)]


def test_it_cannot_stream_and_refuses_no_segments() -> None:
    assert DynamicCuts().stream() is None
    with pytest.raises(ValueError, match="at least 1, got 0"):
        DynamicCuts(0)
