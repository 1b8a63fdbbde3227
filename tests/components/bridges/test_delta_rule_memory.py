"""The delta rule by its definition, and the memory that is built on it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

from components.bridges.delta_rule_memory import DeltaRuleMemory
from components.bridges.layers import delta_rule
from components.bridges.layers.delta_rule import stored
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, read, walk

V, HEADS, KEY, VALUE = 2, 3, 4, 5


def drawn(num_tokens: int, seed: int = 0) -> tuple[Tensor, ...]:
    """State, keys, values, logarithms of decay and strengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(V, HEADS, *shape, generator=generator)

    keys = functional.normalize(normal(num_tokens, KEY), dim=-1)
    decay = -functional.softplus(normal(num_tokens))
    return normal(KEY, VALUE), keys, normal(num_tokens, VALUE), decay, normal(num_tokens).sigmoid()


def stored_by_definition(state: Tensor, keys: Tensor, values: Tensor, decay: Tensor, strength: Tensor) -> Tensor:
    """Token by token: S <- a S (I - b k k') + b v k', with S as keys by values."""
    state = state.clone()
    for video in range(V):
        for head in range(HEADS):
            matrix = state[video, head].T  # values by keys
            for token in range(keys.shape[2]):
                key, value = keys[video, head, token], values[video, head, token]
                share = strength[video, head, token]
                erased = torch.eye(KEY) - share * torch.outer(key, key)
                matrix = decay[video, head, token].exp() * matrix @ erased + share * torch.outer(value, key)
            state[video, head] = matrix.T
    return state


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 64, 65, 130])
def test_chunks_give_what_the_definition_gives(num_tokens: int) -> None:
    given = drawn(num_tokens)
    torch.testing.assert_close(stored(*given), stored_by_definition(*given), rtol=1e-4, atol=1e-4)


def test_the_state_equals_that_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_rule, "_CHUNK", 8)
    state, *tokens = drawn(37)
    keys, values, decay, strength = (each.transpose(1, 2) for each in tokens)
    _, expected = torch_recurrent_gated_delta_rule(
        keys, keys, values, decay, strength, initial_state=state, output_final_state=True
    )
    torch.testing.assert_close(stored(state, *tokens), expected, rtol=1e-4, atol=1e-5)


def test_a_token_without_strength_and_decay_changes_no_bit() -> None:
    state, keys, values, decay, strength = drawn(70)
    assert torch.equal(stored(state, keys, values, 0 * decay, 0 * strength), state)


def test_a_value_is_found_under_its_key_and_replaced_by_a_later_one() -> None:
    state, keys, values, decay, _ = drawn(2)
    keys = keys[:, :, :1].expand(-1, -1, 2, -1)
    after = stored(state, keys, values, 0 * decay, torch.ones_like(decay))
    found = (keys[:, :, 0, None] @ after)[:, :, 0]
    torch.testing.assert_close(found, values[:, :, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_tokens", [3, 80])
def test_gradients_are_those_of_the_definition(num_tokens: int) -> None:
    def gradients(rule: object) -> list[Tensor]:
        given = [each.requires_grad_() for each in drawn(num_tokens)]
        rule(*given).square().sum().backward()  # type: ignore[operator]
        return [each.grad for each in given if each.grad is not None]

    def plain(state: Tensor, *tokens: Tensor) -> Tensor:
        for key, value, decay, share in zip(*(each.unbind(2) for each in tokens), strict=True):
            state = state * decay.exp()[..., None, None]
            found = (state * key[..., None]).sum(dim=2)
            state = state + key[..., None] * (share[..., None] * (value - found))[:, :, None]
        return state

    for one, other in zip(gradients(stored), gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_cuts_between_segments_change_nothing() -> None:
    torch.manual_seed(0)
    reader = DeltaRuleMemory(DIM, OUT_DIM, num_heads=2, frame_positions=True)
    shown = [read(reader, make_segments([cut])).tokens for cut in ([12], [1] * 12, [5, 5, 2])]
    for other in shown[1:]:
        torch.testing.assert_close(other, shown[0], rtol=1e-4, atol=1e-5)


def test_a_video_without_the_segment_keeps_its_state_bit_by_bit() -> None:
    reader = DeltaRuleMemory(DIM, OUT_DIM, num_heads=2)
    segments = make_segments([[2, 3], [2]])
    before, after = walk(reader, segments[:1]), walk(reader, segments)
    assert torch.equal(after.matrix[1], before.matrix[1])
    assert not torch.equal(after.matrix[0], before.matrix[0])


def test_the_state_stays_bounded_over_thousands_of_frames() -> None:
    reader = DeltaRuleMemory(DIM, OUT_DIM, num_heads=2).eval()
    with torch.no_grad():
        sizes = [walk(reader, make_segments([[50] * steps])).matrix.abs().max() for steps in (2, 40)]
    assert sizes[1] < 3 * sizes[0]


def test_half_precision_keeps_the_state_in_full_precision() -> None:
    reader = DeltaRuleMemory(DIM, OUT_DIM, num_heads=2).bfloat16()
    segments = [segment._replace(tokens=segment.tokens.bfloat16()) for segment in make_segments([[2, 3]])]
    state = walk(reader, segments)
    assert state.matrix.dtype == torch.float32
    assert reader.read(state).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "must be at least 1, got 0 and 16"),
        ({"num_queries": 0}, "must be at least 1, got 4 and 0"),
        ({"num_heads": 3}, "width 16 is not divisible by 3 heads"),
        ({"width": 6, "num_heads": 2}, "width must be divisible by 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeltaRuleMemory(DIM, OUT_DIM, **options)  # type: ignore[arg-type]
