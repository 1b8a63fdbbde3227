"""The ways in which data can be wrong. Every message says which file, which key and what to do."""

from typing import ClassVar


class ShardError(ValueError):
    """A shard as a whole cannot be read: missing, empty, truncated, or holding a member that is refused."""


class SampleError(ValueError):
    """One sample is wrong: its JSON, its conversations, or what it says about its media."""

    kind: ClassVar[str] = "sample"
    """Under which name a sample that was left out is counted."""


class MembersError(SampleError):
    """A sample lacks its JSON, or has several media."""

    kind = "members"


class MalformedJsonError(SampleError):
    """A sample's JSON cannot be read at all."""

    kind = "json"


class VideoMarkError(SampleError):
    """The video mark stands where no media belongs, or not where it does."""

    kind = "video mark"


class ConversationError(SampleError):
    """A conversation cannot be written through the chat template."""

    kind = "conversation"


class LongConversationError(SampleError):
    """A conversation has more tokens than are allowed."""

    kind = "length"


class ModelLimitError(SampleError):
    """The language model cannot read a conversation: it is too long, or has ids that the model has no embedding for."""

    kind = "model limit"


class BrokenMediaError(SampleError):
    """The media bytes of one sample cannot be decoded."""

    kind = "media"


class OversizedMediaError(BrokenMediaError):
    """The media has more pixels or needs more memory than is allowed."""

    kind = "size"


class StuckDecoderError(BrokenMediaError):
    """The decoder did not come to an end in time and was killed."""

    kind = "timeout"


class CrashedDecoderError(BrokenMediaError):
    """The decoder took its process down, or failed in a way that it should not."""

    kind = "crash"


class QuarantinedError(SampleError):
    """The sample's decoder hung or crashed before, so it is not tried again."""

    kind = "quarantined"


class TooManySkippedError(ValueError):
    """So many samples are left out that the run would learn from, or be judged on, something else than was asked."""


def kinds_of_errors() -> tuple[str, ...]:
    """The kinds of all errors about one sample, in a fixed order."""
    found, classes = set(), [SampleError]
    while classes:
        error = classes.pop()
        found.add(error.kind)
        classes += error.__subclasses__()
    return tuple(sorted(found))


def undecodable(where: str, reason: object) -> str:
    """Say that a video cannot be decoded, in one form for every backend."""
    return f"{where}: the video cannot be decoded ({reason}); fetch or encode it again, or leave the sample out"


def count_of(number: int, noun: str) -> str:
    """A number with its noun in the right form: ``1 row``, ``8,213 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
