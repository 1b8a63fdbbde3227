from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.bridges.carrier_memory import CarrierMemory, frame_carriers
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, read, walk


def memory(most: int) -> CarrierMemory:
    torch.manual_seed(0)
    return CarrierMemory(DIM, OUT_DIM, max_carriers=most)


def left_by_hand(carriers: Tensor, most: int) -> list[int]:
    """Numbers of the carriers that a slow loop leaves."""
    left: list[int] = []
    for number in range(len(carriers)):
        left.append(number)
        if len(left) > most:
            rows = carriers[left]
            similarity = [functional.cosine_similarity(a, b, dim=0).item() for a, b in pairwise(rows)]
            left.pop(similarity.index(max(similarity)))
    return left


@pytest.mark.parametrize("most", [1, 2, 5, 9, 20])
def test_the_memory_is_what_a_slow_loop_leaves(most: int) -> None:
    segments = make_segments([[4, 4, 4, 3], [2]])
    state = walk(memory(most), segments)
    carriers = torch.cat([frame_carriers(segment.grid(memory(most))[0]) for segment in segments])[:15]
    expected = left_by_hand(carriers, most)
    assert state.frame[0, : int(state.num_real[0])].tolist() == expected
    torch.testing.assert_close(state.tokens[0, : len(expected)], carriers[expected])
    assert state.num_real.tolist() == [min(15, most), min(2, most)]


def test_of_equal_frames_the_last_ones_stay() -> None:
    [segment] = make_segments([[6]])
    equal = segment._replace(tokens=segment.grid(memory(3))[:, :1].expand(-1, 6, -1, -1).flatten(1, 2))
    assert walk(memory(3), [equal]).frame.tolist() == [[3, 4, 5]]


def test_the_cuts_between_segments_change_nothing() -> None:
    one, other = (read(memory(3), make_segments([cut])) for cut in ([9], [1, 5, 1, 2]))
    torch.testing.assert_close(one.tokens, other.tokens)


def test_the_state_does_not_grow() -> None:
    short, long = (walk(memory(4), make_segments([[3] * number])) for number in (2, 12))
    assert [field.shape for field in short] == [field.shape for field in long]


def test_a_memory_of_no_carrier_is_refused() -> None:
    with pytest.raises(ValueError, match="max_carriers must be at least 1, got 0"):
        memory(0)
    with pytest.raises(ValueError, match="max_carriers must be at least 2, got 1"):
        CarrierMemory(DIM, OUT_DIM, max_carriers=1, as_published=True)
