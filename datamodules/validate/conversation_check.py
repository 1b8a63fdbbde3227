"""Encodes conversations as training does, and finds those that the chat template refuses or that are too long."""

from functools import lru_cache
from typing import Any, NamedTuple

from components.language.chat_template import ChatSettings
from datamodules.conversations import build_turns, load_tokenizer, num_unknown_words
from datamodules.shards.shard_reader import RawSample


class TokenCounts(NamedTuple):
    """Tokens of some conversations."""

    total: int = 0
    longest: int = 0  # of one conversation
    unknown: int = 0  # tokens for words that the tokenizer does not know

    def __add__(self, other: object) -> "TokenCounts":
        """Add up two counts; ``longest`` is the larger one."""
        assert isinstance(other, TokenCounts)
        return TokenCounts(self.total + other.total, max(self.longest, other.longest), self.unknown + other.unknown)


class ConversationCheck(NamedTuple):
    """How conversations are encoded. Worker processes inherit the loaded tokenizer.

    Args:
        tokenizer: Folder or hub name.
        chat: See ``ChatSettings``.
        max_length: Most tokens of a conversation; None = no limit.
    """

    tokenizer: str
    chat: ChatSettings = ChatSettings()
    max_length: int | None = None

    def load(self) -> Any:
        """Return the tokenizer, loaded once in each process.

        Raises:
            ValueError: There is none, or it cannot be used.
        """
        return _load(self.tokenizer)

    def run(self, raw: RawSample) -> TokenCounts:
        """Encode all conversations of a sample.

        Raises:
            SampleError: One of them cannot be encoded or is too long.
        """
        counts = TokenCounts()
        for conversation in raw.record.conversations:
            where = f"{raw.where}, conversation {conversation.id!r}"
            ids = build_turns(
                conversation.turns, self.load(), chat=self.chat, max_length=self.max_length, where=where
            ).input_ids
            counts += TokenCounts(len(ids), len(ids), num_unknown_words(ids, self.load()))
        return counts


@lru_cache(maxsize=2)
def _load(tokenizer: str) -> Any:
    return load_tokenizer(tokenizer)
