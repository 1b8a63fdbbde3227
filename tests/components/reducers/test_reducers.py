"""What every reducer promises; ``SegmentReducer`` is the contract."""

from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.building import MakeReducer
from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.sequential import Sequential
from components.reducers.temporal_token_drop import TemporalTokenDrop
from tests.components.readers.reader_runs import shortened
from tests.components.reducers.reducer_table import REDUCERS, Narrow, ReducerEntry
from tests.components.reducers.slow_videos import DIM, LENGTHS, NUM_CELLS, frames_and_cells, make_segments

every_reducer = pytest.mark.parametrize("make", [entry.make for entry in REDUCERS.values()], ids=REDUCERS)
every_entry = pytest.mark.parametrize("entry", REDUCERS.values(), ids=REDUCERS)


def build(make: MakeReducer) -> SegmentReducer[Any]:
    torch.manual_seed(0)
    return make(DIM)


def walk(reducer: SegmentReducer[Any], segments: list[SegmentInput]) -> tuple[list[SegmentInput], list[Any]]:
    """The reduced segments and the states after them."""
    reduced, states, state = [], [], None
    for segment in segments:
        each, state = reducer(segment, state)
        reduced.append(each)
        states.append(state)
    return reduced, states


def assert_same_video(one: SegmentInput, other: SegmentInput, video: int, of_other: int) -> None:
    """The real tokens of a video in two reduced segments are the same."""
    assert frames_and_cells(one, video) == frames_and_cells(other, of_other)
    masks = one.token_mask[video], other.token_mask[of_other]
    torch.testing.assert_close(one.tokens[video][masks[0]], other.tokens[of_other][masks[1]], rtol=1e-6, atol=1e-6)
    assert one.saliency is not None
    assert other.saliency is not None
    assert torch.equal(one.saliency[video][masks[0]], other.saliency[of_other][masks[1]])


def assert_same_state(one: Any, other: Any, video: int, of_other: int) -> None:
    for first, second in zip(tree_leaves(one), tree_leaves(other), strict=True):
        torch.testing.assert_close(first[video], second[of_other], rtol=1e-6, atol=1e-6)


@every_reducer
@pytest.mark.parametrize("padding", [{"num_segments": 5}, {"longest": 7}, {"num_segments": 4, "longest": 5}])
def test_padding_by_masked_frames_and_empty_segments_changes_nothing(
    make: MakeReducer, padding: dict[str, int]
) -> None:
    reducer = build(make)
    plain, plain_states = walk(reducer, make_segments())
    padded, padded_states = walk(reducer, make_segments(**padding))  # type: ignore[arg-type]
    for video in range(len(LENGTHS)):
        for one, other in zip(plain, padded, strict=False):
            assert_same_video(one, other, video, video)
        assert_same_state(plain_states[-1], padded_states[-1], video, video)
    assert not any(bool(each.token_mask.any()) for each in padded[len(plain) :])


@every_reducer
def test_streamed_video_alone_gives_at_every_segment_what_it_gives_in_a_batch(make: MakeReducer) -> None:
    reducer = build(make)
    together, states = walk(reducer, make_segments())
    for video, lengths in enumerate(LENGTHS):
        state = None
        for step, segment in enumerate(make_segments([lengths], seeds=[video])):
            alone, state = reducer(shortened(segment, int(segment.frame_mask.sum())), state)
            assert_same_video(together[step], alone, video, 0)
            assert_same_state(states[step], state, video, 0)


@every_entry
def test_frames_stay_and_every_real_one_or_at_least_the_segment_keeps_a_token(entry: ReducerEntry) -> None:
    segments = make_segments(num_segments=4, longest=5)
    reduced, _ = walk(build(entry.make), segments)
    for before, after in zip(segments, reduced, strict=True):
        for field in ("frame_mask", "frame_ms", "frame_number", "num_cells"):
            assert getattr(before, field) is getattr(after, field)
        num_tokens = torch.zeros_like(before.frame_number)
        num_tokens.scatter_add_(1, after.token_groups, after.token_mask.long())
        assert not bool(num_tokens[~before.frame_mask].any())
        assert torch.equal(num_tokens.any(dim=1), before.frame_mask.any(dim=1))
        if entry.keeps_every_frame:
            assert torch.equal(num_tokens > 0, before.frame_mask)


@every_entry
def test_places_are_those_of_the_full_grid_and_in_order(entry: ReducerEntry) -> None:
    segments = make_segments()
    reduced, _ = walk(build(entry.make), segments)
    for before, after in zip(segments, reduced, strict=True):
        index = after.token_groups * NUM_CELLS + after.token_cells
        assert bool(((index >= 0) & (index < before.tokens.shape[1])).all())
        for kept, full in zip(after.places(), before.places(), strict=True):
            assert torch.equal(kept, full.gather(1, index).masked_fill(~after.token_mask, -1))
        for video, mask in enumerate(after.token_mask):
            found = index[video][mask]
            assert torch.equal(found, found.sort().values if entry.places_repeat else found.unique(sorted=True))


