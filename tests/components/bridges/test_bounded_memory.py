"""A selective memory of fixed capacity: of the admitted segments it holds those that the gate was most open for."""

import pytest
import torch
from torch import Tensor

from components.bridges import segment_entries
from components.bridges.layers.selective_update import SelectiveRecurrence, within_capacity
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import MemoryState
from tests.components.readers.reader_runs import LENGTHS, make_segments, walk
from tests.components.readers.reader_table import recurrent

NUM_SEGMENTS = 40
THRESHOLD = -0.3  # about half of the random segments are above


def bounded(
    capacity: int | None, *, threshold: float = THRESHOLD, readout: str = "cache_and_memory"
) -> RecurrentMemoryBridge:
    """A bridge whose gates differ from segment to segment, about half of them above the threshold."""
    settings = SelectiveRecurrence(capacity=capacity, admit_logit=threshold)
    bridge = recurrent(readout, recurrence=settings).eval()
    assert bridge.update is not None
    torch.nn.init.normal_(bridge.update.of_patch[-1].weight, std=3.0)
    torch.nn.init.normal_(bridge.update.channel.weight)
    return bridge


def held(state: MemoryState, video: int = 0) -> list[bool]:
    return [bool(each[video] > 0) for each in state.admitted]


def held_by_definition(logits: list[float], capacity: int) -> list[bool]:
    """The first segment and those above the threshold; of them the highest, of equal ones the newest."""
    admitted = [number for number, logit in enumerate(logits) if number == 0 or logit > THRESHOLD]
    best = sorted(admitted, key=lambda number: (logits[number], number))[-capacity:]
    return [number in best for number in range(len(logits))]


@pytest.mark.parametrize("capacity", [1, 3, 8])
def test_the_segments_of_the_highest_gates_are_held_after_every_segment(capacity: int) -> None:
    bridge, state, logits = bounded(capacity), None, list[float]()
    all_held = set()
    for segment in make_segments([[2] * NUM_SEGMENTS]):
        state = bridge(segment, state)
        logits.append(state.gate_logits[-1].item())
        assert held(state) == held_by_definition(logits, capacity)
        all_held |= {number for number, is_held in enumerate(held(state)) if is_held}
    assert sum(held(state)) == capacity < len(all_held)  # full, and some were dropped


def test_of_equal_gates_the_oldest_is_dropped() -> None:
    one = torch.ones(1)
    assert within_capacity((one, one, one), (one, one, one), 2) == (torch.zeros(1), one, one)


def test_only_videos_that_are_over_the_capacity_drop_a_segment() -> None:
    admitted = (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.5]))
    logits = (torch.tensor([2.0, 2.0]), torch.tensor([1.0, -9.0]), torch.tensor([3.0, 1.0]))
    assert torch.stack(within_capacity(admitted, logits, 2), dim=1).tolist() == [[1.0, 0.0, 1.0], [1.0, 0.0, 0.5]]


def test_a_capacity_that_is_not_reached_changes_nothing() -> None:
    segments = make_segments(LENGTHS)
    free, limited = bounded(None), bounded(3)
    assert torch.equal(free.read(walk(free, segments)).tokens, limited.read(walk(limited, segments)).tokens)


def test_the_reading_is_that_of_the_held_segments_alone() -> None:
    bridge = bounded(3, readout="cache")
    state = walk(bridge, make_segments([[2] * NUM_SEGMENTS]))
    numbers = [number for number, is_held in enumerate(held(state)) if is_held]

    def only(entries: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(entries[number] for number in numbers)

    alone = state._replace(
        cache=only(state.cache),
        cache_mask=only(state.cache_mask),
        admitted=only(state.admitted),
        cache_ms=only(state.cache_ms),
    )
    torch.testing.assert_close(bridge.read(alone).tokens, bridge.read(state).tokens)


@pytest.mark.parametrize("group", [2, 64])
@pytest.mark.parametrize("capacity", [None, 3])
def test_pruning_after_every_segment_equals_never_pruning(
    capacity: int | None, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_entries, "GROUP", group)
    bridge = bounded(capacity)
    state = kept = None
    for segment in make_segments([[2] * NUM_SEGMENTS]):
        state, kept = bridge(segment, state), bridge(segment, kept if kept is None else bridge.prune(kept))
        torch.testing.assert_close(bridge.read(bridge.prune(kept)).tokens, bridge.read(state).tokens)
    assert (len(bridge.prune(kept).cache) < sum(held(state))) == (capacity is None and group == 2)
    pruned = segment_entries.flat(bridge.prune(kept))
    assert len(pruned.cache) == sum(held(state)) == len(pruned.cache_ms) == len(pruned.admitted)
    assert len(pruned.gate_logits) == (0 if capacity is None else capacity)
    again = segment_entries.flat(bridge.prune(pruned))
    assert [id(each) for each in again.cache] == [id(each) for each in pruned.cache]


def test_a_cache_without_selection_is_grouped_and_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_entries, "GROUP", 3)
    bridge = recurrent("cache").eval()
    state = pruned = None
    for segment in make_segments([[2] * NUM_SEGMENTS]):
        state, pruned = bridge(segment, state), bridge.prune(bridge(segment, pruned))
        assert len(pruned.cache) <= len(state.cache) // 3 + 6
        assert torch.equal(bridge.read(pruned).tokens, bridge.read(state).tokens)
    assert len(segment_entries.flat(pruned).cache) == NUM_SEGMENTS > len(pruned.cache)
    shown = [bridge.diagnostics(each, with_attention=True).segment_attention for each in (pruned, state)]
    assert torch.equal(shown[0], shown[1])


def test_videos_of_a_batch_hold_what_they_hold_alone() -> None:
    bridge = bounded(2)
    together = walk(bridge, make_segments([[2] * 12, [1, 2], [3] * 7], segments=14))
    for video, lengths in enumerate([[2] * 12, [1, 2], [3] * 7]):
        alone = walk(bridge, make_segments([lengths], seeds=[video]))
        assert held(together, video)[: len(lengths)] == held(alone)
        torch.testing.assert_close(bridge.read(together).tokens[video], bridge.read(alone).tokens[0])


def test_gradients_reach_held_segments_and_no_dropped_one() -> None:
    bridge = bounded(2, readout="cache")
    segments = make_segments([[2] * 8])
    inputs = [segment.tokens.clone().requires_grad_() for segment in segments]
    # Without recurrence, a segment reaches the reading through its own entry in the cache alone.
    bridge.carried = 0.0
    state = None
    for segment, tokens in zip(segments, inputs, strict=True):
        state = bridge(segment._replace(tokens=tokens), state)
    bridge.read(state).tokens.sum().backward()
    reached = [tokens.grad is not None and bool(tokens.grad.abs().sum() > 0) for tokens in inputs]
    assert reached == held(state)


def test_training_with_a_capacity_trains_every_part_of_the_gate() -> None:
    torch.manual_seed(0)
    bridge = bounded(2).train()
    state = walk(bridge, make_segments([[2] * 12]))
    assert bridge.penalty(state) is not None
    (bridge.read(state).tokens.sum() + bridge.penalty(state).sum()).backward()
    assert sum(held(state)) <= 2
    gradients = {name: parameter.grad for name, parameter in bridge.update.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be at least 1 segment, got 0"):
        SelectiveRecurrence(capacity=0)
