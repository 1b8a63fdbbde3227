"""Answers every question of every conversation, each after the reference answers of the turns before it.

A *turn* is an answer of the assistant: a run of labelled tokens. Every turn becomes a row of its own, the conversation
up to this answer. A row of a later turn does not depend on what the model answered before. Media that are shown after a
turn are not in its row.

Readers of questions read the first question of a conversation for all of its turns, as in training.

A batch can have many more turns than conversations, so at most as many rows as it has conversations are computed at
once. Rows of one conversation follow each other, so that the language model reads their common beginning once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, LanguageModel, TextInputs, VisualTokens
from components.language.text_limits import TextLimitError


class TurnAnswer(NamedTuple):
    """What a model gives for one turn."""

    text: str  # the generated answer
    nll: float | None = None  # summed over the tokens of the reference answer; None without a reference
    num_tokens: int = 0  # of the reference answer, with the token that ends it
    option_scores: tuple[float, ...] = ()  # mean log likelihood per token of every answer option


class TurnRows(NamedTuple):
    """A row for every turn of C conversations, in their order; one for a conversation without labels."""

    conversation: Tensor  # [R] int64, index of the conversation
    text: TextInputs  # R rows; only the answer of the row's turn is labelled


class _Part(NamedTuple):
    """Rows that are computed together."""

    rows: range  # of all R rows; empty where another rank has more parts, and the result is dropped
    visual: VisualTokens
    text: TextInputs


def rows_of_turns(text: TextInputs) -> TurnRows:
    """Repeat every conversation for each of its turns.

    Args:
        text: C conversations, on the host.
    """
    labelled = (text.labels != IGNORED_LABEL) & text.text_mask  # [C, K]
    starts = labelled.clone()
    starts[:, 1:] &= ~labelled[:, :-1]
    number = starts.cumsum(dim=1)  # [C, K], of the turn at its labelled tokens
    counts = starts.sum(dim=1).clamp(min=1)  # [C]
    conversation = torch.arange(len(counts)).repeat_interleave(counts)  # [R]
    turn = torch.arange(len(conversation)) - (counts.cumsum(dim=0) - counts)[conversation] + 1  # [R], from 1 on
    rows = TextInputs(*(field[conversation] for field in text))
    is_other = number[conversation] != turn[:, None]
    return TurnRows(conversation, rows._replace(labels=rows.labels.masked_fill(is_other, IGNORED_LABEL)))


def answer_turns(
    language_model: LanguageModel,
    visual: VisualTokens,
    text: TextInputs,
    max_new_tokens: int,
    agree_on_maximum: Callable[[int], int],
) -> list[str]:
    """Answer every turn greedily.

    Args:
        language_model: Answers.
        visual: Visual tokens of the conversations' media.
        text: C conversations, on the host.
        max_new_tokens: Length limit of an answer.
        agree_on_maximum: Turns this rank's number into the largest of all ranks, see ``VideoLanguageModel``.

    Returns:
        One answer for each turn, conversation by conversation.

    Raises:
        TextLimitError: A conversation is too long.
    """
    rows = rows_of_turns(text)
    answers: list[str] = []
    for part in _parts(visual, text, rows, agree_on_maximum):
        with _naming_the_conversation(rows, part):
            found = language_model.generate(part.visual, part.text, max_new_tokens)
        answers += found[: len(part.rows)]
    return answers


def evaluate_turns(
    language_model: LanguageModel,
    visual: VisualTokens,
    text: TextInputs,
    max_new_tokens: int,
    options: Sequence[Sequence[str]],
    agree_on_maximum: Callable[[int], int],
) -> list[TurnAnswer]:
    """Answer every turn greedily, and score its reference answer and answer options.

    Args:
        language_model: Answers.
        visual: Visual tokens of the conversations' media.
        text: C conversations, on the host.
        max_new_tokens: Length limit of an answer.
        options: Answer options of every turn; may be empty.
        agree_on_maximum: See ``answer_turns``.

    Returns:
        One result for each turn, conversation by conversation.

    Raises:
        ValueError: The number of turns is another than the number of lists of options.
        TextLimitError: A conversation is too long, or becomes it by an option.
    """
    rows = rows_of_turns(text)
    if len(options) != len(rows.conversation):
        raise ValueError(f"the batch has {len(rows.conversation)} turns, but options for {len(options)} were given")
    results: list[TurnAnswer] = []
    for part in _parts(visual, text, rows, agree_on_maximum):
        references = [
            ids[labels != IGNORED_LABEL].tolist()
            for ids, labels in zip(part.text.input_ids, part.text.labels, strict=True)
        ]
        # A row without a label has no reference: its first token is scored, and the score is dropped.
        scored = [ids or row[:1].tolist() for ids, row in zip(references, part.text.input_ids, strict=True)]
        of_part = [options[row] for row in part.rows] or [()]
        with _naming_the_conversation(rows, part):
            answers, scores = language_model.answer_and_score(
                part.visual,
                part.text,
                max_new_tokens,
                [[ids, *texts] for ids, texts in zip(scored, of_part, strict=True)],
            )
        for answer, ids, likelihoods in zip(answers[: len(part.rows)], references, scores, strict=False):
            first, *others = likelihoods.tolist()
            results.append(TurnAnswer(answer, -first * len(ids) if ids else None, len(ids), tuple(others)))
    return results


def _parts(
    visual: VisualTokens, text: TextInputs, rows: TurnRows, agree_on_maximum: Callable[[int], int]
) -> Iterator[_Part]:
    """Divide the rows; all ranks get equally many parts, because each call may gather sharded weights from all."""
    total, size = len(rows.conversation), len(text.input_ids)
    for number in range(agree_on_maximum(-(-total // size))):
        of_part = range(min(number * size, total), min((number + 1) * size, total))
        index = torch.tensor(of_part or [0])
        row_index = None if visual.row_index is None else visual.row_index.cpu()[rows.conversation[index]]
        yield _Part(of_part, visual._replace(row_index=row_index), TextInputs(*(field[index] for field in rows.text)))


@contextmanager
def _naming_the_conversation(rows: TurnRows, part: _Part) -> Iterator[None]:
    """Let an error about a row name the conversation of the batch."""
    try:
        yield
    except TextLimitError as error:
        row = (part.rows or [0])[error.conversation]
        raise TextLimitError(error.reason, int(rows.conversation[row])) from error
