from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.cache import CacheReadout
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.readouts.memory import MemoryReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import BridgeDiagnostics, SegmentInput, VisualReader, VisualTokens

DIM = 16
OUT_DIM = 12
NUM_PATCHES = 4
MILLISECONDS_A_FRAME = 500
LENGTHS = [[2, 3, 1], [3], [1, 2]]  # frames of every segment, of three videos

READOUTS: dict[str, Callable[..., Any]] = {
    "cache_and_memory": partial(CacheAndMemoryReadout, num_queries=5, num_heads=2),
    "cache": partial(CacheReadout, num_queries=5, num_heads=2),
    "memory": MemoryReadout,
    "last_segment": LastSegmentReadout,
    "memory_and_last_segment": partial(LastSegmentReadout, with_memory=True),
}


def recurrent(readout: str = "cache", *, gate: float = 0.7, **options: Any) -> RecurrentMemoryBridge:
    """A bridge whose gate is open, as after some training."""
    torch.manual_seed(0)
    settings = {"width": 8, "num_memory": 3, "num_heads": 2, "num_layers": 2, "recurrence": "replacing"} | options
    bridge = RecurrentMemoryBridge(DIM, OUT_DIM, readout=READOUTS[readout], **settings)
    torch.nn.init.constant_(bridge.gate, gate)
    return bridge


def selective() -> RecurrentMemoryBridge:
    """A bridge that admits every segment; in evaluation mode, since training draws the gate at random."""
    bridge = recurrent("cache_and_memory", recurrence="selective")
    torch.nn.init.constant_(bridge.update.of_memory.bias, 5.0)
    return bridge.eval()


def mean_pooling() -> MeanPooling:
    torch.manual_seed(0)
    return MeanPooling(DIM, OUT_DIM)


BRIDGES: dict[str, Callable[[], VisualReader[Any]]] = {
    **{name: partial(recurrent, name) for name in READOUTS},
    "not_recurrent": partial(recurrent, recurrence="none"),
    "selective": selective,
    "mean_pooling": mean_pooling,
}
every_bridge = pytest.mark.parametrize("make", BRIDGES.values(), ids=BRIDGES)
every_readout = pytest.mark.parametrize("readout", READOUTS)


def make_segments(
    lengths: list[list[int]], *, seeds: list[int] | None = None, segments: int = 0, frames: int = 0
) -> list[SegmentInput]:
    """Segments of videos with random patches; what is masked holds garbage.

    A video's patches depend on its seed (its number by default) alone, not on the padding.
    """
    num_segments = max(segments, *(len(video) for video in lengths))
    longest = max(frames, *(length for video in lengths for length in video))
    patches = torch.full((len(lengths), num_segments, longest, NUM_PATCHES, DIM), 1e3)
    mask = torch.zeros(len(lengths), num_segments, longest, dtype=torch.bool)
    times = torch.full(mask.shape, 10**9)
    for row, (video, seed) in enumerate(zip(lengths, seeds or range(len(lengths)), strict=True)):
        content = torch.randn(sum(video), NUM_PATCHES, DIM, generator=torch.Generator().manual_seed(seed))
        first = 0
        for segment, length in enumerate(video):
            patches[row, segment, :length] = content[first : first + length]
            mask[row, segment, :length] = True
            times[row, segment, :length] = torch.arange(first, first + length) * MILLISECONDS_A_FRAME
            first += length
    return [SegmentInput.from_grid(patches[:, s], mask[:, s], times[:, s]) for s in range(num_segments)]


def shortened(segment: SegmentInput, length: int) -> SegmentInput:
    """The segment without the frame groups after the first ``length``."""
    frames = (field[:, :length] for field in (segment.frame_mask, segment.frame_ms, segment.frame_number))
    return SegmentInput(segment.tokens[:, : length * segment.num_cells], *frames, segment.num_cells)


def walk(bridge: VisualReader[Any], segments: list[SegmentInput]) -> Any:
    state = None
    for segment in segments:
        state = bridge(segment, state)
    return state


def read(bridge: VisualReader[Any], segments: list[SegmentInput]) -> VisualTokens:
    return bridge.read(walk(bridge, segments))


def kept(visual: VisualTokens, video: int) -> Tensor:
    """Real visual tokens of one video."""
    return visual.tokens[video][visual.mask[video]]


