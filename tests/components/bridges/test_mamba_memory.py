"""The layer equals that of transformers, and carries its state from segment to segment."""

import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from components.bridges.layers.selective_state_space import SelectiveStateSpace
from components.bridges.mamba_memory import MambaMemory
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, read, walk

WIDTH = 20


def mixer_and_layer() -> tuple[MambaMixer, SelectiveStateSpace]:
    """A layer of transformers, and ours with its weights."""
    torch.manual_seed(0)
    mixer = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=6, conv_kernel=4, expand=2, num_hidden_layers=1), 0)
    layer = SelectiveStateSpace(WIDTH, state_size=6)
    layer.load_state_dict(mixer.state_dict())
    return mixer.eval(), layer


@pytest.mark.parametrize("cuts", [[11], [1] * 11, [2, 5, 4]])
def test_the_layer_equals_that_of_transformers_on_the_complete_sequence(cuts: list[int]) -> None:
    mixer, layer = mixer_and_layer()
    tokens = torch.randn(2, 11, WIDTH)
    state, given = None, []
    for part in tokens.split(cuts, dim=1):
        out, state = layer(part, torch.ones(part.shape[:2], dtype=torch.bool), state)
        given.append(out)
    torch.testing.assert_close(torch.cat(given, dim=1), mixer(tokens), rtol=1e-4, atol=1e-5)


def test_the_layer_starts_as_that_of_transformers() -> None:
    mixer, layer = mixer_and_layer()
    fresh = SelectiveStateSpace(WIDTH, state_size=6)
    assert torch.equal(fresh.A_log, mixer.A_log)
    assert torch.equal(fresh.D, mixer.D)
    steps = torch.nn.functional.softplus(fresh.dt_proj.bias.detach())
    assert float(steps.min()) >= 0.99e-3
    assert float(steps.max()) <= 1.01e-1
    assert fresh.dt_proj.weight.abs().max() <= layer.dt_proj.weight.shape[1] ** -0.5


def test_masked_tokens_change_no_bit_of_the_state() -> None:
    _, layer = mixer_and_layer()
    tokens = torch.randn(3, 5, WIDTH)
    _, before = layer(tokens, torch.ones(3, 5, dtype=torch.bool), None)
    mask = torch.arange(5) < torch.tensor([0, 2, 5])[:, None]
    _, after = layer(torch.randn(3, 5, WIDTH), mask, before)
    for one, other in zip(after, before, strict=True):
        assert torch.equal(one[0], other[0])
        assert not torch.equal(one[1], other[1])


def test_padding_within_a_video_equals_no_padding() -> None:
    _, layer = mixer_and_layer()
    tokens = torch.randn(1, 7, WIDTH)
    first = torch.cat([tokens[:, :2], torch.full((1, 3, WIDTH), 9.0)], dim=1)
    _, state = layer(first, torch.tensor([[True, True, False, False, False]]), None)
    _, padded = layer(tokens[:, 2:], torch.ones(1, 5, dtype=torch.bool), state)
    _, plain = layer(tokens, torch.ones(1, 7, dtype=torch.bool), None)
    for one, other in zip(padded, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_cuts_between_segments_change_nothing(num_layers: int) -> None:
    torch.manual_seed(0)
    reader = MambaMemory(DIM, OUT_DIM, num_layers=num_layers, num_queries=3, frame_positions=True)
    shown = [read(reader, make_segments([cut])).tokens for cut in ([8], [1] * 8, [3, 3, 2])]
    for other in shown[1:]:
        torch.testing.assert_close(other, shown[0], rtol=1e-4, atol=1e-5)


def test_reading_does_not_change_the_state() -> None:
    reader = MambaMemory(DIM, OUT_DIM, num_queries=3)
    state = walk(reader, make_segments([[2, 3]]))
    before = [each.clone() for each in state.layers[0]]
    first, again = reader.read(state), reader.read(state)
    assert torch.equal(first.tokens, again.tokens)
    assert all(torch.equal(one, other) for one, other in zip(before, state.layers[0], strict=True))


def test_a_video_changes_what_is_read_from_the_start_of_training() -> None:
    torch.manual_seed(0)
    reader = MambaMemory(DIM, OUT_DIM, num_queries=3)
    tokens = read(reader, make_segments([[4, 4]] * 8)).tokens
    # Read by learned tokens alone, the first number is a thousandth of the second.
    assert tokens.std(dim=0).mean() > 0.03 * tokens.std()


def test_half_precision_keeps_the_state_in_full_precision() -> None:
    reader = MambaMemory(DIM, OUT_DIM, num_queries=3).bfloat16()
    segments = [segment._replace(tokens=segment.tokens.bfloat16()) for segment in make_segments([[2, 3]])]
    state = walk(reader, segments)
    assert state.layers[0].hidden.dtype == torch.float32
    assert reader.read(state).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["num_layers", "state_size", "num_queries"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        MambaMemory(DIM, OUT_DIM, **{name: 0})


def test_a_width_without_room_for_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be divisible by 4"):
        MambaMemory(DIM, OUT_DIM, width=6)
