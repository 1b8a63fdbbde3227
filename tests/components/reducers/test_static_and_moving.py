import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput
from components.reducers.clustered_cells import cell_clusters
from components.reducers.static_and_moving import StaticAndMoving, static_cells
from tests.components.reducers.slow_videos import DIM, NUM_CELLS, frames_and_cells, make_video


def of_frames(patches: Tensor) -> SegmentInput:
    """One segment of one video ``[L, N, D]``."""
    mask = torch.ones(1, len(patches), dtype=torch.bool)
    return SegmentInput.from_grid(patches.unsqueeze(0), mask, torch.arange(len(patches)).unsqueeze(0))


def half_moving(num_frames: int = 3) -> Tensor:
    """The first 3 cells are the same in all frames, the others differ."""
    patches = torch.randn(num_frames, NUM_CELLS, DIM, generator=torch.Generator().manual_seed(0))
    patches[:, :3] = patches[0, :3].clone()
    return patches


def test_static_cells_are_those_of_the_mean_over_all_pairs_of_frames() -> None:
    patches = make_video(5, 0, changing=0.2)
    cosine = functional.cosine_similarity(patches.unsqueeze(0), patches.unsqueeze(1), dim=-1)
    pairs = [cosine[one, other] for one in range(5) for other in range(5) if one != other]
    mean = torch.stack(pairs).mean(dim=0)
    threshold = float(mean.sort().values[2:4].mean())
    found = static_cells(patches.unsqueeze(0), torch.ones(1, 5, dtype=torch.bool), threshold)[0]
    assert torch.equal(found, mean > threshold)


def test_static_cells_are_read_once_in_the_first_frame_and_moving_ones_in_every_frame() -> None:
    patches = half_moving()
    reduced, _ = StaticAndMoving(DIM, threshold=0.99)(of_frames(patches), None)
    expected = [(0, cell) for cell in range(NUM_CELLS)] + [(f, cell) for f in (1, 2) for cell in range(3, NUM_CELLS)]
    assert frames_and_cells(reduced, 0) == expected
    torch.testing.assert_close(reduced.tokens[0, :3], patches[0, :3])


def test_groups_above_the_limit_are_clustered_to_the_ratio() -> None:
    settings = {"threshold": 0.99, "cluster_ratio": 0.67, "num_neighbours": 2}
    reduced, _ = StaticAndMoving(DIM, unclustered=2, **settings)(of_frames(half_moving()), None)  # type: ignore[arg-type]
    assert int(reduced.token_mask.sum()) == 2 + 3 * 2
    reduced, _ = StaticAndMoving(DIM, unclustered=3, **settings)(of_frames(half_moving()), None)  # type: ignore[arg-type]
    assert int(reduced.token_mask.sum()) == 3 + 3 * 3


def test_equal_frames_leave_one_frame_and_a_single_frame_has_no_static_cells() -> None:
    frame = half_moving(1)
    once, _ = StaticAndMoving(DIM)(of_frames(frame.expand(4, -1, -1)), None)
    alone, _ = StaticAndMoving(DIM)(of_frames(frame), None)
    assert frames_and_cells(once, 0) == frames_and_cells(alone, 0) == [(0, cell) for cell in range(NUM_CELLS)]
    torch.testing.assert_close(once.tokens[0], alone.tokens[0])


def test_ratio_below_one_cluster_leaves_one() -> None:
    reduced, _ = StaticAndMoving(DIM, cluster_ratio=0.01, unclustered=0)(of_frames(half_moving(2)), None)
    assert reduced.token_mask.sum() >= 1


def test_centre_weight_mixes_the_centre_with_the_mean_of_the_others() -> None:
    values = [0.0, 0.1, 0.2, 1.5]
    mask, count = torch.ones(1, 4, dtype=torch.bool), torch.tensor([2])
    found = cell_clusters(torch.tensor(values)[None, :, None], mask, count, count, most=2, centre_weight=0.6)
    tokens = dict(zip(found.cell[0].tolist(), found.tokens[0, :, 0].tolist(), strict=True))
    assert tokens.pop(3) == 1.5  # alone
    [(centre, token)] = tokens.items()
    others = [values[each] for each in range(3) if each != centre]
    assert token == pytest.approx(0.6 * values[centre] + 0.4 * sum(others) / 2)


@pytest.mark.parametrize("settings", [{"cluster_ratio": 0.0}, {"cluster_ratio": 1.1}, {"num_neighbours": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        StaticAndMoving(DIM, **settings)  # type: ignore[arg-type]
