"""Readouts of the token store that show each frame: queries, slow and fast frames, collages, windows."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.interfaces import TokenReadout
from components.readers.readouts.frame_queries import FrameQueries
from components.readers.readouts.question_guided_pooling import QuestionGuidedPooling, pooled_windows
from components.readers.readouts.slow_fast import SlowFast, with_newlines
from components.readers.readouts.thumbnail_and_samples import (
    ThumbnailAndSamples,
    collage_of,
    evenly_sampled,
    most_square,
)
from components.readers.token_store import TokenStore
from tests.components.readers.reader_runs import DIM, NUM_PATCHES, OUT_DIM, make_segments, questions_about, read, walk


def store(kind: type[TokenReadout], **options: Any) -> TokenStore:
    torch.manual_seed(0)
    return TokenStore(DIM, OUT_DIM, readout=partial(kind, **options)).eval()


def real(num_frames: int) -> Tensor:
    return torch.ones(1, num_frames, dtype=torch.bool)


def test_every_frame_is_read_by_itself() -> None:
    reader = store(FrameQueries, num_queries=2, width=8, num_layers=2, num_heads=2)
    segments = make_segments([[3]])
    together = read(reader, segments).tokens[0].unflatten(0, (3, 2))
    for frame in range(3):
        grid = segments[0].tokens.unflatten(1, (3, NUM_PATCHES))[:, frame]
        [alone] = make_segments([[1]])
        shown = read(reader, [alone._replace(tokens=grid)]).tokens[0]
        torch.testing.assert_close(shown, together[frame], atol=1e-5, rtol=1e-5)


def test_slow_frames_have_all_tokens_and_fast_ones_few_each_with_its_newlines() -> None:
    reader = store(SlowFast, every=2, slow_stride=1, fast_stride=2)
    visual = read(reader, make_segments([[3]]))
    tokens = visual.tokens[0][visual.mask[0]]
    slow, fast = 2 * (2 + 1) + 1, 1 * (1 + 1) + 1
    assert len(tokens) == 2 * slow + fast
    ends = [slow - 1, slow + fast - 1, 2 * slow + fast - 1]
    assert all(torch.equal(tokens[end], reader.readout.frame_end) for end in ends)
    newlines = [2, 5, slow + 1, slow + fast + 2, slow + fast + 5]
    assert all(torch.equal(tokens[place], reader.readout.newline) for place in newlines)


def test_one_newline_follows_the_last_frame_of_every_video() -> None:
    reader = store(SlowFast, every=1, newlines="end")
    visual = read(reader, make_segments([[3], [1]]))
    for video, num_frames in enumerate((3, 1)):
        tokens = visual.tokens[video][visual.mask[video]]
        assert len(tokens) == num_frames * NUM_PATCHES + 1
        assert torch.equal(tokens[-1], reader.readout.newline)


def test_newlines_stand_after_rows_or_frames() -> None:
    patches, newline = torch.arange(8.0).view(2, 4, 1), torch.tensor([-1.0])
    assert with_newlines(patches, newline, "rows")[0].flatten().tolist() == [0, 1, -1, 2, 3, -1]
    assert with_newlines(patches, newline, "frames")[1].flatten().tolist() == [4, 5, 6, 7, -1]
    assert torch.equal(with_newlines(patches, None, "none"), patches)


def test_samples_are_evenly_spread_over_all_tokens_and_each_of_few_stands_once() -> None:
    grids = torch.arange(24.0).view(1, 6, 4, 1)
    is_real = torch.tensor([[True, True, False, True, True, False]])
    tokens = torch.cat([grids[0, frame].flatten() for frame in (0, 1, 3, 4)])
    sampled, mask = evenly_sampled(grids, is_real, 5)
    assert bool(mask.all())
    assert sampled.flatten().tolist() == tokens[torch.linspace(0, 15, 5).round().long()].tolist()
    sampled, mask = evenly_sampled(grids, is_real, 100)
    assert sampled[0][mask[0]].flatten().tolist() == tokens.tolist()


@pytest.mark.parametrize(("number", "expected"), [(1, (1, 1)), (4, (2, 2)), (6, (3, 2)), (7, (7, 1)), (8, (4, 2))])
def test_a_collage_is_as_square_as_its_number_allows(number: int, expected: tuple[int, int]) -> None:
    assert most_square(number) == expected


def test_a_collage_has_evenly_spread_frames_row_by_row() -> None:
    grids = torch.arange(4.0).view(1, 4, 1, 1).expand(-1, -1, 36, 1)
    collage = collage_of(grids, real(4), 4)[0].view(6, 6)
    assert torch.equal(collage, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat_interleave(3, 0).repeat_interleave(3, 1))
    one = collage_of(grids[:, 2:3], real(1), 4)[0]
    assert bool((one == 2.0).all())  # a video of one frame repeats it


def test_windows_are_weighted_means_in_which_the_fitting_patches_count_most() -> None:
    patches = torch.arange(8.0).view(1, 2, 4, 1)
    weights = torch.zeros(1, 2, 4)
    weights[0, 1, 2] = 1.0
    tokens, mask = pooled_windows(patches, weights, real(2), (2, 2, 2), 0.01)
    assert mask.tolist() == [[True]]
    torch.testing.assert_close(tokens, torch.tensor([[[6.0]]]))
    even, _ = pooled_windows(patches, torch.zeros_like(weights), real(2), (1, 2, 2), 0.01)
    torch.testing.assert_close(even.flatten(), torch.tensor([1.5, 5.5]))


@pytest.mark.parametrize(("length", "windows"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_frames_that_fill_no_window_are_left_out_but_a_short_video_is_one(length: int, windows: int) -> None:
    reader = store(QuestionGuidedPooling, window=(2, 2, 2), temperature=1.0, space=4)
    visual = reader.read(walk(reader, make_segments([[length]])), questions_about([0]))
    assert int(visual.mask.sum()) == windows


def test_the_question_changes_what_a_window_shows() -> None:
    reader = store(QuestionGuidedPooling, window=(1, 2, 2), temperature=0.1, space=4)
    state, questions = walk(reader, make_segments([[2]])), questions_about([0])
    other = questions._replace(embeddings=-questions.embeddings)
    one, two = (reader.read(state, each).tokens for each in (questions, other))
    assert not torch.allclose(one, two, atol=1e-4)
    with pytest.raises(ValueError, match="reads the video for a question, got none"):
        reader.read(state)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FrameQueries, {"num_queries": 0}, "must be at least 1"),
        (FrameQueries, {"width": 10, "num_heads": 4}, "not divisible by num_heads=4"),
        (SlowFast, {"every": 0}, "every must be at least 1"),
        (SlowFast, {"newlines": "columns"}, "newlines must be one of"),
        (ThumbnailAndSamples, {"samples": 0}, "frames and samples must be at least 1"),
        (QuestionGuidedPooling, {"window": (1, 0, 1)}, "three positive numbers"),
    ],
)
def test_wrong_settings_are_refused(kind: type[TokenReadout], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store(kind, **options)
