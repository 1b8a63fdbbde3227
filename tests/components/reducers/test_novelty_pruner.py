"""Patches that are unlike the video so far."""

import pytest
import torch

from components.interfaces import SegmentInput
from components.reducers.novelty_pruner import NoveltyPruner, familiarity, steady_channels
from tests.components.reducers.slow_videos import frames_and_cells


def segment_of(grid: torch.Tensor) -> SegmentInput:
    """One segment of one video, ``[L, N, D]``."""
    mask = torch.ones(1, len(grid), dtype=torch.bool)
    return SegmentInput.from_grid(grid[None], mask, torch.zeros(1, len(grid)).long())


def test_the_patch_that_differs_from_all_others_stays() -> None:
    grid = torch.tensor([1.0, 0.1, 0.0, 0.0]).repeat(3, 4, 1)
    for frame, cell in ((0, 2), (1, 0), (2, 3)):
        grid[frame, cell] = torch.tensor([0.2, 1.0, 0.3, 0.0])
    reduced, _ = NoveltyPruner(4, rate=0.25, channels=1.0)(segment_of(grid), None)
    assert frames_and_cells(reduced, 0) == [(0, 2), (1, 0), (2, 3)]


def test_the_channels_that_vary_least_are_compared() -> None:
    grid = torch.randn(1, 2, 5, 4) * torch.tensor([3.0, 0.1, 1.0, 0.01])
    mean, channels = steady_channels(grid, torch.ones(1, 2, dtype=torch.bool), 2)
    assert channels.tolist() == [[3, 1]]
    torch.testing.assert_close(mean, grid.mean(dim=(1, 2)))


def test_the_memory_is_the_mean_of_all_segments_on_every_channel() -> None:
    reducer, grids, state = NoveltyPruner(6), torch.randn(3, 2, 4, 6), None
    for grid in grids:
        _, state = reducer(segment_of(grid), state)
    assert state is not None
    torch.testing.assert_close(state.total[0] / state.number, grids.mean(dim=(1, 2)).mean(dim=0))
    assert NoveltyPruner(6, as_published=True)(segment_of(grids[0]), None)[1].total.shape == (1, 3)


def test_a_patch_is_familiar_by_gaussians_of_its_distances() -> None:
    grid, memory = torch.randn(1, 1, 3, 2), torch.randn(1, 2)
    normed = torch.nn.functional.normalize(grid[0, 0], dim=1)
    centre, frame = torch.nn.functional.normalize(memory[0], dim=0), normed.mean(dim=0)
    for patch, found in zip(normed, familiarity(grid, memory)[0, 0], strict=True):
        distances = ((patch - centre).square().sum(), (patch - frame).square().sum())
        expected = sum((-d / (2 * a)).exp() for d in distances for a in (0.125, 0.25, 0.5, 1.0, 2.0))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"channels": 1.2}])
def test_wrong_shares_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        NoveltyPruner(4, **options)  # type: ignore[arg-type]
