"""Finds and removes placeholders of media in texts, such as ``<image>``, and finds control tokens."""

import re
from collections.abc import Iterable

from datamodules.convert.media_paths import NamedAs
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.shards.schema import VIDEO_MARK, Turn

_PLAIN = re.compile(r"<(?:image|video)>")
_ITS_MEDIA = (  # each begins with "<", which is found quickly
    r"<(?:(?:image|video)(?:here|[ _-](?:here|pad|token|soft_token|placeholder|0*[01]))?>"
    r"|\|(?:image|video)(?:_pad|_token|_0*[01])?\|>|\|vision_(?:start|end|pad)\|>|(?:start|end)_of_(?:image|video)>)"
)
_MARKS_OF_ITS_MEDIA = re.compile(rf"{_ITS_MEDIA}(?:\s*{_ITS_MEDIA})*\s*", re.IGNORECASE)
_BORDERS = re.compile(r"<\|vision_(?:start|end|pad)\|>|<(?:start|end)_of_(?:image|video)>", re.IGNORECASE)
_SHOWN_HERE = re.compile(
    r"<(image|video)(?:here|[ _-](?:here|pad|token|soft_token|placeholder))?>|<\|(image|video)(?:_pad|_token)?\|>",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"<\|?(?:image|video)[ _-](\d+)\|?>", re.IGNORECASE)
_ANY = re.compile(
    rf"{_ITS_MEDIA}|<\|\w+\|>|</?(?:audio|speech|sound|image|video|img|vid|bbox|ref-object)(?:here|[ _-]\w+)?>"
    r"|<(?:im|vi)_(?:start|end|patch)>|<(?:media|frames?|visual)>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)


def without_media_marks(text: str) -> str:
    """Remove the placeholders of the row's image or video from a text."""
    parts: list[str] = []
    at = 0
    for marks in _MARKS_OF_ITS_MEDIA.finditer(text):
        before = text[at : marks.start()].rstrip()
        space = text[at + len(before) : marks.end()]
        parts += (before, "\n" if "\n" in space else " ")
        at = marks.end()
    return "".join((*parts, text[at:])).strip()


def with_video_marks(text: str) -> tuple[str, list[NamedAs]]:
    """Write ``<video>`` for every placeholder of an image or video.

    Returns:
        The text, and ``image`` or ``video`` for each placeholder.

    Raises:
        RowProblem: Placeholders are numbered: it is not known from which number on.
    """
    if "<" not in text:
        return text, []
    if numbers := _NUMBERED.findall(text):
        raise RowProblem(
            Reason.SEVERAL_MEDIA,
            f"the text numbers images or videos {sorted(set(map(int, numbers)))}; write <image> or <video> where each "
            "of several is shown, in their order",
        )
    text = _BORDERS.sub("", text)
    found: list[NamedAs] = [
        "image" if "image" in mark.group().lower() else "video" for mark in _SHOWN_HERE.finditer(text)
    ]
    return _SHOWN_HERE.sub(VIDEO_MARK, text), found


def has_plain_mark(text: str) -> bool:
    """Whether a text holds ``<image>`` or ``<video>``."""
    return "<" in text and _PLAIN.search(text) is not None


def other_marks(turns: Iterable[Turn]) -> set[str]:
    """Placeholders and control tokens other than ``VIDEO_MARK``, which nothing replaces."""
    found = {mark for turn in turns if "<" in turn.content for mark in _ANY.findall(turn.content)}
    found.discard(VIDEO_MARK)
    return found


def check_numbers(texts: Iterable[str]) -> None:
    """Refuse texts that number several images or videos.

    Raises:
        RowProblem: They do, but the row names one.
    """
    numbers = {int(number) for text in texts if "<" in text for number in _NUMBERED.findall(text)}
    if len(numbers) > 1 or max(numbers, default=0) > 1:
        raise RowProblem(
            Reason.SEVERAL_MEDIA,
            f"the text numbers images or videos {sorted(numbers)}, but the row names one",
        )
