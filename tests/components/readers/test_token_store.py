from typing import Any

import pytest
import torch
from torch import Tensor

from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.readers.readouts.project_all import ProjectAll
from components.readers.token_store import TokenStore
from tests.components.readers.reader_runs import (
    DIM,
    LENGTHS,
    NUM_PATCHES,
    OUT_DIM,
    make_segments,
    questions_about,
    read,
    real,
    walk,
    with_kept,
)


def store(**options: Any) -> TokenStore:
    torch.manual_seed(0)
    return TokenStore(DIM, OUT_DIM, **options)


class FirstTokens(ProjectAll):
    """Shows the first tokens of a video, as many as the budget allows."""

    is_elastic = True
    is_tokenwise = False

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        visual = super().forward(stored, questions)
        return VisualTokens(visual.tokens[:, :budget], visual.mask[:, :budget])


class FirstWord(TokenReadout):
    """Adds the first word of the question to every token."""

    reads_questions = True

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        assert questions is not None
        tokens = stored.tokens[..., : questions.embeddings.shape[-1]] + questions.embeddings[:, :1]
        return VisualTokens(tokens, stored.mask, questions.video_index)


def test_every_token_is_shown_in_its_order() -> None:
    reader = store()
    segments = make_segments(LENGTHS)
    visual = read(reader, segments)
    for video, lengths in enumerate(LENGTHS):
        tokens = [segment.tokens[video][segment.token_mask[video]] for segment in segments[: len(lengths)]]
        torch.testing.assert_close(real(visual, video), reader.readout.projection(torch.cat(tokens)))


def test_the_cuts_between_segments_change_nothing() -> None:
    whole, cut = (read(store(), make_segments([lengths])) for lengths in ([6], [1, 3, 2]))
    torch.testing.assert_close(real(whole, 0), real(cut, 0))
    assert whole.places is not None
    assert cut.places is not None
    for one, other in zip(whole.places, cut.places, strict=True):
        assert torch.equal(one[whole.mask], other[cut.mask])


def test_tokens_of_all_segments_are_those_of_the_video() -> None:
    reader, state, written = store(), None, list[Tensor]()
    for segment in make_segments([[2, 3, 1]]):
        state = reader(segment, state)
        written.append(real(reader.written(segment, state), 0))
    torch.testing.assert_close(torch.cat(written), real(reader.read(state), 0))


def test_places_of_kept_tokens_are_those_of_the_grid() -> None:
    [segment] = make_segments([[3]])
    mask = torch.zeros(1, 3 * NUM_PATCHES, dtype=torch.bool)
    mask[0, [1, 4, 11]] = True
    visual = read(store(), [with_kept(segment, mask)])
    assert visual.places is not None
    assert [field[visual.mask].tolist() for field in visual.places] == [[0, 1, 2], [1, 0, 3], [0, 500, 1000]]


def test_a_video_with_more_tokens_than_allowed_is_refused_with_the_ways_out() -> None:
    segments = make_segments([[2, 3, 1], [3]])
    read(store(max_tokens=6 * NUM_PATCHES), segments)
    with pytest.raises(ValueError, match=r"has 24 tokens or more, but max_tokens of TokenStore is 23: .*reducer"):
        read(store(max_tokens=6 * NUM_PATCHES - 1), segments)
    with pytest.raises(ValueError, match="has 20 tokens or more"):  # before the last segment is read
        walk(store(max_tokens=4 * NUM_PATCHES), segments)


def test_padding_does_not_count_as_tokens() -> None:
    segments = make_segments([[1, 3], [3, 1]], segments=4, frames=6)
    read(store(max_tokens=4 * NUM_PATCHES), segments)


def test_a_budget_goes_to_an_elastic_readout_and_is_refused_by_others() -> None:
    segments = make_segments(LENGTHS)
    elastic, fixed = store(readout=FirstTokens), store()
    assert (elastic.is_elastic, fixed.is_elastic) == (True, False)
    visual = elastic.read(walk(elastic, segments), budget=5)
    assert visual.tokens.shape[:2] == (len(LENGTHS), 5)
    with pytest.raises(ValueError, match="ProjectAll gives as many visual tokens as it gives, so it takes no budget"):
        fixed.read(walk(fixed, segments), budget=5)


def test_a_readout_of_several_tokens_gives_none_of_single_segments() -> None:
    reader = store(readout=FirstTokens)
    [segment] = make_segments([[2]])
    with pytest.raises(NotImplementedError, match="TokenStore gives no tokens of single segments"):
        reader.written(segment, reader(segment, None))


def test_a_readout_may_read_the_questions() -> None:
    reader = store(readout=FirstWord)
    segments = make_segments(LENGTHS)
    assert (reader.reads_questions, store().reads_questions) == (True, False)
    one, other = (reader.read(walk(reader, segments), questions_about(asked)) for asked in ([0, 1, 2], [3, 1, 2]))
    assert not torch.allclose(real(one, 0), real(other, 0))
    torch.testing.assert_close(real(one, 1), real(other, 1))


def test_a_limit_of_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens must be at least 1 or null"):
        store(max_tokens=0)
