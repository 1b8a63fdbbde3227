import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._pytree import tree_leaves

from components.positions import interleaved_sinusoid
from components.readers.fine_frames import FineFrames, StoredFrames
from tests.components.readers.numbered_frames import WIDTH, numbered, shown_frames
from tests.components.readers.reader_runs import NUM_PATCHES, read, walk

GOLDENS = Path(__file__).parents[2] / "goldens" / "memory_augmented_vlm" / "segments.json"
# By the number of frames that the code was given: how many it kept of them, and which of those were its fine frames.
RECORDED: dict[str, dict[str, Any]] = json.loads(GOLDENS.read_text(encoding="utf-8"))["frame_indices"]


def plain(**options: Any) -> FineFrames:
    """A reader that shows the patches as they are."""
    return FineFrames(WIDTH, WIDTH, projection="none", **options)


def chosen(length: int, **options: Any) -> list[int]:
    """Frames that are shown of a video of so many frames, cut into segments of 7."""
    lengths = [min(7, length - first) for first in range(0, length, 7)]
    return shown_frames(read(plain(**options), numbered([lengths])))


@pytest.mark.parametrize("case", RECORDED.values(), ids=lambda case: case["kept"])
def test_frames_equal_those_of_the_memory_augmented_vlm_code(case: dict[str, Any]) -> None:
    assert chosen(case["kept"], num_frames=32, capacity=case["kept"] + 32) == case["fine_position"]
    assert chosen(case["kept"], num_frames=32, capacity=max(case["kept"], 32)) == case["fine_position"]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 8])
def test_frames_are_the_rounded_linspace_of_the_stored_ones(num_frames: int) -> None:
    for length in range(1, 30):
        expected = np.round(np.linspace(0, length - 1, min(num_frames, length))).astype(int).tolist()
        assert chosen(length, num_frames=num_frames, capacity=64) == expected


@pytest.mark.parametrize(("length", "stored"), [(4, [0, 1, 2, 3]), (5, [0, 2, 4]), (8, [0, 2, 4, 6]), (9, [0, 4, 8])])
def test_every_second_frame_is_stored_when_the_store_is_full(length: int, stored: list[int]) -> None:
    assert chosen(length, num_frames=4, capacity=4) == stored


@pytest.mark.parametrize("num_frames", [3, 5])
def test_the_cuts_between_segments_change_nothing(num_frames: int) -> None:
    cuts = ([23], [1] * 23, [2, 20, 1], [9, 9, 5])
    shown = [shown_frames(read(plain(num_frames=num_frames, capacity=6), numbered([cut]))) for cut in cuts]
    assert all(each == shown[0] for each in shown)
    assert len(shown[0]) == num_frames


def test_videos_of_a_batch_have_distances_of_their_own() -> None:
    reader = plain(num_frames=4, capacity=4)
    visual = read(reader, numbered([[3, 3, 3], [2], [1, 4]]))
    assert [shown_frames(visual, video) for video in range(3)] == [[0, 4, 8], [0, 1], [0, 2, 4]]


def test_places_are_those_of_the_frames_in_the_video() -> None:
    visual = read(plain(num_frames=4, capacity=4), numbered([[4, 5], [1]]))
    assert visual.places is not None
    shown = [0, 4, 8]
    masked = [-1] * (4 - len(shown)) * NUM_PATCHES
    of_frames = [frame for frame in shown for _ in range(NUM_PATCHES)]
    assert visual.places.frame[0].tolist() == of_frames + masked
    assert visual.places.ms[0].tolist() == [500 * frame for frame in of_frames] + masked
    assert visual.places.cell[0].tolist() == [*range(NUM_PATCHES)] * len(shown) + masked


def test_tokens_of_a_segment_are_its_frames_that_are_stored_after_it() -> None:
    reader, state, written = plain(num_frames=4, capacity=4), None, []
    for segment in numbered([[3, 3, 4]]):
        state = reader(segment, state)
        written.append(shown_frames(reader.written(segment, state)))
    assert written == [[0, 1, 2], [4], [8]]


def num_slots(state: StoredFrames) -> int:
    return sum(run.order.shape[1] for run in state.runs)


def test_the_state_is_bounded_also_without_pruning() -> None:
    reader, state, most = plain(num_frames=2, capacity=5), None, 0
    for segment in numbered([[3] * 60]):
        state = reader(segment, state)
        most = max(most, num_slots(state))
    assert 5 <= most < 2 * 5 + 3
    assert num_slots(reader.prune(state)) == 5
    assert all(not leaf.requires_grad for leaf in tree_leaves(state))


def test_reading_copies_each_frame_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = [0]
    prune = FineFrames.prune

    def counting(reader: FineFrames, state: StoredFrames) -> StoredFrames:
        copied[0] += reader.capacity
        return prune(reader, state)

    monkeypatch.setattr(FineFrames, "prune", counting)
    walk(plain(num_frames=2, capacity=8), numbered([[1] * 200]))
    assert 0 < copied[0] <= 200


def test_frames_get_the_code_of_their_number_in_the_video_and_the_type() -> None:
    segments = numbered([[4, 5], [1]])
    plain_reader, marked = (
        plain(num_frames=4, capacity=4),
        plain(num_frames=4, capacity=4, frame_positions=True, type_embedding=True),
    )
    before, shown = read(plain_reader, segments), read(marked, segments)
    assert shown.places is not None
    assert marked.type_embedding is not None
    code = interleaved_sinusoid(shown.places.frame[shown.mask], WIDTH)
    expected = before.tokens[before.mask] + code + marked.type_embedding.vector
    torch.testing.assert_close(shown.tokens[shown.mask], expected)


def test_the_type_is_added_after_the_projection_and_loaded_from_its_file(tmp_path: Path) -> None:
    reader = FineFrames(WIDTH, 6, type_embedding=True)
    save_file(reader.state_dict(), tmp_path / "frames.safetensors")
    loaded = FineFrames(WIDTH, 6, type_embedding=True, weights=str(tmp_path / "frames.safetensors"))
    segments = numbered([[3]])
    shown = read(loaded, segments).tokens
    assert torch.equal(shown, read(reader, segments).tokens)
    loaded.type_embedding = None
    torch.testing.assert_close(shown, read(loaded, segments).tokens + reader.type_embedding.vector)
    with pytest.raises(ValueError, match="does not fit this FineFrames"):
        plain(weights=str(tmp_path / "frames.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"num_frames": 9, "capacity": 8}, "capacity at least num_frames, got 9 and 8"),
        ({"projection": "linear"}, "projection must be one of"),
        ({"projection": "none"}, "must have the language model's width 6, but they have 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineFrames(4, 6, **options)


def test_positions_of_an_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match="frame_positions need an even width, got 3"):
        FineFrames(3, 6, frame_positions=True)
