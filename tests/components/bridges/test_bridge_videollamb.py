from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.bridges.videollamb_bridge import VideoLLaMBBridge, VideoLLaMBState
from components.interfaces import SegmentInput

DIM, OUT_DIM, MEMORY, PATCHES = 16, 12, 5, 16
# Frames of every segment of three videos; 0 where a video has no such segment.
LENGTHS = ((2, 3, 1), (3, 1, 0), (1, 0, 0))


def build(**options: object) -> VideoLLaMBBridge:
    """A bridge whose memory tokens differ from the start, so that no test hangs on their symmetry."""
    torch.manual_seed(0)
    settings = {"num_memory": MEMORY, "num_layers": 2, "num_heads": 4, "mlp_width": 24, **options}
    bridge = VideoLLaMBBridge(DIM, OUT_DIM, **settings)  # type: ignore[arg-type]
    torch.nn.init.normal_(bridge.initial_memory)
    return bridge.eval()


def segment_of(frames: list[Tensor]) -> SegmentInput:
    """Pad segments ``[L, N, D]`` of several videos to a common length; the padding holds large numbers."""
    length = max(1, *(each.shape[0] for each in frames))
    patches = torch.full((len(frames), length, PATCHES, DIM), 50.0)
    mask = torch.zeros(len(frames), length, dtype=torch.bool)
    for row, each in enumerate(frames):
        patches[row, : each.shape[0]] = each
        mask[row, : each.shape[0]] = True
    return SegmentInput.from_grid(patches, mask, torch.zeros(mask.shape, dtype=torch.int64))


def videos() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(length, PATCHES, DIM, generator=generator) for length in row] for row in LENGTHS]


def walk(bridge: VideoLLaMBBridge, rows: list[list[Tensor]]) -> list[VideoLLaMBState]:
    states: list[VideoLLaMBState] = []
    for step in range(len(rows[0])):
        states.append(bridge(segment_of([row[step] for row in rows]), states[-1] if states else None))
    return states


def read_row(bridge: VideoLLaMBBridge, state: VideoLLaMBState, row: int) -> Tensor:
    visual = bridge.read(state)
    return visual.tokens[row][visual.mask[row]]


def test_batch_equals_single_videos() -> None:
    bridge = build()
    together = walk(bridge, videos())[-1]
    for row, video in enumerate(videos()):
        alone = walk(bridge, [[frames for frames in video if len(frames)]])[-1]
        torch.testing.assert_close(read_row(bridge, together, row), read_row(bridge, alone, 0), atol=1e-5, rtol=0)
        torch.testing.assert_close(bridge.retrieve(together)[row], bridge.retrieve(alone)[0], atol=1e-5, rtol=0)


def test_a_segment_without_frames_changes_nothing() -> None:
    bridge = build()
    before = walk(bridge, videos())[-1]
    after = bridge(segment_of([torch.zeros(0, PATCHES, DIM)] * 3), before)
    assert torch.equal(after.memory, before.memory)
    assert torch.equal(bridge.read(after).tokens, bridge.read(before).tokens)
    assert torch.equal(bridge.read(after).mask, bridge.read(before).mask)
    torch.testing.assert_close(bridge.retrieve(after), bridge.retrieve(before), atol=1e-6, rtol=0)


def test_a_video_without_any_segment_yet_keeps_the_initial_memory() -> None:
    bridge = build()
    late, video = torch.zeros(0, PATCHES, DIM), torch.randn(2, PATCHES, DIM)
    state = bridge(segment_of([late, video]), None)
    assert torch.equal(state.memory[0], bridge.initial_memory)
    assert not bridge.read(state).mask[0].any()
    state = bridge(segment_of([video, late]), state)
    alone = bridge(segment_of([video]), None)
    torch.testing.assert_close(read_row(bridge, state, 0), read_row(bridge, alone, 0), atol=1e-5, rtol=0)


def test_shorter_and_longer_segments_may_follow_each_other() -> None:
    bridge = build()
    short, long = torch.randn(1, PATCHES, DIM), torch.randn(4, PATCHES, DIM)
    for first, second in ((short, long), (long, short)):
        state = bridge(segment_of([second]), bridge(segment_of([first]), None))
        assert read_row(bridge, state, 0).shape == (len(second) * PATCHES, OUT_DIM)


