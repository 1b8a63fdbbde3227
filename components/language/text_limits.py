"""What a language model can read: ids that it has embeddings for, and so many positions."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

CONTEXT_ADVICE = (
    "shorten or split the conversation (data.loading.max_length bounds its text), let the bridge give fewer visual "
    "tokens, or take a language model with a longer context"
)


class TextLimitError(ValueError):
    """A conversation does not fit the language model.

    Args:
        reason: What is wrong with it.
        conversation: Its number in the batch.
    """

    def __init__(self, reason: str, conversation: int) -> None:
        super().__init__(f"conversation {conversation} of the batch: {reason}")
        self.reason = reason
        self.conversation = conversation


class TextLimits:
    """The limits of one language model; conversations beyond them are refused.

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        path: Where both come from, for messages.

    Attributes:
        context_length: Most positions of a sequence; None where the model has no such limit.
        num_embeddings: Ids below this have an embedding.

    Raises:
        ValueError: The tokenizer's own vocabulary, without the tokens that were added to it, is larger than the
            model's: it is another model's.
    """

    def __init__(self, model: Any, tokenizer: Any, path: str) -> None:
        self.path = path
        self.context_length = context_length(model.config)
        self.num_embeddings = int(model.get_input_embeddings().num_embeddings)
        # Gemma-3's text models lack the embedding of one token, which stands for pictures and never in a text.
        self._all_embedded = len(tokenizer) <= self.num_embeddings
        without = range(self.num_embeddings, len(tokenizer))
        if any(index not in tokenizer.added_tokens_decoder for index in without):
            raise ValueError(
                f"the tokenizer of {path!r} has {len(tokenizer)} tokens, the model embeddings for only "
                f"{self.num_embeddings}; set vocab_size in its config.json (weights='random') or use the tokenizer "
                "that belongs to the weights"
            )

    def check_ids(self, input_ids: Tensor) -> None:
        """Refuse ids without an embedding; on a GPU their look-up would end the process without a reason.

        Args:
            input_ids: ``[C, K]``, one conversation a row. Read on the host only where the tokenizer has such ids.

        Raises:
            TextLimitError: A conversation holds one.
        """
        if self._all_embedded or not bool((input_ids >= self.num_embeddings).any()):
            return
        row, place = (input_ids >= self.num_embeddings).nonzero()[0].tolist()
        raise TextLimitError(
            f"it holds id {int(input_ids[row, place])}, but {self.path!r} has embeddings for ids "
            f"below {self.num_embeddings} only: the token stands for something that is no text, so take it out of the "
            "conversation",
            row,
        )

    def check_positions(self, longest: int, mask: Tensor, num_visual: int, new_tokens: int = 0, first: int = 0) -> None:
        """Refuse sequences that are longer than the model's context.

        Args:
            longest: Positions of the longest sequence, known on the host.
            mask: Real positions of the sequences, ``[C, T]`` bool; read only where one is too long.
            num_visual: Most visual tokens that one of them may hold, for the message.
            new_tokens: Most tokens that are generated or scored after each.
            first: Number of the first of them in its batch.

        Raises:
            TextLimitError: One is longer. A model with learned positions would fail without a reason, one with rotary
                ones would be trained on positions that it does not know.
        """
        limit = self.context_length
        if limit is None or longest + new_tokens <= limit:
            return
        lengths = mask.sum(dim=1)
        row = int(lengths.argmax())
        total = int(lengths[row])
        more = f" and up to {new_tokens} tokens of an answer" if new_tokens else ""
        raise TextLimitError(
            f"it has {total} tokens with its visual tokens (at most {num_visual} of them){more}, but "
            f"max_position_embeddings of {self.path!r} is {limit}: "
            f"{CONTEXT_ADVICE}",
            first + row,
        )


def context_length(config: Any) -> int | None:
    """Most positions that a model was made for.

    Args:
        config: Configuration of a Hugging Face language model.

    Returns:
        ``max_position_embeddings`` by whatever name the model has for it, stretched where its rotary positions are
        scaled (YaRN, linear, dynamic). None where it tells none, or weighs distances and has no positions (ALiBi).
    """
    text = config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1 or getattr(text, "alibi", False):
        return None
    return max([stated, *_stretched(getattr(text, "rope_parameters", None), stated)])


def _stretched(rope: Any, stated: int) -> Iterator[int]:
    """Lengths that scaled rotary positions reach; some models keep settings for each kind of layer."""
    if not isinstance(rope, Mapping):
        return
    for inner in rope.values():
        yield from _stretched(inner, stated)
    factor = rope.get("factor")
    if isinstance(factor, int | float) and rope.get("rope_type") in ("yarn", "linear", "dynamic", "llama3"):
        original = rope.get("original_max_position_embeddings")
        if original is not None or rope["rope_type"] == "dynamic":
            yield int(factor * (original or stated))
