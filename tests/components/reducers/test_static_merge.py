"""Patches that stay the same stand once in a segment."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.interfaces import SegmentInput
from components.reducers.static_merge import StaticMerge, static_cells
from tests.components.reducers.slow_videos import frames_and_cells


def segment_of(grid: Tensor, saliency: Tensor | None = None) -> SegmentInput:
    """One segment of one video, ``[L, N, D]``."""
    mask = torch.ones(1, len(grid), dtype=torch.bool)
    segment = SegmentInput.from_grid(grid[None], mask, torch.zeros(1, len(grid)).long())
    shown = torch.rand(grid.shape[:2]) if saliency is None else saliency
    return segment._replace(saliency=shown.flatten()[None])


def half_static() -> Tensor:
    """Three frames: the first two cells stay, the other two turn each time."""
    grid = torch.zeros(3, 4, 4)
    grid[:, 0, 0] = grid[:, 1, 1] = 1.0
    for frame in range(3):
        grid[frame, 2, frame], grid[frame, 3, (frame + 1) % 3] = 2.0, 2.0
    return grid


def test_static_cells_are_those_that_never_change() -> None:
    grid, real = half_static()[None], torch.ones(1, 3, dtype=torch.bool)
    assert static_cells(grid, real, 0.8).tolist() == [[True, True, False, False]]
    assert static_cells(grid[:, :1], real[:, :1], 0.8).tolist() == [[False] * 4]  # nothing is known of one frame
    only_two = torch.tensor([[True, True, False]])
    garbage = grid.clone()
    garbage[0, 2] = 1e3
    assert static_cells(garbage, only_two, 0.8).tolist() == [[True, True, False, False]]


def test_static_tokens_stand_in_the_first_frame_and_make_room_for_others() -> None:
    saliency = torch.tensor([[0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.7, 0.3]])
    reduced, _ = StaticMerge(4, ratio=0.5)(segment_of(half_static(), saliency), None)
    # 12 patches, 4 saved: the share of the others is 0.75. Of two static cells 2 stay, of two moving ones 2 a frame.
    assert frames_and_cells(reduced, 0) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3)]
    few, _ = StaticMerge(4, ratio=0.3)(segment_of(half_static(), saliency), None)
    assert frames_and_cells(few, 0)[1:] == [(0, 2), (1, 3), (2, 2)]


def test_a_static_token_is_the_mean_over_the_frames() -> None:
    grid = half_static()
    grid[:, 0, 3] = torch.tensor([0.0, 0.1, 0.2])
    reduced, _ = StaticMerge(4, ratio=0.9)(segment_of(grid), None)
    torch.testing.assert_close(reduced.tokens[0, 0], grid[:, 0].mean(dim=0))


def test_the_middle_of_a_cluster_counts_with_its_weight() -> None:
    grid = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [1.0, 0.2]]])
    part = StaticMerge(2, ratio=0.3, centre=0.25, merged=1.0)
    reduced, _ = part(segment_of(grid), None)
    (cell,) = [cell for _, cell in frames_and_cells(reduced, 0)]
    others = [each for each in range(3) if each != cell]
    torch.testing.assert_close(reduced.tokens[0, 0], 0.25 * grid[0, cell] + 0.75 * grid[0, others].mean(dim=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0"),
        ({"merged": 1.5}, "merged must be from 0 to 1"),
        ({"centre": -0.1}, "centre must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaticMerge(4, **options)
    with pytest.raises(ValueError, match="set the encoder's saliency_layer"):
        StaticMerge(4)(segment_of(half_static())._replace(saliency=None), None)
