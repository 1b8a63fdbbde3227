"""How long the videos of a conversation are, for reports by length."""

from collections.abc import Sequence

from datamodules.media.sample_media import SampleMedia
from datamodules.shards.member_names import IMAGE_ENDINGS
from datamodules.shards.shard_reader import RawMedium


def shown_seconds(media: Sequence[tuple[RawMedium, SampleMedia]]) -> float | None:
    """Length of all videos together, in seconds.

    Args:
        media: The media that a conversation shows, as their shard has them and as they were read.

    Returns:
        The sum over the videos; None if all media are pictures, or there are none.
    """
    found = [_seconds(raw, read) for raw, read in media if raw.ending not in IMAGE_ENDINGS]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known else None


def _seconds(raw: RawMedium, read: SampleMedia) -> float | None:
    """Length of the part of one video that is used: as stated, else up to the end of the last frame that was read."""
    facts, lengths = raw.facts, list[float]()
    stated = facts.meta.get("duration_ms")  # of the part, as the converter writes it
    if isinstance(stated, int | float) and stated > 0:
        lengths.append(stated / 1000)
    if facts.end_ms is not None:
        lengths.append((facts.end_ms - (facts.start_ms or 0)) / 1000)
    if lengths:
        return min(lengths)  # the part may reach beyond the end of the file
    times: list[int] = read.frame_ms.tolist()
    if len(times) < 2:  # cached features of a picture look like this, too
        return None
    return (times[-1] + (times[-1] - times[0]) / (len(times) - 1)) / 1000
