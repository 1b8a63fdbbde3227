"""The three ways in which data can be wrong. Every message says which file, which key and what to do."""


class ShardError(ValueError):
    """A shard as a whole cannot be read: missing, empty, truncated, or holding a member that is refused."""


class SampleError(ValueError):
    """One sample is wrong: its JSON, its conversations, or what it says about its media."""


class BrokenMediaError(SampleError):
    """The media bytes of one sample cannot be decoded."""


def undecodable(where: str, reason: object) -> str:
    """Say that a video cannot be decoded, in one form for every backend."""
    return f"{where}: the video cannot be decoded ({reason}); fetch or encode it again, or leave the sample out"
