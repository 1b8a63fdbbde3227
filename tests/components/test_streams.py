from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.interfaces import KeptTokens, SegmentInput, SegmentReducer, VisualReader
from components.model import VideoLanguageModel
from components.readers.fine_frames import FineFrames
from components.readers.token_store import TokenStore
from components.streams import StreamReader, StreamState, check_readers, run_stream
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, real
from tests.fixtures_models import PartFolders, make_two_reader_model


class EveryOther(SegmentReducer[Tensor]):
    """Keeps every second token of a video, counted over all its segments."""

    out_dim = DIM

    def forward(self, segment: SegmentInput, state: Tensor | None) -> tuple[SegmentInput, Tensor]:
        before = torch.zeros(len(segment.tokens), dtype=torch.int64) if state is None else state
        number = before[:, None] + segment.token_mask.cumsum(dim=1)
        mask = segment.token_mask & (number % 2 == 1)
        kept = KeptTokens(mask, segment.token_groups, segment.token_cells)
        return segment._replace(kept=kept), before + segment.token_mask.sum(dim=1)


def store() -> TokenStore:
    torch.manual_seed(0)
    return TokenStore(DIM, OUT_DIM)


def test_reducer_and_reader_run_in_turn_each_with_its_state() -> None:
    reader = store()
    segments = make_segments(LENGTHS)
    states = run_stream(reader, EveryOther(), segments, None)
    assert len(states) == len(segments)
    assert states[-1].reducer.tolist() == [4 * sum(lengths) for lengths in LENGTHS]
    full, reduced = reader.read(run_stream(reader, None, segments, None)[-1].reader), reader.read(states[-1].reader)
    for video in range(len(LENGTHS)):
        torch.testing.assert_close(real(reduced, video), real(full, video)[::2])


def test_a_stream_goes_on_from_a_state() -> None:
    reader, segments = store(), make_segments(LENGTHS)
    state: StreamState | None = None
    for segment in segments:
        [state] = run_stream(reader, EveryOther(), [segment], state)
    assert state is not None
    at_once = reader.read(run_stream(reader, EveryOther(), segments, None)[-1].reader)
    step_by_step = reader.read(state.reader)
    torch.testing.assert_close(step_by_step.tokens[step_by_step.mask], at_once.tokens[at_once.mask], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tokens_are_read_in_the_dtype_of_the_reader(dtype: torch.dtype) -> None:
    segments = [segment._replace(tokens=segment.tokens.to(dtype)) for segment in make_segments(LENGTHS)]
    [state, *_] = run_stream(store(), None, segments, None)
    assert state.reader.segments[0].tokens.dtype == torch.float32
    weightless: VisualReader[Any] = FineFrames(DIM, DIM, projection="none")
    [state, *_] = run_stream(weightless, None, segments, None)
    assert state.reader.runs[0].tokens.dtype == dtype


def test_reducer_that_leaves_tokens_out_needs_a_reader_that_reads_what_is_left() -> None:
    class Grid(EveryOther):
        gives_grid = True

    frames = FineFrames(DIM, OUT_DIM)
    check_readers({"all": StreamReader(store(), None, EveryOther())}, VideoLanguageModel)
    check_readers({"frames": StreamReader(frames, None, Grid())}, VideoLanguageModel)
    with pytest.raises(ValueError, match="reader 'frames' is a FineFrames, which reads full grids"):
        check_readers({"frames": StreamReader(frames, None, EveryOther())}, VideoLanguageModel)


def test_a_reader_may_not_hide_an_attribute_of_its_model() -> None:
    class Model(nn.Module):
        answer = "yes"

    named = {"answer": StreamReader(store())}
    check_readers(named, nn.Module)
    with pytest.raises(ValueError, match="readers may not be called answer"):
        check_readers(named, Model)


def test_no_name_of_a_reader_breaks_a_model_of_several_readers(folders: PartFolders) -> None:
    complete = make_two_reader_model(folders)
    encoder, segmenter, language_model = complete.encoder, complete.segmenter, complete.language_model
    own = {"memory", "frames"}  # its readers
    names = {name for name in [*dir(complete), *dir(nn.ModuleDict())] if name.isidentifier() and name.islower()} - own
    assert {"training", "visual_prompt", "loss_schedule", "frame_selections", "keys"} <= names
    for name in sorted(names):
        readers = {name: StreamReader(store(), None, EveryOther()), "other": StreamReader(store())}
        with pytest.raises(ValueError, match=f"readers may not be called '?{name}"):
            VideoLanguageModel(encoder=encoder, segmenter=segmenter, readers=readers, language_model=language_model)


def test_an_empty_visual_prompt_is_refused_like_any_that_leaves_out_a_reader(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="visual_prompt is ''"):
        make_two_reader_model(folders, visual_prompt="")
