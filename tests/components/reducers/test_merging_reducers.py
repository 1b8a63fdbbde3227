"""Reducers that merge by bipartite matching, and the one that drops by pairs of frames."""

from typing import Any

import pytest
import torch

from components.interfaces import SegmentInput
from components.reducers.clip_merge import ClipMerge
from components.reducers.frame_merge import FrameMerge, numbers_that_join
from components.reducers.pair_token_drop import PairTokenDrop, patches_that_stay, tokens_of_pairs
from tests.components.reducers.slow_videos import frames_and_cells


def segment_of(grid: torch.Tensor) -> SegmentInput:
    """One segment of V videos, ``[V, L, N, D]``."""
    mask = torch.ones(grid.shape[:2], dtype=torch.bool)
    return SegmentInput.from_grid(grid, mask, torch.zeros(grid.shape[:2]).long())


def test_a_quarter_of_the_patches_of_every_frame_is_left() -> None:
    assert numbers_that_join(196, 2) == [98, 49]
    reduced, _ = FrameMerge(3)(segment_of(torch.randn(2, 4, 16, 3)), None)
    for video in range(2):
        frames = [frame for frame, _ in frames_and_cells(reduced, video)]
        assert frames == [frame for frame in range(4) for _ in range(4)]


def test_a_frame_of_one_patch_stays() -> None:
    segment = segment_of(torch.randn(1, 3, 1, 2))
    reduced, _ = FrameMerge(2)(segment, None)
    torch.testing.assert_close(reduced.tokens, segment.tokens)


def test_merging_frames_keeps_their_mean_where_every_token_counts_by_its_size() -> None:
    grid = torch.randn(1, 2, 8, 3)
    reduced, _ = FrameMerge(3, rounds=3, weighted=True)(segment_of(grid), None)
    assert reduced.tokens.shape[1] == 2
    torch.testing.assert_close(reduced.tokens[0], grid[0].mean(dim=1))


def test_equal_frames_become_as_few_tokens_as_one_frame() -> None:
    frame = torch.eye(3)
    grid = frame.expand(1, 4, 3, 3)
    reduced, _ = ClipMerge(3, tokens=3)(segment_of(grid), None)
    found = reduced.tokens[0][reduced.token_mask[0]]
    assert {tuple(token.tolist()) for token in found} == {tuple(token.tolist()) for token in frame}


def test_a_shorter_segment_keeps_fewer_tokens_a_frame_and_as_many_a_segment() -> None:
    grid = torch.randn(2, 4, 9, 3)
    segment = segment_of(grid)
    segment = segment._replace(frame_mask=torch.tensor([[True] * 4, [True, False, False, False]]))
    by_frame, _ = ClipMerge(3, tokens_a_frame=2)(segment, None)
    fixed, _ = ClipMerge(3, tokens=6)(segment, None)
    assert by_frame.token_mask.sum(dim=1).tolist() == [8, 2]
    assert fixed.token_mask.sum(dim=1).tolist() == [6, 6]


def test_the_second_of_a_pair_keeps_what_is_new() -> None:
    grid = torch.eye(4).expand(1, 4, 4, 4).clone()
    grid[0, 1, 2] = torch.tensor([0.0, 0.0, -1.0, 0.0])  # new in the second frame
    grid[0, 2, 3] = torch.tensor([0.0, 0.0, 0.0, -1.0])  # new in the third
    reduced, _ = PairTokenDrop(4, drop=0.75)(segment_of(grid), None)
    whole = [(0, cell) for cell in range(4)]
    assert frames_and_cells(reduced, 0) == [*whole, (1, 2), (2, 3), (3, 3)]


@pytest.mark.parametrize("length", range(1, 10))
def test_no_frame_is_lost_but_the_last_odd_one_as_published(length: int) -> None:
    grid, mask = torch.randn(1, length, 4, 3), torch.ones(1, length, dtype=torch.bool)
    ours, published = (tokens_of_pairs(grid, mask, 0.7, as_published=each)[0].sum(dim=1) for each in (False, True))
    assert ours.tolist() == [4 if place % 4 == 0 else 1 for place in range(length)]
    lost = length > 1 and length % 2 == 1
    assert (int(published[-1]) == 0) == lost


@pytest.mark.parametrize(
    ("num_cells", "drop", "ours", "published"), [(10, 0.8, 2, 1), (10, 0.9, 1, 0), (16, 0.95, 1, 0), (196, 0.7, 58, 58)]
)
def test_a_compared_frame_keeps_a_share_that_is_exact_or_as_published(
    num_cells: int, drop: float, ours: int, published: int
) -> None:
    assert patches_that_stay(num_cells, drop) == ours
    assert patches_that_stay(num_cells, drop, as_published=True) == published


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FrameMerge, {"rounds": 0}, "rounds must be at least 1"),
        (ClipMerge, {}, "give one of tokens_a_frame and tokens"),
        (ClipMerge, {"tokens": 2, "tokens_a_frame": 2}, "give one of tokens_a_frame and tokens"),
        (ClipMerge, {"tokens": 2, "heads": 5}, "heads must divide the width 4"),
        (PairTokenDrop, {"drop": 1.0}, "drop must be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(4, **options)
