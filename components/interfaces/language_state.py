"""What a language model has read, how it answers from there, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class LanguageState(NamedTuple):
    """What a language model has read of C conversations.

    No method changes a state: each returns a new one. So any number of questions, options and turns can continue from
    the same state.

    The rows of ``cache`` are padded on the left to the longest conversation.
    """

    cache: Any  # keys and values of every token that was read, a transformers.Cache
    lengths: tuple[int, ...]  # C numbers: tokens that were read, visual tokens included
    logits: Tensor  # [C, vocabulary], for the token after the last one that was read


@dataclass(frozen=True)
class DecodingSettings:
    """How tokens of an answer are chosen, and when it ends.

    Args:
        max_new_tokens: Length limit of an answer.
        temperature: 0 chooses the most likely token (greedy). Larger values sample: 1 from the model's distribution,
            less from a sharper and more from a flatter one.
        top_k: Sample from the k most likely tokens; 0 from all.
        top_p: Sample from the fewest tokens that together have this probability, after ``top_k``.
        seed: Seed of the sampling, of each conversation or one for all. A conversation's answer depends on its seed and
            not on the other conversations of the batch.
        stop_ids: Ids that end an answer, besides those of the chat template and the model.

    Raises:
        ValueError: A value is out of range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | tuple[int, ...] = 0
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {value}; expected {expected}"
            for name, value, fits, expected in (
                ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
                ("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more"),
                ("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more"),
                ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
            )
            if not fits
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


class NewTokens(NamedTuple):
    """One new token of every conversation, given to a streamer as soon as it is chosen."""

    ids: tuple[int | None, ...]  # C; None where the answer has ended
    texts: tuple[str, ...]  # C; text that is now certain, may be empty. Joined over all calls it is the answer


Streamer = Callable[[NewTokens], None]
"""Called after every token, and once at the end with the last texts (then all ``ids`` are None)."""


class Answers(NamedTuple):
    """Answers to C conversations."""

    texts: list[str]  # without special tokens and surrounding white space
    token_ids: list[list[int]]  # without the token that ended the answer
    state: LanguageState  # with the answers read, without the tokens that ended them
