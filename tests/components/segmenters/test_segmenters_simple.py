import pytest
import torch
from torch import Tensor

from components.interfaces import Segmenter
from components.segmenters.fixed_length import FixedLength
from components.segmenters.uniform import Uniform


def cut(segmenter: Segmenter, *counts: int) -> list[int]:
    index: Tensor = segmenter.segment(torch.zeros(sum(counts), 2), torch.tensor(counts))
    return index.tolist()


def test_uniform_segments_differ_by_at_most_one_frame() -> None:
    for num_frames in range(1, 40):
        lengths = torch.tensor(cut(Uniform(4), num_frames)).bincount()
        assert len(lengths) == min(4, num_frames)
        assert int(lengths.max() - lengths.min()) <= 1


def test_uniform_gives_a_short_video_one_segment_a_frame() -> None:
    assert cut(Uniform(4), 3, 1, 8) == [0, 1, 2, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_fixed_length_starts_anew_in_every_video() -> None:
    assert cut(FixedLength(3), 7, 2) == [0, 0, 0, 1, 1, 1, 2, 0, 0]


def test_fixed_length_stream_closes_the_offline_segments_when_they_are_full() -> None:
    stream = FixedLength(4).stream()
    assert stream.declared() == []
    for count in range(1, 14):
        stream.push(torch.zeros(2))
        one_more = cut(FixedLength(4), count + 1)  # shows whether the newest frame ends a segment
        assert stream.declared() == [frame for frame in range(count) if one_more[frame] != one_more[frame + 1]]


def test_uniform_segments_cannot_stream() -> None:
    assert Uniform(3).stream() is None


@pytest.mark.parametrize("part", [Uniform, FixedLength])
def test_sizes_below_one_are_refused(part: type[Uniform] | type[FixedLength]) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        part(0)


@pytest.mark.parametrize("segmenter", [Uniform(3), FixedLength(4)], ids=["uniform", "fixed length"])
def test_frame_counts_out_of_step_are_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="sum to 5, but 6 frames are packed"):
        segmenter.segment(torch.zeros(6, 2), torch.tensor([5]))


def test_fixed_length_stream_gives_boundaries_from_a_segment_on() -> None:
    stream = FixedLength(3).stream()
    for _ in range(13):
        stream.push(torch.zeros(2))
    assert [stream.declared(first) for first in (0, 1, 3, 4)] == [[2, 5, 8, 11], [5, 8, 11], [11], []]
