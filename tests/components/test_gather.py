import pytest
import torch

from components.gather import AllFrames, FrameSelection, LinspaceFrames, group_frames, num_segments_of, select_segment
from components.interfaces import FrameFeatures

# Two videos of 5 and 3 frames: segments of 2, 1 and 2 frames, and one of 3.
SEGMENT_INDEX = torch.tensor([0, 0, 1, 2, 2, 0, 0, 0])
FRAME_COUNTS = torch.tensor([5, 3])


def test_every_frame_lies_in_its_segment_once() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 4, AllFrames())
    assert segments.frame_mask.shape == (2, 4, 3)
    grouped = [index[mask].tolist() for index, mask in zip(*(part.flatten(0, 1) for part in segments), strict=True)]
    assert grouped == [[0, 1], [2], [3, 4], [], [5, 6, 7], [], [], []]


def test_padding_points_at_frame_zero_and_is_masked() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 4, AllFrames())
    assert int(segments.frame_mask.sum()) == 8
    assert not segments.frame_index[~segments.frame_mask].any()


def test_selected_segment_holds_the_frames_of_every_video() -> None:
    patches = torch.arange(8.0)[:, None, None].expand(8, 4, 2)
    frame_ms = torch.arange(8) * 100
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 3, AllFrames())
    segment = select_segment(FrameFeatures(patches[:, 0], patches), frame_ms, segments, 0)
    assert segment.patches.shape == (2, 3, 4, 2)
    assert segment.frame_mask.tolist() == [[True, True, False], [True, True, True]]
    assert segment.patches[1, :, 0, 0].tolist() == [5, 6, 7]
    assert segment.frame_ms[1].tolist() == [500, 600, 700]


def test_a_video_without_that_segment_is_a_row_without_frames() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 3, AllFrames())
    assert segments.frame_mask.any(dim=2).tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("max_frames", "length", "expected"),
    [
        (4, 8, [0, 2, 4, 7]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 3, [0, 1, 2]),
        (8, 1, [0]),
        (1, 5, [0]),
        (8, 33, [0, 4, 9, 13, 18, 22, 27, 32]),
    ],
)
def test_linspace_takes_both_ends_and_rounds_down(max_frames: int, length: int, expected: list[int]) -> None:
    positions, mask = LinspaceFrames(max_frames).select(torch.tensor([[length]]))
    assert positions[mask].tolist() == expected


def test_linspace_equals_a_truncated_linspace_at_every_length() -> None:
    lengths = torch.arange(1, 200)
    positions, mask = LinspaceFrames(8).select(lengths[None])
    for row, length in enumerate(lengths.tolist()):
        exact = torch.linspace(0, length - 1, min(8, length), dtype=torch.float64)
        expected = (exact + 1e-9).long()  # a whole number must not be rounded down to the one before
        assert torch.equal(positions[0, row][mask[0, row]], expected)


@pytest.mark.parametrize("selection", [AllFrames(), LinspaceFrames(2)], ids=["all", "linspace"])
def test_batch_equals_single_videos(selection: FrameSelection) -> None:
    together = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 3, selection)
    alone = group_frames(SEGMENT_INDEX[5:], FRAME_COUNTS[1:], 3, selection)
    width = alone.frame_mask.shape[2]
    assert torch.equal(together.frame_mask[1:, :, :width], alone.frame_mask)
    assert torch.equal((together.frame_index[1:, :, :width] - 5)[alone.frame_mask], alone.frame_index[alone.frame_mask])


def test_number_of_segments_is_that_of_the_longest_video() -> None:
    assert num_segments_of(SEGMENT_INDEX, FRAME_COUNTS) == 3
    assert num_segments_of(SEGMENT_INDEX[:0], FRAME_COUNTS[:0]) == 0


def test_batch_without_videos_groups_to_nothing() -> None:
    segments = group_frames(SEGMENT_INDEX[:0], FRAME_COUNTS[:0], 2, LinspaceFrames())
    assert segments.frame_index.shape == (0, 2, 0)


def test_more_segments_than_allowed_are_refused() -> None:
    with pytest.raises(ValueError, match="cut into 3 segments, but num_segments is 2"):
        group_frames(SEGMENT_INDEX, FRAME_COUNTS, 2, AllFrames())


def test_frame_counts_out_of_step_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 9, but 8 frames are packed"):
        group_frames(SEGMENT_INDEX, torch.tensor([5, 4]), 3, AllFrames())
    with pytest.raises(ValueError, match="sum to 9, but 8 frames are packed"):
        num_segments_of(SEGMENT_INDEX, torch.tensor([5, 4]))


@pytest.mark.parametrize(
    ("numbers", "frame"),
    [([0, 0, 2, 0, 0], 2), ([0, 1, 0, 0, 0], 2), ([1, 1, 1, 0, 0], 0), ([0, 1, 2, 2, 2], 3)],
)
def test_numbers_that_do_not_count_up_are_refused(numbers: list[int], frame: int) -> None:
    with pytest.raises(ValueError, match=f"packed frame {frame} "):
        group_frames(torch.tensor(numbers), torch.tensor([3, 2]), 3, AllFrames())


def test_selecting_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LinspaceFrames(0)
