"""Which tokens ``TemporalTokenDrop`` keeps: as published, by definition, and at the edges."""

import itertools

import pytest
import torch
from torch import Tensor

from components.interfaces import SegmentInput
from components.reducers.temporal_token_drop import Reference, TemporalTokenDrop, TokenDropState
from tests.components.reducers.slow_videos import (
    DIM,
    NUM_CELLS,
    cut,
    frames_and_cells,
    make_segments,
    make_video,
)

Places = list[tuple[int, int]]  # frame and cell


def kept_of(reducer: TemporalTokenDrop, video: Tensor, cuts: list[int]) -> Places:
    """Frame and cell of all tokens that are kept of one video ``[T, N, D]``."""
    found, state = [], None
    for segment in cut([video], [cuts]):
        reduced, state = reducer(segment, state)
        found += frames_and_cells(reduced, 0)
    return found


def of_frames(places: Places, frame: int) -> list[int]:
    return [cell for each, cell in places if each == frame]


def by_definition(
    video: Tensor, *, threshold: float = 0.5, ratio: float | None = None, reference: Reference = "previous"
) -> Places:
    """Frame after frame and patch after patch, with loops."""
    compared = list(video[0])
    kept = [(0, cell) for cell in range(NUM_CELLS)]
    for frame in range(1, len(video)):
        similarity = [float(torch.cosine_similarity(video[frame, c], compared[c], dim=0)) for c in range(NUM_CELLS)]
        by_change = sorted(range(NUM_CELLS), key=lambda cell: similarity[cell])
        if ratio is None:
            cells = [cell for cell in range(NUM_CELLS) if similarity[cell] <= threshold] or by_change[:1]
        else:
            cells = sorted(by_change[: NUM_CELLS - int(NUM_CELLS * ratio)])
        kept += [(frame, cell) for cell in cells]
        for cell in cells if reference == "last_kept" else range(NUM_CELLS):
            compared[cell] = video[frame, cell]
    return kept


