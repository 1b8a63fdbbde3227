"""The questions of a batch in the order in which a model answers them: every turn of every conversation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from components.answer_scores import is_exact_match


class AskedTurn(NamedTuple):
    """A question of a conversation with its reference answer."""

    conversation: Any  # ``datamodules.batch.Question``
    number: int  # of the turn, from 1 on
    num_turns: int  # of the conversation
    question: str
    answer: str
    options: tuple[str, ...]  # possible answers, with the reference answer among them; empty for an open question
    right_option: int | None  # index of the reference answer


def asked_turns(conversations: Sequence[Any]) -> list[AskedTurn]:
    """All turns of a batch's conversations, in their order.

    The options of a conversation belong to those of its questions whose reference answer is one of them.

    Args:
        conversations: ``questions`` of the batch; ``datamodules.batch.Question`` has what is read.
    """
    found = []
    for conversation in conversations:
        turns = conversation.turns
        for number, turn in enumerate(turns, start=1):
            right = _right_option(conversation.options, turn.answer)
            options = () if right is None else tuple(conversation.options)
            found.append(AskedTurn(conversation, number, len(turns), turn.question, turn.answer, options, right))
    return found


def _right_option(options: Sequence[str], answer: str) -> int | None:
    """Index of the reference answer: the same text if there is one, else the first that is equal after normalisation.

    "a" and "the" are both empty after normalisation, so the text itself is compared first.
    """
    for is_same in (lambda option: option.strip() == answer, lambda option: is_exact_match(option, answer)):
        for index, option in enumerate(options):
            if is_same(option):
                return index
    return None
