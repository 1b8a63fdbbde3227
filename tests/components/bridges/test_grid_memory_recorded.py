"""The grid memory gives the numbers that the Memory-Augmented VLM code gave.

Attention runs unfused, as it was recorded. Fused attention rounds elsewhere, which is as exact; but where attention is
as sharp as in the recordings, rounding alone has grown to 1.3e-5 after twelve segments.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.bridges.fusers import MlpFuser
from components.bridges.grid_memory import GridMemory
from components.bridges.grid_memory_state import GridMemoryState
from components.interfaces import SegmentInput
from components.positions import interleaved_sinusoid
from components.readers.fine_frames import FineFrames
from components.type_embedding import TypeEmbedding
from tests.components.bridges.recorded_memory import (
    CASES,
    META,
    our_name,
    recorded,
    recorded_memory,
    recorded_outputs,
    recorded_segments,
)

GRID = (META["memory_tokens"], META["patches"], META["hidden"])
every_case = pytest.mark.parametrize("sequence", CASES)


@pytest.fixture
def unfused() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


def assert_recorded(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=0, atol=tolerance)


def states_after(reader: GridMemory, segments: list[SegmentInput]) -> list[GridMemoryState]:
    states: list[GridMemoryState] = []
    for segment in segments:
        states.append(reader(segment, states[-1] if states else None))
    return states


@pytest.mark.usefixtures("unfused")
@every_case
def test_memories_and_updated_queries_are_those_recorded(sequence: str) -> None:
    reader, updated = recorded_memory(), list[Tensor]()
    reader.update.register_forward_hook(lambda module, given, output: updated.append(output))
    states = states_after(reader, recorded_segments(sequence))
    outputs = recorded_outputs(sequence)
    assert outputs
    for kind, segment, step, expected in outputs:
        # The first call only puts the update's weights into the graph.
        ours = states[segment].newest[0] if kind == "memory" else updated[segment][0]
        assert_recorded(ours[::step], expected)


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("recompute", [False, True], ids=["stored", "recomputed"])
@every_case
def test_loss_and_gradients_are_those_recorded(sequence: str, recompute: bool) -> None:
    reader = recorded_memory(recompute=recompute)
    case = META["depth2"][sequence]
    shown = reader.read(states_after(reader, recorded_segments(sequence))[-1]).tokens
    assert list(shown.unflatten(1, (-1, GRID[1])).shape[1:]) == case["cache_cat_shape"]
    loss = shown.pow(3).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(case["loss_mean_cube"], abs=1e-5)
    norms = {name: parameter.grad.norm().item() for name, parameter in reader.named_parameters()}  # type: ignore[union-attr]
    expected = {our_name(name): norm or 0.0 for name, norm in case["grad_norms"].items()}  # null: not in their graph
    assert norms == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("unfused")
def test_videos_of_a_batch_give_the_recorded_memories() -> None:
    reader = recorded_memory()
    state = states_after(reader, recorded_segments("abc"))[-1]
    shown = reader.read(state)
    for row, sequence in enumerate("abc"):
        cached = META["depth2"][sequence]["cache_after_segment"][-1]
        theirs = {each.segment: each for each in recorded_outputs(sequence) if each.kind == "memory"}
        memories = shown.tokens[row][shown.mask[row]].chunk(len(cached))
        for memory, segment in zip(memories, cached, strict=True):
            assert_recorded(memory[:: theirs[segment].step], theirs[segment].vectors)


@every_case
def test_fused_attention_differs_by_rounding_alone(sequence: str) -> None:
    reader, segments = recorded_memory(), recorded_segments(sequence)
    fused = states_after(reader, segments)[-1].newest
    exact = states_after(reader.double(), [each._replace(tokens=each.tokens.double()) for each in segments])[-1].newest
    torch.testing.assert_close(fused.double(), exact, rtol=0, atol=5e-5)


def test_fused_memories_and_types_are_those_recorded() -> None:
    stored, memories = recorded("fuser"), recorded("memory_depth2")
    fuser, kinds = MlpFuser(GRID[2]), [TypeEmbedding(GRID[2]) for _ in range(2)]
    names = {"expand": "0", "contract": "2"}
    for name, module in fuser.named_children():
        for key in ("weight", "bias"):
            setattr(module, key, nn.Parameter(stored[f"memory_fuser.{names[name]}.{key}"]))
    for kind, row in zip(kinds, stored["token_type_embedding.weight"], strict=True):
        kind.vector = nn.Parameter(row)
    cached = torch.cat([memories[f"a.memory.{index:02d}"] for index in range(3)])
    fused = fuser(cached.flatten(0, 1)[None], None)[0]
    assert_recorded(fused[::5], stored["out.fused_every5th"])
    assert_recorded(kinds[0](fused)[: 8 * GRID[1] : 5], stored["out.memory_typed.first8_every5th"])
    assert_recorded(kinds[1](stored["in.frames"]), stored["out.frames_typed"])


def test_positions_of_frames_are_those_recorded_and_go_on() -> None:
    stored = recorded("temporal_encoding")
    dim = stored["sin.frame_embed.first64"].shape[1]
    code = interleaved_sinusoid(torch.arange(600), dim)
    assert_recorded(code[:64], stored["sin.frame_embed.first64"])
    assert_recorded(code[-16:], stored["sin.frame_embed.last16"])
    beyond = interleaved_sinusoid(torch.tensor([600, 100_000]), dim)
    assert bool(beyond.isfinite().all())
    assert bool((beyond.square().sum(dim=1) - dim / 2).abs().max() < 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_readers_add_the_recorded_positions_in_the_dtype_of_the_patches(dtype: torch.dtype) -> None:
    stored = recorded("temporal_encoding")
    patches, number = stored["in.x3"].to(dtype)[None], stored["in.idx"][None]
    plain = SegmentInput.from_grid(patches, torch.ones(number.shape, dtype=torch.bool), 0 * number)
    segment = plain._replace(frame_number=number)
    reader = FineFrames(GRID[2], GRID[2], projection="none", frame_positions=True)
    shown = reader.read(reader(segment, None)).tokens
    expected = stored["sin.out3_idx" if dtype == torch.float32 else "sin.out3_bf16"]
    assert shown.dtype == dtype
    assert_recorded(shown[0], expected)
