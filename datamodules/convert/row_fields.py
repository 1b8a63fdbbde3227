"""Sorts the fields of rows: read, harmless, or changing what a row means.

Data sets have fields of their own. A field that is not known here is counted in the report, so that nothing is dropped
silently.
"""

import functools
import re
import reprlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from datamodules.convert.row_problems import Reason, RowProblem

MEDIA_FIELDS = ("video", "videos", "image", "images")
OTHER_MEDIA_FIELDS = ("video_path", "video_file", "image_path", "image_file", "media", "media_path")
"""Read if none of ``MEDIA_FIELDS`` names media."""

_INNER = ("meta", "metadata")
_EMPTY: tuple[object, ...] = (None, "", "[]", "{}", "None", "null", [], {})
_HARMLESS = re.compile(
    r"(?!frames?_?(?:id|ind))(?:\w+_)?(?:id|ids|uid|uuid|idx|index|key|hash|license|source|sources|dataset|datasets|domain|author|authors)"
    r"|\w*(?:width|height|size|resolution)|(?:video_?|image_?)?duration|(?:data|data_?set|task|question|answer|media)_(?:source|name|type)"
    r"|types?|categor(?:y|ies)|tasks?|split|subset|lang|languages?|model|model_name|scores?|quality|difficulty|tags"
    r"|length|num_turns|num_tokens|created|created_at|version|title|topic|url",
    re.IGNORECASE,
)
_HARMLESS_WITH_MEDIA_ONLY = re.compile(r"(?:video|image|clip|media|file)_?(?:id|idx|index|key)", re.IGNORECASE)
_READ_IN = {"turn": frozenset({"from", "role", "value", "content"}), "QA": frozenset({"q", "a", "i"})}
_UNSUPPORTED = re.compile(
    r"(?:audio|speech|sound)s?(?:_(?:path|file|url))?|tools|functions|objects|tool_calls|function_call", re.IGNORECASE
)
_WEIGHT = re.compile(r"loss|weight|loss_(?:weight|mask)|train|trainable|learn|kto_tag", re.IGNORECASE)
_shown = reprlib.Repr()  # of any depth and length
_shown.maxstring = _shown.maxother = 60


def shown(value: object) -> str:
    """A shortened form of a JSON value, for messages."""
    return "nothing" if value is None else f"{type(value).__name__} {_shown.repr(value)}"


def string_in(value: Any, what: str) -> str:
    """The value of a field that must be a string.

    Raises:
        RowProblem: It is none.
    """
    if not isinstance(value, str):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a string, got {shown(value)}")
    return value


class _Use(Enum):
    """How a field is treated, by its name."""

    HARMLESS = 1
    HARMLESS_WITH_MEDIA = 2
    WEIGHT = 3
    UNSUPPORTED = 4
    UNKNOWN = 5


_CHECKED = (_Use.WEIGHT, _Use.UNSUPPORTED)


@functools.lru_cache(4096)
def _use(name: str) -> _Use:
    for use, pattern in (
        (_Use.UNSUPPORTED, _UNSUPPORTED),
        (_Use.WEIGHT, _WEIGHT),
        (_Use.HARMLESS_WITH_MEDIA, _HARMLESS_WITH_MEDIA_ONLY),
        (_Use.HARMLESS, _HARMLESS),
    ):
        if pattern.fullmatch(name):
            return use
    return _Use.UNKNOWN


def check_fields(fields: Mapping[str, Any], owner: str) -> None:
    """Refuse a row or an answer with a field that changes its meaning and is not supported.

    Raises:
        RowProblem: It has audio, tools or objects, or must not be learned.
    """
    for name, value in fields.items():
        if (use := _use(name)) not in _CHECKED:
            continue
        if use is _Use.UNSUPPORTED and not isinstance(value, bool) and value not in _EMPTY:
            raise RowProblem(Reason.FIELD, f"{owner} has {name!r}, which is not supported; remove it or the row")
        if use is _Use.WEIGHT and value is not None and value == 0:
            raise RowProblem(Reason.FIELD, f"{owner} has {name!r} {value}, so it must not be learned; remove the row")


def inner_field(fields: Mapping[str, Any]) -> str | None:
    """Name of the field that holds further fields; None if there is none."""
    return next((name for name in _INNER if isinstance(fields.get(name), dict)), None)


def unread_in_row(row: Mapping[str, Any], read: frozenset[str], has_media: bool) -> set[str]:
    """Names of a row's fields that are not read and not known to be harmless.

    Args:
        row: The row.
        read: Names that were read.
        has_media: Whether the row names media; if not, ``video_id`` is not harmless.
    """
    inner = inner_field(row)
    unread = {name for name in row.keys() - read if name != inner and _says_something(name, row[name], has_media)}
    if inner is not None:
        for name, value in row[inner].items():
            if f"{inner}.{name}" not in read and _says_something(name, value, has_media):
                unread.add(f"{inner}.{name}")
    return unread


def unread_in_turns(turns: Sequence[Mapping[str, Any]], owner: str) -> set[str]:
    """Names of fields of turns that are not read, as ``turn.NAME``.

    Args:
        turns: Turns, or PLLaVA's pairs of question and answer.
        owner: ``turn`` or ``QA``.
    """
    return {
        f"{owner}.{name}"
        for turn in turns
        if len(turn) > 2  # has more than a role and a text
        for name in turn.keys() - _READ_IN[owner]
        if _says_something(name, turn[name], True)
    }


def _says_something(name: str, value: Any, has_media: bool) -> bool:
    use = _use(name)
    if use is _Use.HARMLESS or (use is _Use.HARMLESS_WITH_MEDIA and has_media) or value in _EMPTY:
        return False
    return not (use is _Use.WEIGHT and value in (0, 1))
