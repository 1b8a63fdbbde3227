"""Contract of the language model: what it has read, how it answers from there, and what it answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from components.interfaces.records import AnswerLoss, TextInputs, VisualTokens
from components.recorded_arguments import RecordsArguments


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


AnswerOption = str | Sequence[int]
"""An answer that is scored: its text, or its token ids with the one that ends it."""


class LanguageModel(RecordsArguments, nn.Module, ABC):
    """A causal language model that reads visual tokens at the placeholders of its text.

    It answers from a state: ``prefill`` reads prompts, ``decode`` answers, ``extend`` reads a next question, ``score``
    compares answer options. A state never changes, so any number of questions and options can follow the same one.

    ``components.language.cached_language_model.CachedLanguageModel`` has all of this but the network.

    Attributes:
        dim: Embedding width E.
        may_run_again: Whether a call may be computed again in the backward pass, to save memory.
        weight_reading_methods: See ``VisualReader``. They do not call each other.
    """

    dim: int
    may_run_again: bool = True
    weight_reading_methods: tuple[str, ...] = (
        "embed",
        "prefill",
        "extend",
        "decode",
        "score",
        "generate",
        "score_options",
        "probe",
    )

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed text, ``[C, K, E]``, as the model itself does; the value at a placeholder means nothing."""

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words inside a prompt, without special tokens; only visual prompts with words need them.

        Raises:
            NotImplementedError: The language model has no tokenizer.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no word_ids(), which words in visual_prompt need: write it, or leave words out"
        )

    def question_words(self, text: TextInputs) -> list[str]:
        """The words of every conversation's question: what stands between its first medium and its first answer.

        Only frame scorers need them. They are read back from the token ids, so that training and answers see the same.

        Raises:
            NotImplementedError: The language model has no tokenizer.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no question_words(), which a frame scorer needs: write it, or leave it out"
        )

    @abstractmethod
    def prompts(self, questions: Sequence[str | Sequence[tuple[str, str]]]) -> TextInputs:
        """Write questions as prompts, on the host.

        Args:
            questions: Questions about a batch's first video, whose visual tokens are inserted at ``<video>`` or, in a
                question without it, in front of it. Or conversations so far: role (``system``, ``user``,
                ``assistant``) and text of every turn, the last one the user's. Their ``<video>`` marks show the first
                media of the batch, in their order.
        """

    @abstractmethod
    def next_prompts(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> TextInputs:
        """Write what follows the last answers up to the next answers, for ``extend``.

        Args:
            conversations: Role (``system``, ``user``, ``assistant``) and text of every turn so far. The last turn is
                the new question, the one before it the answer that the state has read. The ``<video>`` marks of the
                new question show the first media that ``extend`` is given, in their order.
        """

    @abstractmethod
    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Score the answers; only the labelled positions go through the output layer."""

    @abstractmethod
    def prefill(self, visual: VisualTokens, text: TextInputs, room: int = 0) -> LanguageState:
        """Read all tokens of C conversations. A beginning that several share is read once.

        Args:
            visual: Visual tokens of the batch.
            text: The conversations.
            room: Tokens that must still fit into the context afterwards.
        """

    @abstractmethod
    def extend(self, state: LanguageState, text: TextInputs, visual: VisualTokens | None = None) -> LanguageState:
        """Read more tokens of every conversation: the next question, or more visual tokens.

        Args:
            state: What was read before.
            text: The new tokens, at least one a conversation.
            visual: Visual tokens for the placeholders in ``text``; None if it has none.
        """

    @abstractmethod
    def decode(self, state: LanguageState, settings: DecodingSettings, streamer: Streamer | None = None) -> Answers:
        """Answer every conversation.

        Args:
            state: What was read.
            settings: How tokens are chosen.
            streamer: Gets every token as soon as it is chosen.

        Returns:
            The answers, and the state after them.
        """

    @abstractmethod
    def score(self, state: LanguageState, options: Sequence[Sequence[AnswerOption]]) -> list[Tensor]:
        """Mean log likelihood per token of every answer option, one tensor ``[number of options]`` a conversation."""

    @abstractmethod
    def generate(self, visual: VisualTokens, text: TextInputs, max_new_tokens: int) -> list[str]:
        """Answer greedily. A prompt is a conversation up to its first labelled token."""

    @abstractmethod
    def score_options(
        self, visual: VisualTokens, text: TextInputs, options: Sequence[Sequence[AnswerOption]]
    ) -> list[Tensor]:
        """Score options like ``score``. A prompt is a conversation up to its first labelled token."""

    def answer_and_score(
        self, visual: VisualTokens, text: TextInputs, max_new_tokens: int, options: Sequence[Sequence[AnswerOption]]
    ) -> tuple[list[str], list[Tensor]]:
        """What ``generate`` and ``score_options`` give; a subclass may read the prompts once for both."""
        answers = self.generate(visual, text, max_new_tokens)
        return answers, self.score_options(visual, text, options)
