"""Summaries of segments, and which of them a question gets."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.bridges.summary_choice import choose_segments
from components.bridges.summary_memory import SummaryMemory
from components.interfaces import TEXT_ONLY, Questions, SegmentInput, VisualTokens
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, questions_about, real, walk
from tests.components.readers.reader_table import summary_memory


def with_noise(segment: SegmentInput) -> SegmentInput:
    return segment._replace(tokens=segment.tokens + torch.randn(segment.tokens.shape))


def shown_segments(reader: SummaryMemory, state: Any, visual: VisualTokens) -> list[int]:
    """Which segments the first row shows, by their content; every segment has the same number of summary tokens."""
    each = [reader.projection(summary)[0] for summary in state.summaries]
    parts = real(visual, 0).split(len(each[0]))
    return [index for part in parts for index, one in enumerate(each) if torch.allclose(one, part, atol=1e-5)]


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_segment_changes_its_own_summary_and_those_after_it(changed: int) -> None:
    reader, segments = summary_memory(), make_segments([[2] * 4])
    others = [with_noise(each) if index == changed else each for index, each in enumerate(segments)]
    one, other = walk(reader, segments), walk(reader, others)
    for index in range(4):
        assert torch.equal(one.summaries[index], other.summaries[index]) == (index < changed)
        assert torch.equal(one.indicators[index], other.indicators[index]) == (index < changed)


def test_the_question_changes_nothing_while_all_segments_fit() -> None:
    reader = summary_memory(num_chosen=4)
    state = walk(reader, make_segments([[2] * 4]))
    one, other = (reader.read(state, questions_about([number])) for number in (0, 1))
    assert torch.equal(one.tokens, other.tokens)
    assert shown_segments(reader, state, one) == [0, 1, 2, 3]


def test_the_segments_of_the_highest_similarity_are_shown_in_time_order() -> None:
    reader = summary_memory(num_chosen=2)
    state = walk(reader, make_segments([[2] * 9]))
    seen = set()
    for number in range(12):
        questions = questions_about([number])
        asked = reader._asked(state.previous, state.previous_mask, questions)
        similarity = [torch.cosine_similarity(asked[0], each[0], dim=0).item() for each in state.indicators]
        expected = sorted(sorted(range(9), key=lambda index: -similarity[index])[:2])
        assert shown_segments(reader, state, reader.read(state, questions)) == expected
        seen.add(tuple(expected))
    assert len(seen) > 1  # the question decides


def test_only_the_words_of_a_question_matter_not_its_padding() -> None:
    reader = summary_memory(num_chosen=1)
    state = walk(reader, make_segments([[2] * 5]))
    plain = questions_about([3])
    for left in (True, False):
        padding = torch.full((1, 3, OUT_DIM), 7.0)
        no_word = torch.zeros(1, 3, dtype=torch.bool)
        words = [padding, plain.embeddings] if left else [plain.embeddings, padding]
        mask = [no_word, plain.mask] if left else [plain.mask, no_word]
        padded = Questions(torch.cat(words, dim=1), torch.cat(mask, dim=1), plain.video_index)
        one, other = (reader._asked(state.previous, state.previous_mask, each) for each in (plain, padded))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_conversation_without_a_video_shows_none_and_two_about_one_video_have_rows() -> None:
    reader = summary_memory(num_chosen=1)
    state = walk(reader, make_segments([[2] * 5, [2]]))
    questions = questions_about([0, 1, 2])._replace(video_index=torch.tensor([[0], [TEXT_ONLY], [0]]))
    visual = reader.read(state, questions)
    assert visual.row_index is not None
    assert visual.row_index.tolist() == [[0], [TEXT_ONLY], [2]]
    assert len(visual.tokens) == 3


def test_gradients_of_the_choice_reach_the_question_and_every_indicator() -> None:
    reader = summary_memory(num_chosen=1)
    state = walk(reader, make_segments([[2] * 5]))
    for each in state.indicators:
        each.retain_grad()
    reader.read(state, questions_about([0])).tokens.square().sum().backward()
    assert reader.word_input[1].weight.grad.abs().sum() > 0
    assert all(each.grad.abs().sum() > 0 for each in state.indicators)


def test_training_draws_segments_and_evaluation_does_not() -> None:
    reader = summary_memory(num_chosen=1)
    state, questions = walk(reader, make_segments([[2] * 5])), questions_about([0])
    assert len({tuple(shown_segments(reader, state, reader.read(state, questions))) for _ in range(5)}) == 1
    reader.train()
    assert len({tuple(shown_segments(reader, state, reader.read(state, questions))) for _ in range(20)}) > 1


def test_of_equal_scores_the_earlier_segments_are_chosen_and_weights_are_one() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, 2.0], [1.0, 0.0, -torch.inf, -torch.inf]])
    chosen = choose_segments(scores, 2, is_sampled=False)
    assert chosen.segments.tolist() == [[1, 2], [0, 1]]
    assert torch.equal(chosen.weights, torch.ones(2, 2))


def test_missing_segments_are_chosen_only_where_others_do_not_suffice() -> None:
    scores = torch.tensor([[0.5, -3.0, -torch.inf]])
    for is_sampled in (True, False):
        assert choose_segments(scores, 2, is_sampled=is_sampled).segments.tolist() == [[0, 1]]
        assert choose_segments(scores, 9, is_sampled=is_sampled).segments.tolist() == [[0, 1, 2]]


def test_segments_are_drawn_by_their_soft_scores() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, -1)
    drawn = choose_segments(scores, 1, is_sampled=True).segments[:, 0]
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, scores[0].softmax(dim=0), rtol=0, atol=0.02)


def test_gradient_of_the_weights_is_that_of_the_soft_choice() -> None:
    scores = torch.tensor([[0.3, 1.0, -0.5]], requires_grad=True)
    choose_segments(scores, 1, is_sampled=False).weights.sum().backward()
    soft = scores.detach().requires_grad_()
    soft.softmax(dim=1)[0, 1].backward()
    assert isinstance(scores.grad, Tensor)
    torch.testing.assert_close(scores.grad, soft.grad)


def test_squares_of_patches_are_read_as_one_token() -> None:
    reader = summary_memory(neighbours=2, num_layers=1)
    given = reader._patches(make_segments([[3]])[0])[0]
    assert given.shape == (1, 3, DIM)  # 2 x 2 patches a frame


def test_reading_without_a_question_is_refused() -> None:
    reader = summary_memory()
    with pytest.raises(ValueError, match="chooses segments for a question, got none"):
        reader.read(walk(reader, make_segments([[2]])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "must be at least 1 and temperature above 0, got 0, 2, 4, 4 and 1.0"),
        ({"num_chosen": 0}, "must be at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"width": 6, "num_heads": 2}, "width must be divisible by 4"),
        ({"num_heads": 3}, "width 16 is not divisible by 3 heads"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SummaryMemory(DIM, OUT_DIM, **options)


def test_neighbours_that_do_not_divide_the_grid_are_refused() -> None:
    reader = summary_memory(neighbours=3)
    with pytest.raises(ValueError, match="2 x 2 patches, which neighbours 3 does not divide"):
        reader(make_segments([[2]])[0], None)
