from typing import Any

import pytest
import torch

from components.bridges.recurrent import RecurrentMemoryBridge
from tests.components.test_bridges import LENGTHS, make_segments, recurrent, walk


def selective(readout: str = "cache", **options: Any) -> RecurrentMemoryBridge:
    return recurrent(readout, **({"recurrence": "selective"} | options))


def with_openness(bridge: RecurrentMemoryBridge, logit: float) -> RecurrentMemoryBridge:
    torch.nn.init.constant_(bridge.update.openness[-1].bias, logit)
    return bridge


def test_a_closed_update_gate_keeps_the_lasting_memory_exactly_for_hundreds_of_segments() -> None:
    bridge = with_openness(selective(), -6.0)
    segments = make_segments([[2] * 300])
    first = bridge(segments[0], None)
    last = walk(bridge, segments)
    assert torch.equal(last.memory, first.memory)
    assert not torch.allclose(last.cache[-1], first.cache[0], atol=1e-3)  # what segments wrote is not kept out
    assert float(bridge.penalty(last).detach()) == 0.0


def test_a_fully_open_update_gate_replaces_the_lasting_memory() -> None:
    bridge = with_openness(selective(update_penalty=0.25), 6.0)
    state = walk(bridge, make_segments([[2, 2, 2]]))
    torch.testing.assert_close(state.memory, state.cache[-1])
    torch.testing.assert_close(bridge.penalty(state), torch.tensor([0.25]))


def test_the_update_penalty_is_a_mean_over_real_segments_after_the_first() -> None:
    bridge = selective()
    together = bridge.penalty(walk(bridge, make_segments(LENGTHS, segments=6)))
    alone = [
        bridge.penalty(walk(bridge, make_segments([lengths], seeds=[video]))) for video, lengths in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    expected = [len(lengths) > 1 for lengths in LENGTHS]
    assert (together > 0).tolist() == expected


def test_the_update_penalty_teaches_the_gate_to_close() -> None:
    bridge = selective(update_penalty=1.0)
    segments = make_segments([[2, 2, 2]])
    optimizer = torch.optim.SGD(bridge.update.parameters(), lr=1.0)
    before = bridge.penalty(walk(bridge, segments)).item()
    for _ in range(20):
        optimizer.zero_grad()
        bridge.penalty(walk(bridge, segments)).sum().backward()
        optimizer.step()
    assert bridge.penalty(walk(bridge, segments)).item() < 0.5 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"recurrence": "gated"}, "recurrence must be one of"), ({"update_penalty": -1.0}, "must be at least 0, got -1")],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective(**options)
