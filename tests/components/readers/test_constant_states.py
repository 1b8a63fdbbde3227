"""A reader whose state does not grow holds as many bytes after a day as after minutes."""

import pytest
import torch

from components.interfaces import SegmentInput
from components.state_memory import tensor_bytes, without_spare_memory
from tests.components.readers.reader_runs import DIM, MILLISECONDS_A_FRAME
from tests.components.readers.reader_table import READERS, Entry

FRAMES_A_SEGMENT = 50
CONSTANT = {name: entry for name, entry in READERS.items() if entry.constant_state}


def segment_from(first: int) -> SegmentInput:
    """A segment of frames of one patch."""
    number = torch.arange(first, first + FRAMES_A_SEGMENT)[None]
    patches = torch.randn(1, FRAMES_A_SEGMENT, 1, DIM, generator=torch.Generator().manual_seed(first))
    whole = SegmentInput.from_grid(patches, torch.ones(1, FRAMES_A_SEGMENT, dtype=torch.bool), number)
    return whole._replace(frame_ms=MILLISECONDS_A_FRAME * number, frame_number=number)


def bytes_after(entry: Entry, lengths: tuple[int, int]) -> list[int]:
    """Bytes of the state after so many frames, pruned after every segment as while a video plays."""
    reader, state, found = entry.make().eval(), None, []
    for first in range(0, max(lengths), FRAMES_A_SEGMENT):
        with torch.no_grad():
            state = without_spare_memory(reader.prune(reader(segment_from(first), state)), state)
        if first + FRAMES_A_SEGMENT in lengths:
            found.append(tensor_bytes(state))
    return found


@pytest.mark.parametrize("entry", CONSTANT.values(), ids=CONSTANT)
def test_the_state_has_as_many_bytes_after_2000_frames_as_after_1000(entry: Entry) -> None:
    early, late = bytes_after(entry, (1_000, 2_000))
    assert late == early > 0


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=name, marks=pytest.mark.slow if name == "bounded" else pytest.mark.nightly)
        for name, entry in CONSTANT.items()
    ],
)
def test_the_state_has_as_many_bytes_after_a_day_as_after_minutes(entry: Entry) -> None:
    early, late = bytes_after(entry, (1_000, 100_000))
    assert late == early > 0


def test_a_state_that_grows_is_noticed() -> None:
    early, late = bytes_after(READERS["token_store"], (100, 200))
    assert late > 1.9 * early
