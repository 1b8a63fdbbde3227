"""Adds the sample's key to errors about one conversation of a batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from components.language.text_limits import TextLimitError


class SampleLimitError(TextLimitError):
    """A conversation of a known sample does not fit the language model.

    Args:
        reason: What is wrong with it.
        conversation: Its index in the batch.
        key: The sample's key.
    """

    def __init__(self, reason: str, conversation: int, key: str) -> None:
        super().__init__(reason, conversation)
        self.key = key


@contextmanager
def naming_the_sample(questions: Sequence[Any]) -> Iterator[None]:
    """Add the sample's key and the question to an error about one conversation.

    Args:
        questions: One ``lightning_modules.interfaces.EvaluatedQuestion`` for each conversation of the batch.

    Raises:
        SampleLimitError: The lines inside raise an error about one conversation.
    """
    try:
        yield
    except TextLimitError as error:
        wrong = questions[error.conversation]
        reason = f"sample {wrong.key!r}, question {wrong.question[:80]!r}: {error.reason}"
        raise SampleLimitError(reason, error.conversation, wrong.key) from error
