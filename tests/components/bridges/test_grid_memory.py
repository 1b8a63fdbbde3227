from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.bridges import grid_memory as module
from components.bridges.fusers import MlpFuser, TransformerFuser
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.readers.fine_frames import FineFrames
from tests.components.readers.reader_runs import DIM, LENGTHS, NUM_PATCHES, assert_same, make_segments, read, real, walk
from tests.components.readers.reader_table import grid_memory, grid_memory_with

GRIDS = 3 * 4  # vectors of a memory of ``grid_memory()``
OTHER_LENGTHS = [[1] * 7, [2, 1], [1] * 5]


@pytest.mark.parametrize("num_segments", [1, 2, 3, 9])
def test_the_last_memories_are_shown_the_newest_at_the_end(num_segments: int) -> None:
    reader, states = grid_memory(fuser=None, options=GridMemoryOptions(type_embedding=False)), []
    for segment in make_segments([[1] * num_segments]):
        states.append(reader(segment, states[-1] if states else None))
    shown = real(reader.read(states[-1]), 0)
    expected = [state.newest[0] for state in states[-2:]]
    assert torch.equal(shown, torch.cat(expected))


def test_the_state_is_bounded_also_where_videos_end_early() -> None:
    reader, state = grid_memory(cache_limit=3), None
    for segment in make_segments([[1] * 12, [1] * 2, [1] * 7]):
        state = reader(segment, state)
        assert max(map(len, state[1:5])) <= 3
    shown = reader.read(state)
    assert shown.mask.sum(dim=1).tolist() == [3 * GRIDS, 2 * GRIDS, 3 * GRIDS]


@pytest.mark.parametrize("lengths", [LENGTHS, OTHER_LENGTHS, [[2, 2, 2, 2]] * 2], ids=["short", "long", "full"])
def test_masks_that_the_host_does_not_know_change_nothing(
    lengths: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, segments = grid_memory(), make_segments(lengths)
    expected = read(reader, segments)
    monkeypatch.setattr(module, "is_known_full", lambda mask: False)
    unknown = read(reader, segments)
    known = read(
        reader,
        [
            each._replace(is_full=bool(each.frame_mask.all()), is_in_all=bool(each.frame_mask.any(dim=1).all()))
            for each in segments
        ],
    )
    for video in range(len(lengths)):
        assert_same(real(unknown, video), real(expected, video))
        assert_same(real(known, video), real(expected, video))


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_a_video_without_a_segment_in_between_keeps_its_state(before: int) -> None:
    reader = grid_memory()
    segments = make_segments([[1] * 6, [1] * 6])
    rows = torch.tensor([False, True])
    gap = segments[0]._replace(frame_mask=rows[:, None])
    shown = read(reader, [*segments[:before], gap, *segments[before:]])
    assert_same(real(shown, 0), real(read(reader, segments), 0))


def test_hundreds_of_frames_and_segments_are_read() -> None:
    reader = grid_memory()
    shown = read(reader, make_segments([[1] * 700]))
    assert shown.mask.sum() == 2 * GRIDS
    assert bool(shown.tokens.isfinite().all())
    assert bool(read(reader, make_segments([[700]])).tokens.isfinite().all())


def test_the_position_of_frames_in_the_video_matters_only_with_frame_positions() -> None:
    [segment] = make_segments([[3]])
    later = segment._replace(frame_number=segment.frame_number + 5)
    for positions, is_same in ((True, False), (False, True)):
        reader = grid_memory_with(frame_positions=positions)
        shown, other = (read(reader, [each]).tokens for each in (segment, later))
        assert torch.allclose(shown, other, atol=1e-3) == is_same


def test_only_the_newest_memory_is_shown_of_last() -> None:
    cache, last = grid_memory(), grid_memory_with(shown="last")
    segments = make_segments(LENGTHS)
    shown, expected = read(last, segments), read(cache, segments)
    for video in range(len(LENGTHS)):
        assert_same(real(shown, video), real(expected, video)[-GRIDS:])


def test_each_memory_is_averaged_to_the_largest_grid_that_fits() -> None:
    options = GridMemoryOptions(type_embedding=False, max_tokens=23)  # 2 memories of 3 grids: 1 vector of each
    whole = grid_memory(fuser=None, options=GridMemoryOptions(type_embedding=False))
    pooled = grid_memory(fuser=None, options=options)
    segments = make_segments([[1, 1, 2]])
    expected = real(read(whole, segments), 0).unflatten(0, (-1, 4)).mean(dim=1)
    assert_same(real(read(pooled, segments), 0), expected)
    assert_same(real(read(grid_memory(fuser=None, options=options), segments), 0), expected)


@pytest.mark.parametrize("budget", [6, 23, 24, 25, 1000])
@pytest.mark.parametrize("num_segments", [1, 2, 5])
def test_a_budget_is_kept_at_any_length(budget: int, num_segments: int) -> None:
    reader, segments = grid_memory(), make_segments([[1] * num_segments])
    shown = reader.read(walk(reader, segments), budget=budget)
    side = 2 if budget >= 24 else 1
    assert shown.mask.sum() == min(num_segments, 2) * 3 * side**2 <= budget
    assert_same(shown.tokens, read(grid_memory_with(max_tokens=budget), segments).tokens)


def test_a_budget_below_one_token_of_every_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="5 visual tokens do not suffice for one of each of the 6 grids"):
        grid_memory_with(max_tokens=5)
    reader = grid_memory()
    with pytest.raises(ValueError, match="raise max_tokens or the budget"):
        reader.read(walk(reader, make_segments([[1]])), budget=5)


