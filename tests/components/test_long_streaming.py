"""A session of hours holds no more, and computes no more for a frame, than one of minutes."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.bridges.layers.selective_update import SelectiveRecurrence
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.encoders.cached import CachedFeatures
from components.interfaces import Segmenter
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.state_memory import tensor_bytes, without_spare_memory
from components.streaming import StreamingSession
from tests.fixtures_models import PartFolders, make_bridge, make_model

WIDTH, NUM_PATCHES = 8, 1
RECURRENCES: dict[str, Any] = {
    "cache without selection": "replacing",
    "everything admitted": SelectiveRecurrence(admit_logit=-1e9),
    "fixed capacity": SelectiveRecurrence(admit_logit=-1e9, capacity=5),
}


def start(
    folders: PartFolders, recurrence: SelectiveRecurrence | str, segmenter: Segmenter | None = None
) -> StreamingSession:
    bridge = partial(make_bridge, recurrence=recurrence, readout=CacheAndMemoryReadout)
    encoder = partial(CachedFeatures, WIDTH, NUM_PATCHES)
    model = make_model(folders, encoder=encoder, bridge=bridge, segmenter=segmenter or FixedLength(4))
    assert isinstance(model.bridge, RecurrentMemoryBridge)
    return StreamingSession(model)


def play(session: StreamingSession, count: int, *, at_once: int = 1) -> None:
    generator = torch.Generator().manual_seed(session.num_frames)
    for frames in torch.randn(count, 1 + NUM_PATCHES, WIDTH, generator=generator).split(at_once):
        first = session.num_frames
        session.push(frames, list(range(first, first + len(frames))))


@pytest.mark.parametrize(
    ("early", "late"), [(100, 400), pytest.param(1_000, 100_000, marks=pytest.mark.slow)], ids=["minutes", "a day"]
)
def test_state_of_fixed_capacity_has_as_many_bytes_after_a_day(folders: PartFolders, early: int, late: int) -> None:
    session = start(folders, RECURRENCES["fixed capacity"], FixedLength(20))
    play(session, early, at_once=100)
    before = session.state_bytes
    play(session, late - early, at_once=100)
    assert session.num_frames == late
    assert session.state_bytes == before > 5 * 3 * 16 * 4  # segments, memory tokens, width, bytes


class CountOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_segment_takes_as_many_operators_after_many_segments_as_after_few(
    folders: PartFolders, recurrence: str
) -> None:
    session, counts = start(folders, RECURRENCES[recurrence]), list[int]()
    for length in (40, 160):
        play(session, length)
        with CountOperators() as operators:
            play(session, 4)
        counts.append(operators.count)
    assert counts[0] == counts[1] > 20


def test_boundaries_are_asked_for_once_each(folders: PartFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    session = start(folders, "replacing", SceneTilling(alpha=0.0, max_segment_frames=4))
    play(session, 60)
    before, given = session.boundaries, list[list[int]]()
    stream = session._walk._stream
    declared = stream.declared

    def watched(first: int = 0) -> list[int]:
        given.append(declared(first))
        return given[-1]

    monkeypatch.setattr(stream, "declared", watched)
    play(session, 40)
    assert before + [boundary for each in given for boundary in each] == session.boundaries
    assert len(session.boundaries) > len(before) > 10


def test_only_new_entries_of_a_tuple_are_looked_at_and_views_are_copied() -> None:
    large = torch.zeros(100)
    first = without_spare_memory((large[:2], torch.ones(3)))
    assert [each.untyped_storage().nbytes() for each in first] == [8, 12]
    second = without_spare_memory((*first, large[2:4]), first)
    assert second[:2] == first
    assert second[2].untyped_storage().nbytes() == 8
    replaced = without_spare_memory((large[:2], large[:3]), second)
    assert tensor_bytes(replaced) == 8 + 12


def test_bytes_of_shared_memory_count_once() -> None:
    tensor = torch.zeros(10)
    assert tensor_bytes((tensor, tensor[:2]), {"other": torch.zeros(3, dtype=torch.uint8)}) == 43
