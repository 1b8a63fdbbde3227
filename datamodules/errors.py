"""Errors about data. Every message names the file and the key and says what to do."""

from typing import ClassVar


class ShardError(ValueError):
    """A shard cannot be read: it is missing, empty or truncated, or has a member that is refused."""


class SampleError(ValueError):
    """One sample is wrong: its JSON, its conversations, or its media."""

    kind: ClassVar[str] = "sample"
    """Name under which samples with this error are counted."""


class MembersError(SampleError):
    """A sample has no JSON, or several media."""

    kind = "members"


class MalformedJsonError(SampleError):
    """A sample's JSON cannot be parsed."""

    kind = "json"


class VideoMarkError(SampleError):
    """The video mark is missing, or is where none is allowed."""

    kind = "video mark"


class ConversationError(SampleError):
    """The chat template cannot render a conversation."""

    kind = "conversation"


class LongConversationError(SampleError):
    """A conversation has more tokens than allowed."""

    kind = "length"


class ModelLimitError(SampleError):
    """The language model cannot read a conversation: it is too long, or has ids without an embedding."""

    kind = "model limit"


class BrokenMediaError(SampleError):
    """The media bytes of one sample cannot be decoded."""

    kind = "media"


class OversizedMediaError(BrokenMediaError):
    """The media has more pixels or needs more memory than allowed."""

    kind = "size"


class StuckDecoderError(BrokenMediaError):
    """The decoder took too long and was killed."""

    kind = "timeout"


class CrashedDecoderError(BrokenMediaError):
    """The decoder crashed its process, or failed with an unexpected error."""

    kind = "crash"


class QuarantinedError(SampleError):
    """The sample's decoder hung or crashed earlier, so the sample is not tried again."""

    kind = "quarantined"


class TooManySkippedError(ValueError):
    """Too many samples were left out: the run would train or be evaluated on other data than configured."""


def kinds_of_errors() -> tuple[str, ...]:
    """The kinds of all errors about one sample, in a fixed order."""
    found, classes = set(), [SampleError]
    while classes:
        error = classes.pop()
        found.add(error.kind)
        classes += error.__subclasses__()
    return tuple(sorted(found))


def undecodable(where: str, reason: object) -> str:
    """Say that a video cannot be decoded, in one form for every backend.

    Args:
        where: Shard and key.
        reason: What is wrong, or the library's error. Of its message the first line is used: decord and torchcodec add
            a stack trace of their C++ code.
    """
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return f"{where}: the video cannot be decoded ({text}); fetch or encode it again, or leave the sample out"


def count_of(number: int, noun: str) -> str:
    """A number with its noun in the right form: ``1 row``, ``8,213 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
