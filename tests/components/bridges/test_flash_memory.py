import pytest
import torch

from components.bridges.flash_memory import FlashMemory, FlashMemoryState
from components.bridges.layers.attention_update import AttentionUpdate
from components.interfaces import SegmentInput
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, read, real, walk


def memory(**options: int) -> FlashMemory:
    torch.manual_seed(0)
    settings = {"long_length": 3, "long_grid": 1, "abstract_length": 2, "num_keys": 2, "detail_grid": 2, "hidden": 4}
    return FlashMemory(DIM, OUT_DIM, **(settings | options))


def of_scenes(*numbers: int, segment: int = 3) -> list[SegmentInput]:
    """Segments of frames of which each shows the scene of its number, nearly without change."""
    scenes = torch.randn(max(numbers) + 1, 4, DIM, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(len(numbers), 4, DIM, generator=torch.Generator().manual_seed(2))
    frames = scenes[list(numbers)] + 0.01 * noise
    parts = frames[None].split(segment, dim=1)
    return [
        SegmentInput.from_grid(each, torch.ones(each.shape[:2], dtype=torch.bool), each[..., 0, 0].long())
        for each in parts
    ]


def state_after(reader: FlashMemory, segments: list[SegmentInput]) -> FlashMemoryState:
    state: FlashMemoryState = walk(reader, segments)
    return state


def test_weights_count_every_frame_but_the_newest() -> None:
    state = state_after(memory(), make_segments([[3] * 6, [1], [1, 2]]))
    torch.testing.assert_close(state.weights.sum(dim=1), torch.tensor([17.0, 0.0, 2.0]))
    assert state.has_newest.tolist() == [True] * 3


def test_the_clusters_keep_the_weighted_mean_of_all_frames_but_the_newest() -> None:
    segments = make_segments([[3, 3, 3, 2]])
    state = state_after(memory(), segments)
    frames = torch.cat([segment.grid(memory())[0] for segment in segments])[:10].mean(dim=1)
    mean = (state.centroids[0, :, 0] * state.weights[0, :, None]).sum(dim=0) / 10
    torch.testing.assert_close(mean, frames.mean(dim=0))


def test_two_static_scenes_give_two_large_clusters_with_a_key_frame_each() -> None:
    reader = memory(long_length=4)
    segments = of_scenes(*[0] * 9, *[1] * 6, 0)
    state = state_after(reader, segments)
    frames = torch.cat([segment.grid(reader)[0] for segment in segments])
    near = torch.cdist(state.frames[0].flatten(1), torch.stack([frames[0], frames[10]]).flatten(1)).argmin(dim=1)
    of_first = float(state.weights[0][near == 0].sum())
    assert of_first == 9.0
    assert float(state.weights.sum()) == 15.0
    assert all(any(torch.equal(stored, frame) for frame in frames) for stored in state.frames[0][state.weights[0] > 0])


def test_few_frames_are_clusters_of_their_own() -> None:
    [segment] = make_segments([[3]])
    state = state_after(memory(), [segment])
    torch.testing.assert_close(state.centroids[0, :2, 0], segment.grid(memory())[0, :2].mean(dim=1))
    assert state.weights.tolist() == [[1.0, 1.0, 0.0]]
    assert torch.equal(state.frames[0, :2], segment.grid(memory())[0, :2])


def test_one_frame_is_shown_as_the_newest_alone() -> None:
    reader = memory()
    [segment] = make_segments([[1]])
    visual = read(reader, [segment])
    torch.testing.assert_close(real(visual, 0), reader.projection(segment.tokens)[0])


def test_equal_frames_form_one_cluster_and_no_number_is_infinite() -> None:
    reader = memory()
    [segment] = make_segments([[8]])
    equal = segment._replace(tokens=segment.grid(reader)[:, :1].expand(-1, 8, -1, -1).flatten(1, 2))
    state = state_after(reader, [equal])
    assert state.weights.sort().values.tolist() == [[0.0, 0.0, 7.0]]
    assert bool(reader.read(state).tokens.isfinite().all())


def test_the_first_frames_start_the_summary_and_later_ones_move_it() -> None:
    reader = memory()
    segments = make_segments([[3, 3]])
    first = state_after(reader, segments[:1])
    torch.testing.assert_close(first.abstract[0], segments[0].grid(reader)[0, :2].mean(dim=1))
    second = state_after(reader, segments)
    new = torch.cat([segments[0].grid(reader)[:, 2:], segments[1].grid(reader)[:, :2]], dim=1).mean(dim=2)
    expected = reader.summarise(first.abstract, new, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(second.abstract, expected)


def test_a_summary_without_new_frames_stays() -> None:
    update = AttentionUpdate(5, hidden=3)
    old, new = torch.randn(2, 4, 5), torch.randn(2, 6, 5)
    mask = torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    moved = update(old, new, mask)
    assert torch.equal(moved[1], old[1])
    torch.testing.assert_close(moved[:1], update(old[:1], new[:1, :3], mask[:1, :3]))


def test_the_state_does_not_grow() -> None:
    short, long = (walk(memory(), make_segments([[3] * number])) for number in (1, 9))
    assert [field.shape for field in short] == [field.shape for field in long]


def test_half_precision_stays_half_precision() -> None:
    reader = memory().to(torch.bfloat16)
    halves = [segment._replace(tokens=segment.tokens.bfloat16()) for segment in make_segments(LENGTHS)]
    assert read(reader, halves).tokens.dtype == torch.bfloat16


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 3, 0 and 2"):
        memory(abstract_length=0)
    with pytest.raises(ValueError, match="num_keys 4 is more than 3 clusters"):
        memory(num_keys=4)
    with pytest.raises(ValueError, match="hidden must be at least 1 and update_ratio"):
        memory(hidden=0)
