import pytest
import torch

from components.bridges.cluster_and_detail_memory import (
    ClusterAndDetailMemory,
    ClusterAndDetailState,
    largest_clusters,
)
from components.interfaces import SegmentInput
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, read, real, walk


def memory(**options: int) -> ClusterAndDetailMemory:
    torch.manual_seed(0)
    settings = {"num_clusters": 4, "cluster_grid": 1, "num_details": 2}
    return ClusterAndDetailMemory(DIM, OUT_DIM, **(settings | options))


def state_after(segments: list[SegmentInput]) -> ClusterAndDetailState:
    state: ClusterAndDetailState = walk(memory(), segments)
    return state


def test_weights_count_every_frame_and_the_weighted_mean_stays() -> None:
    segments = make_segments([[3] * 5])
    state = state_after(segments)
    frames = torch.cat([segment.grid(memory())[0] for segment in segments]).mean(dim=1)
    assert state.weights.sum().item() == 15.0
    mean = (state.centroids[0, :, 0] * state.weights[0, :, None]).sum(dim=0) / 15
    torch.testing.assert_close(mean, frames.mean(dim=0))


def test_clusters_are_in_the_order_of_time_and_their_mean_time_is_that_of_all_frames() -> None:
    state = state_after(make_segments([[3] * 7, [2]]))
    assert bool((state.times[0].diff() >= 0).all())
    torch.testing.assert_close(
        (state.times * state.weights).sum(dim=1) / state.weights.sum(dim=1), torch.tensor([10, 0.5])
    )
    assert state.weights[1].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_details_are_frames_of_the_video() -> None:
    segments = make_segments([[3] * 5])
    frames = torch.cat([segment.grid(memory())[0] for segment in segments])
    for stored in state_after(segments).frames[0]:
        assert any(torch.equal(stored, frame) for frame in frames)


def test_few_frames_are_shown_large_and_small() -> None:
    reader = memory()
    [segment] = make_segments([[2]])
    shown = real(read(reader, [segment]), 0)
    grid = segment.grid(reader)[0]
    torch.testing.assert_close(shown, reader.projection(torch.cat([grid.flatten(0, 1), grid.mean(dim=1)])))


def test_equal_frames_form_one_cluster_that_is_shown_alone() -> None:
    reader = memory()
    [segment] = make_segments([[9]])
    equal = segment._replace(tokens=segment.grid(reader)[:, :1].expand(-1, 9, -1, -1).flatten(1, 2))
    visual = read(reader, [equal])
    assert visual.mask.sum().item() == 4 + 1
    assert bool(visual.tokens.isfinite().all())


def test_the_largest_clusters_come_first_and_of_equal_ones_the_earlier() -> None:
    assert largest_clusters(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]


def test_the_state_does_not_grow() -> None:
    short, long = (state_after(make_segments([[3] * number])) for number in (1, 9))
    assert [field.shape for field in short] == [field.shape for field in long]


def test_half_precision_stays_half_precision() -> None:
    reader = memory().to(torch.bfloat16)
    halves = [segment._replace(tokens=segment.tokens.bfloat16()) for segment in make_segments(LENGTHS)]
    assert read(reader, halves).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("number", [0, 5])
def test_settings_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"num_details must be at least 1 and at most .* got {number} and 4"):
        memory(num_details=number)