@every_reducer
def test_reducer_keeps_nothing_between_calls(make: MakeReducer) -> None:
    reducer = build(make)
    first, states = walk(reducer, make_segments())
    walk(reducer, make_segments([[4, 4]], seeds=[7]))
    again, states_again = walk(reducer, make_segments())
    for one, other in zip(tree_leaves([first, states]), tree_leaves([again, states_again]), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@every_entry
def test_video_without_the_segment_keeps_its_state(entry: ReducerEntry) -> None:
    _, states = walk(build(entry.make), make_segments())
    assert_same_state(states[0], states[2], 1, 1)
    if not entry.has_state:
        assert states == [(), (), ()]
        return
    assert not torch.equal(tree_leaves(states[1])[0][0], tree_leaves(states[2])[0][0])


@every_reducer
def test_video_that_begins_in_a_later_step_is_reduced_as_one_that_begins_at_once(make: MakeReducer) -> None:
    reducer = build(make)
    late, _ = walk(reducer, make_segments([[2, 3, 2], [0, 3, 2]]))
    at_once, _ = walk(reducer, make_segments([[3, 2]], seeds=[1]))
    assert not bool(late[0].token_mask[1].any())
    for one, other in zip(late[1:], at_once, strict=True):
        assert_same_video(one, other, 1, 0)


@every_entry
def test_gradient_reaches_the_tokens_that_are_kept_and_no_masked_one(entry: ReducerEntry) -> None:
    segments = make_segments()
    for segment in segments:
        segment.tokens.requires_grad_()
    reduced, _ = walk(build(entry.make), segments)
    torch.stack([each.tokens[each.token_mask].square().sum() for each in reduced]).sum().backward()
    for before, after in zip(segments, reduced, strict=True):
        assert before.tokens.grad is not None
        index = (after.token_groups * NUM_CELLS + after.token_cells)[after.token_mask]
        video = torch.arange(len(LENGTHS)).repeat_interleave(after.token_mask.sum(dim=1))
        kept = torch.zeros(before.tokens.shape[:2], dtype=torch.bool).index_put((video, index), torch.tensor(True))
        reached = before.tokens.grad.any(dim=2)
        assert not bool((reached & ~before.token_mask).any())
        assert not bool((kept & ~reached).any())
        assert entry.merges or torch.equal(reached, kept)


@every_entry
def test_tokens_are_kept_as_they_are_or_lie_between_those_of_the_segment(entry: ReducerEntry) -> None:
    reducer = build(entry.make)
    if isinstance(reducer, Sequential):
        return  # one of its parts changes the width
    segments = make_segments()
    for before, after in zip(segments, walk(reducer, segments)[0], strict=True):
        index = (after.token_groups * NUM_CELLS + after.token_cells).unsqueeze(2).expand_as(after.tokens)
        if not entry.merges:
            assert torch.equal(after.tokens[after.token_mask], before.tokens.gather(1, index)[after.token_mask])
        for video, mask in enumerate(before.token_mask):
            if bool(mask.any()):
                real, given = before.tokens[video][mask], after.tokens[video][after.token_mask[video]]
                assert bool((given <= real.amax(dim=0) + 1e-5).all())
                assert bool((given >= real.amin(dim=0) - 1e-5).all())


@every_reducer
def test_width_and_dtype_are_those_that_it_states(make: MakeReducer) -> None:
    reducer = build(make).to(torch.bfloat16)
    segments = [each._replace(tokens=each.tokens.to(torch.bfloat16)) for each in make_segments()]
    for each in walk(reducer, segments)[0]:
        assert each.tokens.dtype == torch.bfloat16
        assert each.tokens.shape[2] == reducer.out_dim


def test_sequence_of_reducers_gives_what_they_give_one_after_the_other() -> None:
    torch.manual_seed(0)
    sequence = Sequential(DIM, reducers=[Narrow, partial(TemporalTokenDrop, threshold=0.6)])
    narrow, drop = sequence.reducers
    segments = make_segments()
    expected, _ = walk(drop, walk(narrow, segments)[0])  # type: ignore[arg-type]
    found, states = walk(sequence, segments)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.token_mask, other.token_mask)
    assert all(len(state) == 2 for state in states)
    assert sequence.out_dim == DIM // 2


class OfSalient(Narrow):
    """Reads the saliency of patches."""

    reads_saliency = True
    reads_kept_tokens = False


def test_sequence_states_what_it_reads_and_gives() -> None:
    grid = Sequential(DIM, reducers=[OfSalient, Narrow])
    assert (grid.gives_grid, grid.reads_saliency, grid.reads_kept_tokens) == (True, True, False)
    kept = Sequential(DIM, reducers=[Narrow, TemporalTokenDrop])
    assert (kept.gives_grid, kept.reads_saliency, kept.reads_kept_tokens) == (False, False, True)


def test_sequence_in_which_a_reducer_cannot_read_what_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="OfSalient reads full grids, but TemporalTokenDrop before it leaves tokens"):
        Sequential(DIM, reducers=[TemporalTokenDrop, OfSalient])


def test_sequence_without_reducers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one reducer"):
        Sequential(DIM, reducers=[])


def test_sequence_is_built_from_a_config() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reducer", type=MakeReducer)
    module = "components.reducers"
    drop = {"class_path": f"{module}.temporal_token_drop.TemporalTokenDrop", "init_args": {"ratio": 0.5}}
    settings = {"class_path": f"{module}.sequential.Sequential", "init_args": {"reducers": [drop]}}
    built = parser.instantiate_classes(parser.parse_object({"reducer": settings})).reducer(DIM)
    assert isinstance(built, Sequential)
    [only] = built.reducers
    assert isinstance(only, TemporalTokenDrop)
    assert (only.out_dim, only.ratio) == (DIM, 0.5)


@every_entry
def test_autocast_changes_neither_what_is_chosen_nor_what_is_averaged(entry: ReducerEntry) -> None:
    reducer = build(entry.make)
    if any(True for _ in reducer.parameters()):
        return  # its weights are meant to compute in the lower precision
    plain, _ = walk(reducer, make_segments())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower, _ = walk(reducer, make_segments())
    for one, other in zip(plain, lower, strict=True):
        assert torch.equal(one.token_mask, other.token_mask)
        torch.testing.assert_close(one.tokens[one.token_mask], other.tokens[other.token_mask], rtol=1e-6, atol=1e-6)
