import pytest
import torch

from components.interfaces import BridgeDiagnostics
from tests.components.readers.reader_runs import (
    LENGTHS,
    MILLISECONDS_A_FRAME,
    NUM_PATCHES,
    OUT_DIM,
    make_segments,
    read,
    walk,
)
from tests.components.readers.reader_table import READERS, READOUTS, recurrent, selective

every_readout = pytest.mark.parametrize("readout", READOUTS)
mean_pooling = READERS["mean_pooling"].make


@every_readout
def test_video_without_the_segment_keeps_its_state(readout: str) -> None:
    bridge = recurrent(readout)
    segments = make_segments([[2, 2], [2]])
    before = bridge(segments[0], None)
    after = bridge(segments[1], before)
    for kept_field, old_field in ((after.memory, before.memory), (after.last_input, before.last_input)):
        torch.testing.assert_close(kept_field[1], old_field[1], rtol=0, atol=0)
    assert torch.equal(after.token_mask[1], before.token_mask[1])
    assert after.end_ms.tolist() == [3 * MILLISECONDS_A_FRAME, MILLISECONDS_A_FRAME]
    assert [mask.tolist() for mask in after.cache_mask] == [[True, True], [True, False]]
    assert not torch.allclose(after.memory[0], before.memory[0])


def test_closed_gate_starts_every_segment_from_the_initial_memory() -> None:
    bridge = recurrent(gate=0.0)
    first, second = make_segments([[2, 2]])
    fresh = bridge(second, None)
    torch.testing.assert_close(bridge(second, bridge(first, None)).cache[-1], fresh.cache[-1])


def test_open_gate_carries_memory_and_cutting_the_recurrence_does_not() -> None:
    first, second = make_segments([[2, 2]])
    carried = {}
    for recurrence in ("replacing", "none"):
        bridge = recurrent(recurrence=recurrence)
        difference = bridge(second, bridge(first, None)).cache[-1] - bridge(second, None).cache[-1]
        carried[recurrence] = float(difference.detach().abs().max())
    assert carried["replacing"] > 1e-2
    assert carried["none"] == 0.0


def test_memory_tokens_are_distinct_after_every_step() -> None:
    bridge = recurrent(num_memory=6)
    state = None
    for segment in make_segments([[2] * 12]):
        state = bridge(segment, state)
        tokens = state.memory[0].detach()
        nearest = (tokens[:, None] - tokens[None]).norm(dim=-1) + torch.eye(len(tokens)) * 1e9
        assert float(nearest.min()) > 1e-2 * float(tokens.norm(dim=-1).mean())


def test_place_and_order_of_frames_matter() -> None:
    bridge = recurrent()
    [segment] = make_segments([[3]])
    patches = segment.grid(bridge)
    swapped_frames = segment._replace(tokens=patches.flip(1).flatten(1, 2))
    swapped_patches = segment._replace(tokens=patches.flip(2).flatten(1, 2))
    plain = read(bridge, [segment]).tokens
    assert not torch.allclose(read(bridge, [swapped_frames]).tokens, plain, atol=1e-4)
    assert not torch.allclose(read(bridge, [swapped_patches]).tokens, plain, atol=1e-4)


def test_order_of_segments_matters_even_without_recurrence() -> None:
    bridge = recurrent(recurrence="none")
    first, second = make_segments([[2, 2]])
    swapped = [first._replace(tokens=second.tokens), second._replace(tokens=first.tokens)]
    assert not torch.allclose(read(bridge, swapped).tokens, read(bridge, [first, second]).tokens, atol=1e-4)


def test_segment_attention_sums_to_one_over_the_real_segments() -> None:
    bridge = recurrent()
    state = walk(bridge, make_segments(LENGTHS, segments=5))
    attention = bridge.diagnostics(state, with_attention=True).segment_attention
    assert attention is not None
    assert attention.shape == (len(LENGTHS), 5, 5)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(len(LENGTHS), 5))
    for video, lengths in enumerate(LENGTHS):
        assert not attention[video, :, len(lengths) :].any()


def test_diagnostics_show_what_the_bridge_has() -> None:
    state = walk(bridge := selective(), make_segments(LENGTHS))
    shown = bridge.diagnostics(state, with_attention=True)
    assert shown.memory is state.memory
    assert shown.admitted is not None
    assert shown.admitted.tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    assert recurrent().diagnostics(walk(recurrent(), make_segments(LENGTHS))).admitted is None
    last_segment = recurrent("last_segment")
    nothing = last_segment.diagnostics(walk(last_segment, make_segments(LENGTHS)), with_attention=True)
    assert nothing.segment_attention is None
    averaging = mean_pooling()
    assert averaging.diagnostics(walk(averaging, make_segments(LENGTHS)), with_attention=True) == BridgeDiagnostics()


@pytest.mark.parametrize(
    ("readout", "num_tokens"),
    [
        ("cache_and_memory", 5 + 3),
        ("cache", 5),
        ("memory", 3),
        ("last_segment", 3 * NUM_PATCHES),
        ("memory_and_last_segment", 3 + 3 * NUM_PATCHES),
    ],
)
def test_readouts_give_as_many_tokens_as_they_say(readout: str, num_tokens: int) -> None:
    visual = read(recurrent(readout), make_segments([[1, 3]]))
    assert visual.tokens.shape == (1, num_tokens, OUT_DIM)
    assert visual.mask.shape == (1, num_tokens)
    assert bool(visual.mask.all())


def test_last_segment_readout_masks_what_other_videos_have_more() -> None:
    visual = read(recurrent("last_segment"), make_segments(LENGTHS))
    assert visual.mask.sum(dim=1).tolist() == [NUM_PATCHES * lengths[-1] for lengths in LENGTHS]


def test_mean_pooling_does_not_depend_on_the_cuts() -> None:
    bridge = mean_pooling()
    whole, cut = (read(bridge, make_segments([lengths])).tokens for lengths in ([6], [1, 3, 2]))
    torch.testing.assert_close(whole, cut)


def test_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width 8 is not divisible by 3 heads"):
        recurrent(num_heads=3)
