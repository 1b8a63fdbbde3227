import pytest
import torch

from components.interfaces import FrameFeatures, FrameSelection, SegmentInput
from components.selection.all_frames import AllFrames
from components.selection.gather import group_frames, num_segments_of, segment_inputs
from components.selection.linspace_frames import LinspaceFrames
from components.selection.pooled_frames import PooledFrames

# Two videos of 5 and 3 frames: segments of 2, 1 and 2 frames, and one of 3.
SEGMENT_INDEX = torch.tensor([0, 0, 1, 2, 2, 0, 0, 0])
FRAME_COUNTS = torch.tensor([5, 3])


def test_every_frame_lies_in_its_segment_once() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 4, AllFrames())
    assert segments.frame_mask.shape == (2, 4, 3, 1)
    grouped = [index[mask].tolist() for index, mask in zip(*(part.flatten(0, 1) for part in segments[:2]), strict=True)]
    assert grouped == [[0, 1], [2], [3, 4], [], [5, 6, 7], [], [], []]


def test_padding_points_at_frame_zero_and_is_masked() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 4, AllFrames())
    assert int(segments.frame_mask.sum()) == 8
    assert not segments.frame_index[~segments.frame_mask].any()


def test_selected_segment_holds_the_frames_of_every_video() -> None:
    patches = torch.arange(8.0)[:, None, None].expand(8, 4, 2)
    frame_ms = torch.arange(8) * 100
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 3, AllFrames())
    segment = next(segment_inputs(FrameFeatures(patches[:, 0], patches), frame_ms, segments))
    assert segment.tokens.shape == (2, 3 * 4, 2)
    assert segment.frame_mask.tolist() == [[True, True, False], [True, True, True]]
    assert grid(segment)[1, :, 0, 0].tolist() == [5, 6, 7]
    assert segment.frame_ms[1].tolist() == [500, 600, 700]


def test_a_video_without_that_segment_is_a_row_without_frames() -> None:
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 3, AllFrames())
    assert segments.group_mask.any(dim=2).tolist() == [[True, True, True], [True, False, False]]


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
    groups = LinspaceFrames(max_frames).select(torch.tensor([[length]]))
    assert groups.first[groups.num_frames == 1].tolist() == expected


def test_linspace_equals_a_truncated_linspace_at_every_length() -> None:
    lengths = torch.arange(1, 200)
    groups = LinspaceFrames(8).select(lengths[None])
    positions, mask = groups.first, groups.num_frames == 1
    for row, length in enumerate(lengths.tolist()):
        exact = torch.linspace(0, length - 1, min(8, length), dtype=torch.float64)
        expected = (exact + 1e-9).long()  # a whole number must not be rounded down to the one before
        assert torch.equal(positions[0, row][mask[0, row]], expected)


def read_segments(lengths: list[list[int]], selection: FrameSelection, patches: torch.Tensor) -> list[SegmentInput]:
    """What the bridge reads of videos that are cut into segments of these lengths; frame i is shown at i ms."""
    counts = torch.tensor([sum(video) for video in lengths])
    index = torch.cat([torch.arange(len(video)).repeat_interleave(torch.tensor(video)) for video in lengths])
    segments = group_frames(index, counts, num_segments_of(index, counts), selection)
    frame_ms = torch.cat([torch.arange(int(count)) for count in counts])
    features = FrameFeatures(patches[:, 0], patches)
    return list(segment_inputs(features, frame_ms, segments))


def grid(segment: SegmentInput) -> torch.Tensor:
    return segment.grid("a test")


SELECTIONS = [AllFrames(), LinspaceFrames(2), PooledFrames(2)]
every_selection = pytest.mark.parametrize("selection", SELECTIONS, ids=["all", "linspace", "pooled"])


@every_selection
def test_batch_equals_single_videos(selection: FrameSelection) -> None:
    lengths = [[5, 1, 2], [1], [3, 9]]
    patches = torch.randn(21, 4, 2)
    together = read_segments(lengths, selection, patches)
    first = 0
    for video, own in enumerate(lengths):
        alone = read_segments([own], selection, patches[first : first + sum(own)])
        for step, segment in enumerate(together):
            real = segment.frame_mask[video]
            if step >= len(own):
                assert not real.any()
                continue
            assert real.tolist() == [True] * int(real.sum()) + [False] * int((~real).sum())
            torch.testing.assert_close(grid(segment)[video, real], grid(alone[step])[alone[step].frame_mask])
            assert torch.equal(segment.frame_ms[video, real], alone[step].frame_ms[alone[step].frame_mask])
            assert torch.equal(segment.frame_number[video, real], alone[step].frame_number[alone[step].frame_mask])
        first += sum(own)


