"""The limits of a language model's input: ids without an embedding, and the length of the context."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

CONTEXT_ADVICE = (
    "shorten or split the conversation (data.loading.max_length bounds its text), let the readers give fewer visual "
    "tokens, or take a language model with a longer context"
)


class TextLimitError(ValueError):
    """A conversation is too long for the language model, or contains ids without an embedding.

    Args:
        reason: The problem, for the message.
        conversation: Index of the conversation in the batch.
    """

    def __init__(self, reason: str, conversation: int) -> None:
        super().__init__(f"conversation {conversation} of the batch: {reason}")
        self.reason = reason
        self.conversation = conversation


class TextLimits:
    """Checks conversations against the limits of one language model.

    Args:
        path: Where model and tokenizer come from, for messages.
        tokenizer: The tokenizer.
        num_embeddings: Ids below this number have an embedding.
        context_length: Maximum number of positions; None if the model has no limit.

    Raises:
        ValueError: The tokenizer's vocabulary, without added tokens, is larger than the model's. It then belongs to
            another model.
    """

    def __init__(self, path: str, tokenizer: Any, num_embeddings: int, context_length: int | None) -> None:
        self.path = path
        self.context_length = context_length
        self.num_embeddings = num_embeddings
        # Gemma-3's text models have no embedding for one added token, the image token, which no text contains.
        self._all_embedded = len(tokenizer) <= self.num_embeddings
        without = range(self.num_embeddings, len(tokenizer))
        if any(index not in tokenizer.added_tokens_decoder for index in without):
            raise ValueError(
                f"the tokenizer of {path!r} has {len(tokenizer)} tokens, the model embeddings for only "
                f"{self.num_embeddings}; set vocab_size in its config.json (weights='random') or use the tokenizer "
                "that belongs to the weights"
            )

    def check_ids(self, input_ids: Tensor) -> None:
        """Raise on ids without an embedding. On a GPU, looking them up would end the process without a useful message.

        Args:
            input_ids: ``[C, K]``, one conversation per row. Copied to the CPU only if the tokenizer has such ids.

        Raises:
            TextLimitError: A conversation contains such an id.
        """
        if self._all_embedded or not bool((input_ids >= self.num_embeddings).any()):
            return
        row, column = (input_ids >= self.num_embeddings).nonzero()[0].tolist()
        raise TextLimitError(
            f"it holds id {int(input_ids[row, column])}, but {self.path!r} has embeddings for ids "
            f"below {self.num_embeddings} only: the token is not a text token, so remove it from the conversation",
            row,
        )

    def check_positions(self, longest: int, mask: Tensor, num_visual: int) -> None:
        """Raise on sequences that are longer than the model's context.

        Args:
            longest: Length of the longest sequence, in positions.
            mask: Positions that are not padding, ``[C, T]`` bool; read only if a sequence is too long.
            num_visual: Maximum number of visual tokens in a sequence, for the message.

        Raises:
            TextLimitError: A sequence is too long. A model with learned positions would fail without a useful message;
                one with rotary positions would be trained on positions that it does not know.
        """
        if self.context_length is not None and longest > self.context_length:
            self.check_lengths(mask.sum(dim=1).tolist(), num_visual=num_visual)

    def check_lengths(
        self, lengths: Sequence[int], new_tokens: Sequence[int] | None = None, *, num_visual: int = 0
    ) -> None:
        """Raise on sequences that are, with the tokens to come, longer than the model's context.

        Args:
            lengths: Tokens of every sequence.
            new_tokens: For every sequence, the maximum number of tokens that are generated or scored after it.
            num_visual: Maximum number of visual tokens in a sequence, for the message.

        Raises:
            TextLimitError: See ``check_positions``.
        """
        rooms = new_tokens or [0] * len(lengths)
        totals = [length + room for length, room in zip(lengths, rooms, strict=True)]
        if self.context_length is None or max(totals) <= self.context_length:
            return
        row = totals.index(max(totals))
        visual = f" with its visual tokens (at most {num_visual} of them)" if num_visual else ""
        more = f" and up to {rooms[row]} tokens of an answer" if rooms[row] else ""
        raise TextLimitError(
            f"it has {lengths[row]} tokens{visual}{more}, but max_position_embeddings of {self.path!r} is "
            f"{self.context_length}: {CONTEXT_ADVICE}",
            row,
        )


def context_length(config: Any) -> int | None:
    """Maximum number of positions of a language model.

    Args:
        config: Configuration of a Hugging Face language model.

    Returns:
        ``max_position_embeddings``, multiplied where rotary positions are scaled (YaRN, linear, dynamic). None if the
        configuration does not have it, or the model uses distances instead of positions (ALiBi).
    """
    text = config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1 or getattr(text, "alibi", False):
        return None
    return max([stated, *_stretched(getattr(text, "rope_parameters", None), stated)])


def _stretched(rope: Any, stated: int) -> Iterator[int]:
    """Context lengths with scaled rotary positions; some models have settings for each type of layer."""
    if not isinstance(rope, Mapping):
        return
    for inner in rope.values():
        yield from _stretched(inner, stated)
    factor = rope.get("factor")
    if isinstance(factor, int | float) and rope.get("rope_type") in ("yarn", "linear", "dynamic", "llama3"):
        original = rope.get("original_max_position_embeddings")
        if original is not None or rope["rope_type"] == "dynamic":
            yield int(factor * (original or stated))