def test_tokens_of_the_language_model_are_never_far_below_zero() -> None:
    tokens = build().read(walk(build(), videos())[-1]).tokens
    assert -0.2 < tokens.min() < 0 < tokens.max()


def test_retrieval_acts_from_the_second_segment_on() -> None:
    bridge = build()
    without = build(retrieval=False)
    without.load_state_dict({name: value for name, value in bridge.state_dict().items() if "retrieval" not in name})
    states, plain = walk(bridge, videos()), walk(without, videos())
    torch.testing.assert_close(states[0].memory, plain[0].memory)
    assert not torch.allclose(states[1].memory[0], plain[1].memory[0], atol=1e-3)
    assert torch.equal(without.retrieve(plain[0]), plain[0].memory)


def test_retrieval_looks_at_all_earlier_segments() -> None:
    bridge = build()
    first, *rest = videos()[0]
    state, other = walk(bridge, [[first, *rest]])[-1], walk(bridge, [[first, *rest]])[-1]
    changed = other._replace(cache=(other.cache[0] + 1.0, *other.cache[1:]))
    assert not torch.allclose(bridge.retrieve(state), bridge.retrieve(changed), atol=1e-3)


def test_gradient_reaches_the_first_segments_frames() -> None:
    bridge = build()
    frames = [each.requires_grad_() for each in videos()[0]]
    read_row(bridge, walk(bridge, [frames])[-1], 0).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in frames)


@pytest.mark.parametrize("num_segments", [1, 2])
def test_every_parameter_stands_in_the_graph_of_every_batch(num_segments: int) -> None:
    bridge = build()
    state = walk(bridge, [[torch.randn(2, PATCHES, DIM) for _ in range(num_segments)]])[-1]
    bridge.read(state).tokens.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in bridge.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    idle = {name for name, gradient in gradients.items() if gradient is not None and not gradient.any()}
    assert idle == ({name for name in gradients if name.startswith("retrieval")} if num_segments == 1 else set())


def test_without_dropout_equal_memory_tokens_stay_equal() -> None:
    bridge = build()
    torch.nn.init.zeros_(bridge.initial_memory)
    memory = walk(bridge, videos())[-1].memory
    torch.testing.assert_close(memory, memory[:, :1].expand_as(memory), atol=1e-6, rtol=0)


def test_dropout_acts_in_training_only_and_sets_memory_tokens_apart() -> None:
    bridge = build()
    torch.nn.init.zeros_(bridge.initial_memory)
    assert torch.equal(walk(bridge, videos())[-1].memory, walk(bridge, videos())[-1].memory)
    memory = walk(bridge.train(), videos())[-1].memory
    assert (memory - memory[:, :1]).abs().amax() > 0.1


def test_a_given_memory_may_have_another_number_of_tokens() -> None:
    bridge = build()
    memory = torch.randn(1, 7, DIM)
    state = bridge(segment_of([torch.randn(2, PATCHES, DIM)]), bridge.start(memory))
    assert state.memory.shape == bridge.retrieve(state).shape == (1, 7, DIM)
    learned = bridge.start(bridge.initial_memory[None])
    segment = segment_of(videos()[0][:1])
    torch.testing.assert_close(bridge(segment, learned).memory, bridge(segment, None).memory)


def test_half_precision_features_are_read_at_the_bridges_precision() -> None:
    state = build()(segment_of([torch.randn(2, PATCHES, DIM)])._replace(tokens=torch.randn(1, 32, 16).half()), None)
    assert state.memory.dtype == torch.float32


def test_trained_weights_are_loaded_and_others_refused(tmp_path: Path) -> None:
    trained, path = build(), tmp_path / "bridge.safetensors"
    save_file(trained.state_dict(), path)
    loaded = build(weights=str(path))
    name = "layers.1.widen.weight"
    assert torch.equal(loaded.get_parameter(name), trained.get_parameter(name))
    with pytest.raises(ValueError, match=r"unknown: layers\.1\..*Set the bridge's sizes as they were trained"):
        build(num_layers=1, weights=str(path))
    with pytest.raises(ValueError, match=r"of another shape: initial_memory \[5, 16\] instead of \[4, 16\]"):
        build(num_memory=4, weights=str(path))


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="width 16 is not divisible by 3 heads"):
        build(num_heads=3)
    with pytest.raises(ValueError, match=r"num_memory \(0\)"):
        build(num_memory=0)