@pytest.mark.parametrize("max_frames", [1, 2, 3, 8])
def test_pooled_slices_are_equal_and_hold_every_frame_once(max_frames: int) -> None:
    lengths = torch.arange(0, 60)
    groups = PooledFrames(max_frames).select(lengths[None])
    for length, first, count in zip(lengths.tolist(), groups.first[0], groups.num_frames[0], strict=True):
        real = count > 0
        assert int(real.sum()) == min(length, max_frames)
        frames = [int(f) + i for f, c in zip(first[real], count[real], strict=True) for i in range(int(c))]
        assert frames == list(range(length))
        if length:
            assert int(count[real].max() - count[real].min()) <= 1


def test_pooled_group_is_the_mean_of_its_frames_at_the_middle_ones_time() -> None:
    patches = torch.randn(7, 4, 2)
    [segment] = read_segments([[7]], PooledFrames(2), patches)
    assert grid(segment).shape == (1, 2, 4, 2)
    torch.testing.assert_close(grid(segment)[0], torch.stack([patches[:3].mean(dim=0), patches[3:].mean(dim=0)]))
    assert segment.frame_ms.tolist() == segment.frame_number.tolist() == [[1, 4]]


def test_pooled_equals_all_frames_where_a_segment_has_few() -> None:
    patches = torch.randn(12, 4, 2)
    lengths = [[3, 4], [1, 4]]
    pairs = zip(
        read_segments(lengths, PooledFrames(4), patches), read_segments(lengths, AllFrames(), patches), strict=True
    )
    for pooled, plain in pairs:
        for one, other in zip(pooled, plain, strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    ("selection", "reached"),
    [
        (AllFrames(), [True] * 9),
        (PooledFrames(2), [True] * 9),
        (LinspaceFrames(2), [i in (0, 4, 5, 8) for i in range(9)]),
    ],
    ids=["all", "pooled", "linspace"],
)
def test_gradient_reaches_every_frame_unless_some_are_left_out(selection: FrameSelection, reached: list[bool]) -> None:
    patches = torch.randn(9, 4, 2, requires_grad=True)
    for segment in read_segments([[5], [4]], selection, patches):
        grid(segment)[segment.frame_mask].square().sum().backward()
    assert patches.grad is not None
    assert patches.grad.abs().amin(dim=(1, 2)).gt(0).tolist() == reached


def test_pooling_keeps_the_dtype_of_the_features() -> None:
    [segment] = read_segments([[5]], PooledFrames(2), torch.randn(5, 4, 2).bfloat16())
    assert segment.tokens.dtype == torch.bfloat16


def test_number_of_segments_is_that_of_the_longest_video() -> None:
    assert num_segments_of(SEGMENT_INDEX, FRAME_COUNTS) == 3
    assert num_segments_of(SEGMENT_INDEX[:0], FRAME_COUNTS[:0]) == 0


@every_selection
def test_batch_without_videos_groups_to_nothing(selection: FrameSelection) -> None:
    segments = group_frames(SEGMENT_INDEX[:0], FRAME_COUNTS[:0], 2, selection)
    assert segments.frame_index.shape == (0, 2, 0, 0)


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


@pytest.mark.parametrize("part", [LinspaceFrames, PooledFrames])
def test_selecting_no_frames_is_refused(part: type[LinspaceFrames] | type[PooledFrames]) -> None:
    with pytest.raises(ValueError, match=f"{part.__name__}' max_frames must be at least 1, got 0"):
        part(0)


def test_segments_say_what_the_host_knows_of_their_masks() -> None:
    patches = torch.zeros(8, 4, 2)
    segments = group_frames(SEGMENT_INDEX, FRAME_COUNTS, 4, AllFrames())
    read = list(segment_inputs(FrameFeatures(patches[:, 0], patches), torch.zeros(8, dtype=torch.int64), segments))
    assert [(each.is_in_all, each.is_full) for each in read] == [(True, False), *[(False, False)] * 3]
    alone = group_frames(SEGMENT_INDEX[:5], FRAME_COUNTS[:1], 3, AllFrames())
    read = list(segment_inputs(FrameFeatures(patches[:5, 0], patches[:5]), torch.zeros(5, dtype=torch.int64), alone))
    assert all(each.is_in_all and each.is_full and bool(each.frame_mask.all()) for each in read)
    assert all(each.of_videos(slice(1)).is_full for each in read)
