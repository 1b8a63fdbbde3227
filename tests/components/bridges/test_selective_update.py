from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from components.bridges.layers.selective_update import SelectiveRecurrence
from components.bridges.readouts.cache import CacheKeys
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import MemoryState, VisualReader
from tests.components.readers.reader_runs import LENGTHS, make_segments, walk
from tests.components.readers.reader_table import recurrent


def selective(readout: str = "cache", **options: Any) -> RecurrentMemoryBridge:
    return recurrent(readout, **({"recurrence": "selective"} | options)).eval()


def with_gate(bridge: RecurrentMemoryBridge, logit: float) -> RecurrentMemoryBridge:
    """The same opening for every segment; what is admitted replaces the whole memory."""
    torch.nn.init.constant_(bridge.update.of_memory.bias, logit)
    torch.nn.init.constant_(bridge.update.channel.bias, 30.0)
    return bridge


def admissions(state: MemoryState) -> list[float]:
    """How much of each segment of the one video was admitted."""
    return [each.item() for each in state.admitted]


def test_a_closed_gate_keeps_memory_and_reading_exactly_for_hundreds_of_segments() -> None:
    for readout in ("cache", "cache_and_memory"):
        bridge = with_gate(selective(readout), -6.0)
        segments = make_segments([[2] * 300])
        first = bridge(segments[0], None)
        last = walk(bridge, segments)
        assert torch.equal(last.memory, first.memory)
        assert admissions(last)[:3] == [1.0, 0.0, 0.0]
        same_time = last._replace(cache_ms=first.cache_ms * 300, end_ms=first.end_ms)
        torch.testing.assert_close(bridge.read(same_time).tokens, bridge.read(first).tokens)


def test_an_open_gate_replaces_the_lasting_memory_and_costs_its_price() -> None:
    bridge = with_gate(selective(update_penalty=0.25), 6.0)
    state = walk(bridge, make_segments([[2, 2, 2]]))
    torch.testing.assert_close(state.memory, state.cache[-1])
    assert admissions(state) == [1.0, 1.0, 1.0]
    torch.testing.assert_close(bridge.penalty(state), torch.tensor([0.25]) * torch.tensor(6.0).sigmoid())


def test_training_draws_the_gate_as_often_as_its_price_says() -> None:
    bridge = with_gate(selective(), 0.7).train()
    one = make_segments([[2]] * 2000)[0]
    start = bridge(one, None)
    admitted = bridge(one, start).admitted[1]
    assert (admitted > 0.5).float().mean().item() == pytest.approx(torch.tensor(0.7).sigmoid().item(), abs=0.05)
    assert ((admitted > 0) & (admitted < 1)).any()  # or the gate's logit would get no gradient
    assert with_gate(bridge, 9.0)(one, start).admitted[1].median().item() == 1.0
    assert with_gate(bridge, -9.0)(one, start).admitted[1].median().item() == 0.0


def test_a_half_admitted_segment_weighs_half_in_the_cache() -> None:
    state = walk(with_gate(bridge := selective(), 6.0), make_segments([[2, 2]]))
    half, one = torch.full((1,), 0.5), torch.ones(1)
    twice = state._replace(
        admitted=(one, half, half),
        cache=(*state.cache, state.cache[1]),
        cache_ms=(*state.cache_ms, state.cache_ms[1]),
        cache_mask=(*state.cache_mask, state.cache_mask[1]),
    )
    torch.testing.assert_close(bridge.read(twice).tokens, bridge.read(state).tokens)


def test_one_salient_patch_opens_the_gate() -> None:
    bridge = with_gate(selective(), -6.0)
    torch.nn.init.normal_(bridge.update.of_patch[-1].weight)
    segments = make_segments([[2, 2, 2, 2]])
    salience = [bridge.update.of_patch(bridge._positioned(each)).amax().item() for each in segments]
    chosen = max(range(1, 4), key=lambda index: salience[index])
    others = max(each for index, each in enumerate(salience[1:], 1) if index != chosen)
    torch.nn.init.constant_(
        bridge.update.of_memory.bias, SelectiveRecurrence().admit_logit - 0.5 * (salience[chosen] + others)
    )
    assert [each > 0 for each in admissions(walk(bridge, segments))] == [index in (0, chosen) for index in range(4)]