@every_bridge
@pytest.mark.parametrize("padding", [{"segments": 5}, {"frames": 6}, {"segments": 4, "frames": 4}])
def test_padding_by_masked_frames_and_empty_segments_changes_nothing(
    make: Callable[[], VisualReader[Any]], padding: dict[str, int]
) -> None:
    bridge = make()
    plain, padded = read(bridge, make_segments(LENGTHS)), read(bridge, make_segments(LENGTHS, **padding))
    for video in range(len(LENGTHS)):
        torch.testing.assert_close(kept(padded, video), kept(plain, video), rtol=1e-5, atol=1e-5)


@every_bridge
def test_batch_of_videos_equals_the_videos_alone(make: Callable[[], VisualReader[Any]]) -> None:
    bridge = make()
    together = read(bridge, make_segments(LENGTHS))
    for video, lengths in enumerate(LENGTHS):
        alone = read(bridge, make_segments([lengths], seeds=[video]))
        torch.testing.assert_close(kept(together, video), kept(alone, 0), rtol=1e-5, atol=1e-5)


@every_bridge
def test_streaming_segment_by_segment_equals_offline_at_every_moment(make: Callable[[], VisualReader[Any]]) -> None:
    bridge = make()
    offline = make_segments(LENGTHS)
    for video, lengths in enumerate(LENGTHS):
        state = None
        for step, length in enumerate(lengths):
            # A stream holds no padding: the segment is as long as it is.
            segment = shortened(offline[step].of_videos(slice(video, video + 1)), length)
            state = bridge(segment, state)
            so_far = read(bridge, offline[: step + 1])
            torch.testing.assert_close(kept(bridge.read(state), 0), kept(so_far, video), rtol=1e-5, atol=1e-5)


@every_bridge
def test_bridge_keeps_nothing_between_calls(make: Callable[[], VisualReader[Any]]) -> None:
    bridge = make()
    first = read(bridge, make_segments(LENGTHS))
    read(bridge, make_segments([[4, 4]], seeds=[7]))
    torch.testing.assert_close(read(bridge, make_segments(LENGTHS)), first, rtol=0, atol=0)


@every_bridge
@pytest.mark.parametrize("lengths", [[[2]], LENGTHS], ids=["one_segment", "several"])
def test_every_parameter_gets_a_gradient(make: Callable[[], VisualReader[Any]], lengths: list[list[int]]) -> None:
    bridge = make()
    state = walk(bridge, make_segments(lengths))
    penalty = bridge.penalty(state)
    (bridge.read(state).tokens.square().sum() + (0.0 if penalty is None else penalty.sum())).backward()
    missing = [name for name, parameter in bridge.named_parameters() if parameter.grad is None]
    assert missing == []
    assert all(bool(parameter.grad.isfinite().all()) for parameter in bridge.parameters() if parameter.grad is not None)


@every_bridge
def test_every_real_frame_and_no_masked_one_matters(make: Callable[[], VisualReader[Any]]) -> None:
    segments = make_segments(LENGTHS, segments=4)
    for segment in segments:
        segment.tokens.requires_grad_()
    visual = read(make(), segments)
    visual.tokens[visual.mask].square().sum().backward()
    for step, segment in enumerate(segments):
        assert segment.tokens.grad is not None
        reached = segment.tokens.grad.unflatten(1, (-1, NUM_PATCHES)).abs().sum(dim=(2, 3)) > 0  # [V, L]
        assert not bool((reached & ~segment.frame_mask).any()), f"a masked frame matters in segment {step}"
        assert torch.equal(reached, segment.frame_mask), f"a real frame does not matter in segment {step}"


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


@every_bridge
def test_diagnostics_have_a_row_for_every_video_and_call_no_module(make: Callable[[], VisualReader[Any]]) -> None:
    bridge = make()
    state = walk(bridge, make_segments(LENGTHS))
    for module in bridge.modules():
        module.register_forward_pre_hook(lambda module, _: pytest.fail(f"{type(module).__name__} was called"))
    shown = bridge.diagnostics(state)
    assert shown.segment_attention is None
    assert {len(each) for each in shown if each is not None} <= {len(LENGTHS)}


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