@pytest.mark.parametrize("dim", [64, 896])
def test_all_vectors_of_a_new_memory_differ_and_have_unit_variance(dim: int) -> None:
    torch.manual_seed(0)
    reader = GridMemory(dim, dim, num_cells=196, fuser=None)
    initial = (reader.initial_memory + reader.memory_positions).detach().flatten(0, 1)
    unit = nn.functional.normalize(initial, dim=1)
    alike = (unit @ unit.T).fill_diagonal_(0.0)
    assert float(alike.max()) < 0.95
    assert float(initial.var()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("dim", "fuser", "total", "millions"),
    [
        (896, MlpFuser, 30_348_416, 30.35),
        (3584, MlpFuser, 468_210_176, 468.21),
        (896, TransformerFuser, 33_566_848, 33.57),
        (3584, TransformerFuser, 519_619_072, 519.62),
    ],
)
def test_number_of_parameters_is_that_of_the_table_of_sizes(dim: int, fuser: Any, total: int, millions: float) -> None:
    with torch.device("meta"):
        memory = GridMemory(dim, dim, fuser=fuser)
        frames = FineFrames(dim, dim, projection="none", frame_positions=True, type_embedding=True)
    counted = sum(each.numel() for part in (memory, frames) for each in part.parameters())
    assert counted == total
    assert round(counted / 1e6, 2) == millions


def test_stored_weights_are_loaded_strictly(tmp_path: Path) -> None:
    trained = grid_memory()
    nn.init.normal_(trained.initial_memory)
    weights = trained.state_dict()
    save_file(weights, tmp_path / "memory.safetensors")
    loaded = grid_memory(weights=str(tmp_path / "memory.safetensors"))
    segments = make_segments(LENGTHS)
    assert torch.equal(read(loaded, segments).tokens, read(trained, segments).tokens)
    with pytest.raises(ValueError, match=r"missing: layers\.2\.attention\.key\.bias"):
        grid_memory(depth=3, weights=str(tmp_path / "memory.safetensors"))
    with pytest.raises(FileNotFoundError, match="the reader's weights"):
        grid_memory(weights=str(tmp_path / "no.safetensors"))


def test_names_of_weights_stay_as_they_are_stored_in_files() -> None:
    attention = [
        f"{name}.{kind}" for name in ("query", "key", "value", "output", "norm") for kind in ("weight", "bias")
    ]
    feed_forward = [f"{name}.{kind}" for name in ("expand", "contract", "norm") for kind in ("weight", "bias")]
    expected = {"initial_memory", "memory_positions", "type_embedding.vector"}
    expected |= {f"update.{name}" for name in attention} | {f"fuser.{name}" for name in feed_forward[:4]}
    expected |= {f"layers.{i}.attention.{name}" for i in range(2) for name in attention}
    expected |= {f"layers.{i}.feed_forward.{name}" for i in range(2) for name in feed_forward}
    assert set(grid_memory().state_dict()) == expected


def test_diagnostics_show_the_mean_of_each_grid() -> None:
    reader = grid_memory()
    state = walk(reader, make_segments(LENGTHS))
    shown = reader.diagnostics(state, with_attention=True)
    assert shown.memory is not None
    assert_same(shown.memory[1, 2], state.newest[1].unflatten(0, (3, 4))[2].mean(dim=0))
    assert shown.segment_attention is None


def test_grids_need_not_have_the_size_of_frames() -> None:
    reader = grid_memory(num_cells=NUM_PATCHES + 5)
    assert read(reader, make_segments([[2]])).tokens.shape == (1, 3 * (NUM_PATCHES + 5), DIM)


@pytest.mark.parametrize("fuser", [MlpFuser, partial(TransformerFuser, num_heads=2, depth=2)])
def test_fusers_change_memories_and_keep_their_number(fuser: Any) -> None:
    segments = make_segments(LENGTHS)
    plain, fused = read(grid_memory(fuser=None), segments), read(grid_memory(fuser=fuser), segments)
    assert torch.equal(plain.mask, fused.mask)
    assert not torch.allclose(plain.tokens[plain.mask], fused.tokens[fused.mask], atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "width 16 is not divisible by 3 heads"),
        ({"depth": 0}, "must be at least 1, got 4, 3, 0 and 2"),
        ({"cache_limit": 0}, "cache_limit must be at least 1"),
        ({"fuser": partial(TransformerFuser, depth=0)}, "a fuser needs at least 1 block"),
        ({"num_cells": 6, "options": GridMemoryOptions(max_tokens=60)}, "6 patches a frame form no square grid"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_memory(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shown": "first"}, "shown must be one of"), ({"cut_gradients_every": 0}, "must be at least 1 or null, got 0")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridMemoryOptions(**options)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="language model's width 12, but they have 16: give the model a projector"):
        GridMemory(16, 12)
    with pytest.raises(ValueError, match="frame_positions need an even width, got 15"):
        GridMemory(15, 15)
