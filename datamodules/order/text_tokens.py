"""Estimates how many tokens a conversation has from its number of characters, which the index states."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.language.chat_template import ChatSettings
from datamodules.conversations import build_turns
from datamodules.errors import SampleError
from datamodules.shards.shard_reader import ShardReader

_NUM_MEASURED = 256


class TextTokens(NamedTuple):
    """Tokens of a conversation: ``overhead + per_character * characters``, at most ``max_length``."""

    overhead: float
    per_character: float
    max_length: int | None = None

    def estimate(self, characters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of conversations with these numbers of characters."""
        tokens: NDArray[np.int64] = np.rint(self.overhead + self.per_character * characters).astype(np.int64)
        return tokens if self.max_length is None else np.minimum(tokens, self.max_length)


def measure_text_tokens(
    readers: Sequence[ShardReader],
    tokenizer: Any,
    *,
    chat: ChatSettings = ChatSettings(),  # noqa: B008  frozen
    max_length: int | None = None,
    seed: int = 0,
) -> TextTokens:
    """Fit the number of tokens to the number of characters, on some conversations.

    Only one shard of every source is read, because a shard in an object store is downloaded completely. The result is
    rounded, so that two machines get the same numbers.

    Args:
        readers: The samples, source by source.
        tokenizer: See ``load_tokenizer``.
        chat: What the text of conversations depends on besides the chat template.
        max_length: Most tokens of a conversation; longer ones are not trained on.
        seed: Chooses shards and conversations.

    Raises:
        SampleError: No conversation can be encoded.
    """
    characters: list[int] = []
    tokens: list[int] = []
    problem: SampleError | None = None
    for number, reader in enumerate(readers):
        for index in _sample_numbers(reader, -(-_NUM_MEASURED // len(readers)), (seed, number)):
            try:
                raw = reader.read(index)
                turns = raw.record.conversations[0].turns
                tokens.append(len(build_turns(turns, tokenizer, chat=chat, where=raw.where).input_ids))
                characters.append(reader.entry(index).text_lengths[0])
            except SampleError as error:
                problem = error
    if not tokens:
        raise SampleError(f"no conversation can be encoded, so their lengths are not known; one of them: {problem}")
    overhead, per_character = _fit_line(np.array(characters, dtype=np.float64), np.array(tokens, dtype=np.float64))
    return TextTokens(overhead, per_character, max_length)


def _sample_numbers(reader: ShardReader, count: int, seed: Sequence[int]) -> list[int]:
    """Numbers of at most ``count`` random samples of one random shard, ascending."""
    generator = np.random.default_rng(seed)
    sizes = [len(shard.entries) for shard in reader.shards]
    shard = int(generator.integers(len(sizes)))
    indices = generator.permutation(sizes[shard])[:count]
    return [sum(sizes[:shard]) + int(index) for index in sorted(indices)]


def _fit_line(characters: NDArray[np.float64], tokens: NDArray[np.float64]) -> tuple[float, float]:
    """Intercept and slope by least squares; through the origin where these were negative or all lengths are equal."""
    spread = float(((characters - characters.mean()) ** 2).sum())
    slope = float(((characters - characters.mean()) * tokens).sum()) / spread if spread else 0.0
    overhead = round(float(tokens.mean() - slope * characters.mean()), 1)
    if slope <= 0 or overhead < 0:
        return 0.0, round(float(tokens.sum()) / max(1.0, float(characters.sum())), 3)
    return overhead, round(slope, 3)