OPTIONS: dict[str, dict[str, float]] = {
    "low threshold": {"threshold": 0.0},
    "high threshold": {"threshold": 0.97},
    "ratio": {"ratio": 0.5},
    "high ratio": {"ratio": 0.99},
    "no ratio": {"ratio": 0.0},
}


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cuts", [[9], [4, 5], [1] * 9], ids=["one segment", "two", "a frame each"])
def test_kept_tokens_are_those_of_the_definition_however_the_video_is_cut(
    reference: Reference, options: dict[str, float], cuts: list[int]
) -> None:
    video = make_video(9, seed=3)
    reducer = TemporalTokenDrop(DIM, reference=reference, **options)
    assert kept_of(reducer, video, cuts) == by_definition(video, reference=reference, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_of_a_video_in_which_nothing_changes_later_frames_keep_one_token(reference: Reference) -> None:
    still = make_video(1, seed=0).expand(7, -1, -1)
    noisy = still + 1e-6 * torch.randn(7, NUM_CELLS, DIM)  # as an encoder rounds
    for video in (still, noisy):
        places = kept_of(TemporalTokenDrop(DIM, threshold=0.99, reference=reference), video, [3, 4])
        assert of_frames(places, 0) == list(range(NUM_CELLS))
        assert all(of_frames(places, frame) == [0] for frame in range(1, 7))


def test_rounding_of_equal_frames_does_not_decide_what_a_ratio_keeps() -> None:
    noisy = make_video(1, seed=0) + 1e-6 * torch.randn(5, NUM_CELLS, DIM)
    places = kept_of(TemporalTokenDrop(DIM, ratio=0.5), noisy, [5])
    assert all(of_frames(places, frame) == [0, 1, 2] for frame in range(1, 5))


def test_higher_threshold_keeps_the_same_tokens_and_more() -> None:
    video = make_video(12, seed=5)
    kept = [set(kept_of(TemporalTokenDrop(DIM, threshold=each), video, [6, 6])) for each in (-1.0, 0.3, 0.9, 0.99, 1.0)]
    assert all(lower <= higher for lower, higher in itertools.pairwise(kept))
    assert [len(each) for each in kept] == sorted({len(each) for each in kept})
    assert len(kept[0]) == NUM_CELLS + 11
    assert len(kept[-1]) == 12 * NUM_CELLS


def test_only_the_last_kept_reference_notices_a_slow_change() -> None:
    # The first patch turns round in every frame, so that it is always kept; the second one turns by 0.08 radians.
    angles = torch.linspace(0, torch.pi, 40).unsqueeze(1) * torch.tensor([39.0, 1.0])
    video = torch.stack([angles.cos(), angles.sin()], dim=2)
    kept = {
        reference: kept_of(TemporalTokenDrop(2, threshold=0.9, reference=reference), video, [40])
        for reference in ("previous", "last_kept")
    }
    assert [cell for _, cell in kept["previous"]] == [0, 1] + [0] * 39
    frames = [frame for frame, cell in kept["last_kept"] if cell == 1]
    assert frames == [0, 6, 12, 18, 24, 30, 36]  # the cosine of 6 steps is below 0.9


def test_picture_keeps_all_its_patches() -> None:
    assert len(kept_of(TemporalTokenDrop(DIM), make_video(1, seed=0), [1])) == NUM_CELLS


def test_segment_is_as_long_as_the_most_tokens_of_a_video() -> None:
    [segment, *_] = make_segments()
    reduced, _ = TemporalTokenDrop(DIM, threshold=0.6)(segment, None)
    assert reduced.tokens.shape[1] == int(reduced.token_mask.sum(dim=1).max()) < segment.tokens.shape[1]
    assert reduced.tokens.shape[1] > int(reduced.token_mask.sum(dim=1).min())


def on_meta(segment: SegmentInput) -> SegmentInput:
    return SegmentInput(*(field.to("meta") if isinstance(field, Tensor) else field for field in segment))


def test_ratio_reads_no_value_from_the_device_once_all_videos_have_begun() -> None:
    reducer = TemporalTokenDrop(DIM, ratio=0.7)
    first, *_, last = make_segments([[3, 2, 2], [1, 1, 3]])
    _, state = reducer(first, None)
    # Values of tensors on the meta device cannot be read.
    reduced, after = reducer(on_meta(last), TokenDropState(state.last.to("meta"), state.seen))
    each = NUM_CELLS - int(0.7 * NUM_CELLS)
    assert reduced.tokens.shape[1] == 3 * each
    assert after.seen is state.seen


def test_state_holds_no_graph() -> None:
    [segment, *_] = make_segments()
    _, state = TemporalTokenDrop(DIM)(segment._replace(tokens=segment.tokens.requires_grad_()), None)
    assert not state.last.requires_grad


def test_segment_that_another_reducer_has_reduced_is_refused() -> None:
    reducer = TemporalTokenDrop(DIM)
    reduced, _ = reducer(make_segments()[0], None)
    with pytest.raises(ValueError, match="TemporalTokenDrop reads full grids of patches, but a reducer has left"):
        reducer(reduced, None)
    assert not reducer.reads_kept_tokens


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_ratio_that_leaves_nothing_or_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"at least 0 and below 1, so that every frame keeps a patch; got {ratio}"):
        TemporalTokenDrop(DIM, ratio=ratio)


def test_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \('previous', 'last_kept'\), got 'next'"):
        TemporalTokenDrop(DIM, reference="next")  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_cells", "ratio", "kept"), [(100, 0.29, 71), (100, 0.58, 42), (10, 0.99, 1), (9, 0.5, 5)])
def test_a_ratio_drops_its_share_rounded_down(num_cells: int, ratio: float, kept: int) -> None:
    frames = torch.randn(1, 2, num_cells, 4)
    mask = torch.ones(1, 2, dtype=torch.bool)
    segment = SegmentInput.from_grid(frames, mask, torch.arange(2).expand(1, 2))
    reduced, _ = TemporalTokenDrop(4, ratio=ratio)(segment, None)
    assert int(reduced.token_mask.sum()) == num_cells + kept
