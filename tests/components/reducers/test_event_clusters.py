import pytest
import torch
from torch import Tensor

from components.interfaces import SegmentInput
from components.reducers.event_clusters import EventClusters
from tests.components.reducers.slow_videos import DIM, NUM_CELLS, make_segments

COUNTS = (4, 2, 1)


def of_frames(patches: Tensor) -> SegmentInput:
    """One segment of one video ``[L, N, D]``."""
    return SegmentInput.from_grid(
        patches.unsqueeze(0), torch.ones(1, len(patches), dtype=torch.bool), torch.arange(len(patches)).unsqueeze(0)
    )


def scenes(*numbers: int) -> Tensor:
    """Frames ``[L, N, D]`` whose mean tells the scene."""
    noise = torch.randn(len(numbers), NUM_CELLS, DIM, generator=torch.Generator().manual_seed(0))
    return noise + 20.0 * torch.tensor(numbers)[:, None, None]


def test_every_event_gives_clusters_on_all_levels() -> None:
    for rate, events in ((0.25, 1), (0.5, 2), (3, 3), (1.0, 4)):
        [segment] = make_segments([[4]])
        reduced, _ = EventClusters(DIM, num_clusters=COUNTS, event_rate=rate)(segment, None)
        assert int(reduced.token_mask.sum()) == events * sum(COUNTS)


def test_events_are_the_scenes_also_where_one_comes_back() -> None:
    reducer = EventClusters(DIM, num_clusters=(1,), event_rate=2)
    frames = scenes(0, 1, 0, 1, 1)
    reduced, _ = reducer(of_frames(frames), None)
    expected = torch.stack([frames[[0, 2]].mean(dim=(0, 1)), frames[[1, 3, 4]].mean(dim=(0, 1))])
    found = reduced.tokens[0]
    torch.testing.assert_close(found[found[:, 0].argsort()], expected, atol=1e-1, rtol=0.2)
    assert bool((found[:, 0].sort().values.diff() > 10).all())


def test_event_of_one_frame_gives_the_levels_of_the_frame() -> None:
    [frame] = make_segments([[1]])
    reducer = EventClusters(DIM, num_clusters=(NUM_CELLS, 1), event_rate=0.5)
    tokens = reducer(frame, None)[0].tokens[0]
    whole = frame.tokens[0].mean(dim=0)
    assert len(tokens) == NUM_CELLS + 1
    for patch in (*frame.tokens[0], whole):
        assert float((tokens - patch).abs().amax(dim=1).min()) < 1e-5


def test_frames_with_fewer_patches_than_clusters_have_fewer() -> None:
    [frame] = make_segments([[1]])
    reduced, _ = EventClusters(DIM, num_clusters=(64, 32, 2), event_rate=0.5)(frame, None)
    assert int(reduced.token_mask.sum()) == 2 * NUM_CELLS + 2


def test_two_frames_are_two_events_as_published() -> None:
    [segment] = make_segments([[2]])
    counts = [
        int(
            EventClusters(DIM, num_clusters=COUNTS, event_rate=0.5, as_published=published)(segment, None)[
                0
            ].token_mask.sum()
        )
        for published in (False, True)
    ]
    assert counts == [sum(COUNTS), 2 * sum(COUNTS)]


def test_equal_frames_are_read_without_numbers_that_are_none() -> None:
    reduced, _ = EventClusters(DIM, num_clusters=COUNTS, event_rate=0.5)(of_frames(torch.ones(4, NUM_CELLS, DIM)), None)
    torch.testing.assert_close(reduced.tokens[reduced.token_mask], torch.ones(int(reduced.token_mask.sum()), DIM))


@pytest.mark.parametrize("counts", [(), (2, 0), (2, 4)])
def test_levels_that_grow_or_are_empty_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="num_clusters must be positive and not grow"):
        EventClusters(DIM, num_clusters=counts)


def test_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="event_rate must be positive, got 0"):
        EventClusters(DIM, event_rate=0)
