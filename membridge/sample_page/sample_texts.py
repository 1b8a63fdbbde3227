"""The texts of a sample, shortened so that a page stays small."""

from datamodules.errors import SampleError
from datamodules.shards.schema import Conversation, Turn
from datamodules.shards.shard_reader import RawSample
from datamodules.validate.conversation_check import ConversationCheck, TokenCounts
from datamodules.validate.shard_check import Problem
from membridge.sample_page.shown_sample import ShownConversation

MOST_CONVERSATIONS = 20
"""Conversations of a sample that are shown."""

_MOST_TURNS = 40
_MOST_OPTIONS = 40
_LONGEST_TEXT = 4000


class TextBudget:
    """Shortens texts so that all texts of a sample together stay within a number of characters.

    Args:
        remaining: Characters.
    """

    def __init__(self, remaining: int = 40_000) -> None:
        self.remaining = remaining

    def shortened(self, text: str) -> str:
        """The text, or its beginning and how much was left out."""
        length = min(self.remaining, _LONGEST_TEXT)
        self.remaining -= min(len(text), length)
        return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"


def shown_conversations(raw: RawSample, check: ConversationCheck | None) -> tuple[ShownConversation, ...]:
    """The first conversations of a sample; all are checked, and wrong ones are shown first.

    Args:
        raw: The sample.
        check: Counts tokens; None = they are not counted.
    """
    checked = [(conversation, *_counted(raw, conversation, check)) for conversation in raw.record.conversations]
    checked.sort(key=lambda one: one[2] is None)
    budget = TextBudget()
    return tuple(
        ShownConversation(
            budget.shortened(conversation.id),
            budget.shortened(conversation.category),
            tuple(budget.shortened(option) for option in conversation.options[:_MOST_OPTIONS]),
            tuple(Turn(turn.role, budget.shortened(turn.content)) for turn in conversation.turns[:_MOST_TURNS]),
            conversation.media,
            counts.total if check is not None and problem is None else None,
            counts.unknown,
            problem,
        )
        for conversation, counts, problem in checked[:MOST_CONVERSATIONS]
    )


def _counted(
    raw: RawSample, conversation: Conversation, check: ConversationCheck | None
) -> tuple[TokenCounts, Problem | None]:
    if check is None:
        return TokenCounts(), None
    alone = raw._replace(record=raw.record._replace(conversations=(conversation,)))
    try:
        return check.run(alone), None
    except SampleError as error:
        reason = str(error).removeprefix(f"{raw.where}, conversation {conversation.id!r}: ")
        return TokenCounts(), Problem(error.kind, reason)
