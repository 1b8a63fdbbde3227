"""The marks at which a conversation shows the sample's media: ``<video>``, or ``<video_1>`` for a numbered member."""

import re
from collections.abc import Iterable, Sequence

from components.language.chat_template import VIDEO_MARK as VIDEO_MARK
from datamodules.errors import VideoMarkError
from datamodules.shards.member_names import MediaCount

_NUMBERED_MARK = re.compile(r"<video_([0-9]{1,9})>")


def shown_media(by_user: Sequence[str], by_others: Sequence[str], media: MediaCount, where: str) -> tuple[int, ...]:
    """Find which medium every mark of a conversation shows.

    Only where members are numbered do numbered marks have a meaning; elsewhere they are text.

    Args:
        by_user: Texts of the user's turns.
        by_others: Texts of the other turns.
        media: Media of the sample.
        where: Shard, key and conversation, for messages.

    Returns:
        Numbers of media, in the order of the marks.

    Raises:
        VideoMarkError: The marks and the media do not fit each other.
    """
    if any(VIDEO_MARK in text or (media.is_numbered and _NUMBERED_MARK.search(text)) for text in by_others):
        raise VideoMarkError(f"{where}: {VIDEO_MARK} is outside the user's turns; only a user turn may have it")
    num_plain = sum(text.count(VIDEO_MARK) for text in by_user)
    if media.is_numbered:
        numbers = [int(number) for text in by_user for number in _NUMBERED_MARK.findall(text)]
        if numbers:
            _check_numbers(numbers, num_plain, media.num_media, where)
            return tuple(numbers)
    if num_plain and not media.num_media:
        raise VideoMarkError(
            f"{where}: {VIDEO_MARK} in the text, but the sample has no media member; add the media or remove the mark"
        )
    if num_plain != media.num_media:
        wanted = "media needs one" if media.num_media == 1 else f"{media.num_media} media needs {media.num_media}"
        remedy = "; to show some of them, number the marks, such as <video_0>" if media.is_numbered else ""
        raise VideoMarkError(
            f"{where}: {num_plain} times {VIDEO_MARK} in the user's turns; a sample with {wanted}{remedy}"
        )
    return tuple(range(media.num_media))


def without_numbers(text: str) -> str:
    """Write ``<video>`` for every numbered mark, as the chat template reads it."""
    return _NUMBERED_MARK.sub(VIDEO_MARK, text) if "<" in text else text


def with_numbers(text: str, numbers: Iterable[int]) -> str:
    """Undo ``without_numbers``.

    Args:
        text: Text of one user turn.
        numbers: Media of its marks; an iterator, if more turns follow.
    """
    parts = text.split(VIDEO_MARK)
    marks = [f"<video_{number}>" for _, number in zip(parts[1:], numbers, strict=False)]
    return "".join(part for pair in zip(parts, [*marks, ""], strict=True) for part in pair)


def _check_numbers(numbers: Sequence[int], num_plain: int, num_media: int, where: str) -> None:
    if num_plain:
        raise VideoMarkError(
            f"{where}: {VIDEO_MARK} beside numbered marks such as <video_{numbers[0]}>; number all marks of a "
            "conversation or none"
        )
    unknown = [number for number in numbers if number >= num_media]
    if unknown:
        raise VideoMarkError(
            f"{where}: <video_{unknown[0]}> in the text, but the media members of the sample are numbered from 0 to "
            f"{num_media - 1}"
        )
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise VideoMarkError(
            f"{where}: <video_{twice}> is in the text more than once; a conversation shows a medium once, so write "
            "words for the other mentions"
        )