def test_the_price_is_a_mean_over_real_segments_after_the_first() -> None:
    bridge = selective()
    together = bridge.penalty(walk(bridge, make_segments(LENGTHS, segments=6)))
    alone = [
        bridge.penalty(walk(bridge, make_segments([lengths], seeds=[video]))) for video, lengths in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together > 0).tolist() == [len(lengths) > 1 for lengths in LENGTHS]


def test_the_price_closes_the_gate() -> None:
    bridge = selective(update_penalty=1.0)
    segments = make_segments([[2, 2, 2]])
    optimizer = torch.optim.SGD(bridge.update.parameters(), lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        bridge.penalty(walk(bridge, segments)).sum().backward()
        optimizer.step()
    assert admissions(walk(bridge, segments)) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recurrence": "gated"}, "recurrence must be one of"),
        ({"update_penalty": -1.0}, "must be at least 0, got -1"),
        ({"num_memory": 0}, "num_memory and num_layers must be at least 1"),
        ({"num_layers": 0}, "num_memory and num_layers must be at least 1"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective(**options)


@pytest.mark.parametrize("readout", ["cache", "memory", "cache_and_memory", "last_segment"])
def test_a_video_of_one_segment_leaves_no_part_of_the_gate_out_of_the_graph(readout: str) -> None:
    bridge = recurrent(readout, recurrence="selective")
    state = walk(bridge, make_segments([[2]]))
    (bridge.read(state).tokens.sum() + bridge.penalty(state).sum()).backward()
    assert [name for name, parameter in bridge.update.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("admit_logit", "admitted"), [(3.0, [1.0, 0.0, 0.0]), (1.0, [1.0, 1.0, 1.0])])
def test_threshold_outside_training_can_be_set(admit_logit: float, admitted: list[float]) -> None:
    bridge = with_gate(selective(recurrence=SelectiveRecurrence(admit_logit=admit_logit)), 2.0)
    assert admissions(walk(bridge, make_segments([[2, 2, 2]]))) == admitted


def test_low_temperature_opens_or_closes_the_gate_completely() -> None:
    segments = make_segments([[2]] * 500)[0]
    partly = []
    for temperature in (2.0 / 3.0, 0.01):
        torch.manual_seed(0)
        bridge = with_gate(selective(recurrence=SelectiveRecurrence(temperature=temperature)), 0.0).train()
        admitted = bridge(segments, bridge(segments, None)).admitted[1]
        partly.append(((admitted > 0) & (admitted < 1)).float().mean().item())
    assert partly[0] > 0.3
    assert partly[1] < 0.02


def test_start_of_the_gates_can_be_set() -> None:
    recurrence = SelectiveRecurrence(first_carry=0.1, first_channel_logit=-2.0)
    bridge = RecurrentMemoryBridge(16, 12, num_heads=2, recurrence=recurrence)
    assert bridge.gate.unique().tolist() == pytest.approx([0.1])
    assert bridge.update is not None
    assert bridge.update.channel.bias.unique().tolist() == [-2.0]


@pytest.mark.parametrize("numbers", [{"temperature": 0.0}, {"stretch": -0.1}])
def test_temperature_and_stretch_must_be_positive(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SelectiveRecurrence(**numbers)


def test_numbers_of_the_recurrence_and_the_readout_can_be_set_in_a_config() -> None:
    parser = ArgumentParser()
    parser.add_argument("--bridge", type=Callable[[int, int], VisualReader])
    readout = {
        "class_path": "components.bridges.readouts.retrieved.RetrievedReadout",
        "init_args": {"keys": {"typical_keys": 16, "time_width": 8, "longest_time": 3.0}, "longest_question": 99.0},
    }
    init_args = {"num_heads": 2, "recurrence": {"temperature": 0.5}, "readout": readout}
    config = parser.parse_object(
        {"bridge": {"class_path": "components.bridges.recurrent.RecurrentMemoryBridge", "init_args": init_args}}
    )
    bridge = parser.instantiate(config).bridge(16, 12)
    assert bridge.update.settings == SelectiveRecurrence(temperature=0.5)
    read = bridge.readout
    assert (read.attention.typical_keys, read.time.in_features) == (16, 8)
    assert (read.keys.longest_time, read.keys.shortest_time, read.longest_question) == (3.0, 1.0, 99.0)


def test_odd_time_code_is_refused() -> None:
    with pytest.raises(ValueError, match="time_width must be even"):
        CacheKeys(time_width=7)
