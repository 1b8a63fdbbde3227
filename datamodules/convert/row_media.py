"""Reads which images and videos a row names, and which part of a video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datamodules.convert.media_paths import NamedAs, ending_of, usual_field
from datamodules.convert.row_fields import (
    MEDIA_FIELDS,
    OTHER_MEDIA_FIELDS,
    check_fields,
    inner_field,
    shown,
    string_in,
)
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.video_spans import Span, read_span
from datamodules.media.npy_file import MAX_FRAME_INTERVAL_MS
from datamodules.shards.member_names import ARRAY_ENDINGS, VIDEO_ENDINGS

_INTERVAL_FIELD = "frame_interval_ms"
_EITHER = "media"  # fields of this name hold images and videos


class RowMedium(NamedTuple):
    """An image or video, or a part of a video."""

    path: str  # as the annotation names it
    named_as: NamedAs | None = None  # field that names it; None = a field for both
    start_ms: int | None = None
    end_ms: int | None = None
    frame_interval_ms: float | None = None  # of a video in an npy file


class RowMedia(NamedTuple):
    """The media of a row, and the fields in which they were found."""

    media: tuple[RowMedium, ...]
    fields: tuple[str, ...]  # of every medium: ``image``, ``video`` or ``media``
    names: frozenset[str]

    def in_order(self, marks: Sequence[NamedAs]) -> tuple[RowMedium, ...]:
        """Bring several media into the order of their marks.

        Args:
            marks: ``image`` or ``video`` for every mark in the user's turns. If one field names all media, either mark
                shows the next of them.

        Raises:
            RowProblem: Marks and media differ in number.
        """
        wanted: Sequence[str] = self.fields if len(set(self.fields)) == 1 else marks
        if len(marks) != len(self.media) or Counter(wanted) != Counter(self.fields):
            counts = " and ".join(f"{count} by {field!r}" for field, count in Counter(self.fields).items())
            held = " and ".join(f"{count} <{mark}>" for mark, count in Counter(marks).items()) or "no mark"
            raise RowProblem(
                Reason.SEVERAL_MEDIA,
                f"the row names {len(self.media)} images or videos ({counts}), but the user's turns hold {held}; "
                "expected one mark for each, where it is shown",
            )
        left = {field: iter(self._of(field)) for field in self.fields}
        return tuple(next(left[field]) for field in wanted)

    def _of(self, field: str) -> list[RowMedium]:
        return [medium for medium, its in zip(self.media, self.fields, strict=True) if its == field]


def read_media(fields: dict[str, Any]) -> RowMedia:
    """Read the media that a row names. Several are in the order of the lists that name them.

    Raises:
        RowProblem: The row is refused, see ``check_fields``. Or its fields do not say which media, or which part.
    """
    check_fields(fields, "the row")
    named = named_media(fields)
    if len(named) > 1:
        return _read_several(fields)
    if not named:
        return RowMedia((), (), frozenset())
    ((path, names),) = named.items()
    said: list[NamedAs] = ["video", "image"]
    named_as = _corrected(path, next((kind for kind in said if any(name.startswith(kind) for name in names)), None))
    medium = RowMedium(path, named_as)
    if not _is_video(medium):
        return RowMedia((medium,), (named_as or _EITHER,), frozenset(names))
    span = read_span(fields, inner_field(fields))
    medium, more = _with_interval(medium._replace(start_ms=span.start_ms, end_ms=span.end_ms), fields)
    return RowMedia((medium,), (named_as or _EITHER,), span.names.union(names, more))


def named_media(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """The different media that a row names, each with the fields that name it.

    Raises:
        RowProblem: A field that names media is no string and no list of strings.
    """
    found: dict[str, list[str]] = {}
    for name, paths in _lists(fields).items():
        for path in paths:
            found.setdefault(path, []).append(name)
    return found


def _lists(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """The media of every field that names any."""
    for names in (MEDIA_FIELDS, OTHER_MEDIA_FIELDS):
        found = {}
        for name in names:
            value = fields.get(name)
            entries = value if isinstance(value, list) else [value]
            paths = [string_in(entry, f"{name!r}") for entry in entries if entry not in (None, "", "None")]
            if paths:  # VideoChat2-IT writes "None"
                found[name] = paths
        if found:
            return found
    return {}


def _read_several(fields: dict[str, Any]) -> RowMedia:
    lists = _lists(fields)
    longest: dict[str, list[str]] = {}  # by image, video or media
    for name, paths in lists.items():
        field = next(field for field in ("image", "video", _EITHER) if name.startswith(field))
        shorter, longer = sorted((longest.get(field, []), paths), key=len)
        if not set(shorter) <= set(longer):
            raise RowProblem(
                Reason.SEVERAL_MEDIA,
                f"{name!r} and another field name different {field}s of the row; name all of them in one list",
            )
        longest[field] = longer
    if _EITHER in longest and len(longest) > 1:
        raise RowProblem(Reason.SEVERAL_MEDIA, f"the row names media in {', '.join(map(repr, lists))}; use one list")
    found = [(field, path) for field, paths in longest.items() for path in paths]
    media = [
        RowMedium(path, _corrected(path, None if field == _EITHER else "image" if field == "image" else "video"))
        for field, path in found
    ]
    videos = [number for number, medium in enumerate(media) if _is_video(medium)]
    span = read_span(fields, inner_field(fields)) if videos else Span(None, None, frozenset())
    if len(videos) > 1 and (span.start_ms is not None or span.end_ms is not None):
        raise RowProblem(
            Reason.SPAN,
            f"{', '.join(sorted(span.names))} cut a part out of a video, but the row names {len(videos)} videos",
        )
    names = span.names.union(lists)
    for number in videos:
        media[number], more = _with_interval(media[number]._replace(start_ms=span.start_ms, end_ms=span.end_ms), fields)
        names |= more
    return RowMedia(tuple(media), tuple(field for field, _ in found), names)


def _corrected(path: str, named_as: NamedAs | None) -> NamedAs | None:
    """Some data sets name all media by ``image``."""
    return "video" if ending_of(path) in VIDEO_ENDINGS - {"gif"} else named_as


def _is_video(medium: RowMedium) -> bool:
    return (medium.named_as or usual_field(medium.path)) == "video"


def _with_interval(medium: RowMedium, fields: Mapping[str, Any]) -> tuple[RowMedium, frozenset[str]]:
    """Add the interval of the frames of an array; returns also the names of the fields that were read for it."""
    if ending_of(medium.path) not in ARRAY_ENDINGS:
        return medium, frozenset()
    inner = inner_field(fields)
    value, name = fields.get(_INTERVAL_FIELD), _INTERVAL_FIELD
    if value is None and inner is not None:
        value, name = fields[inner].get(_INTERVAL_FIELD), f"{inner}.{_INTERVAL_FIELD}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_FRAME_INTERVAL_MS:
        raise RowProblem(
            Reason.MALFORMED,
            f"a video in an npy file needs {_INTERVAL_FIELD!r}, the milliseconds from one frame to the next; got "
            f"{shown(value)}",
        )
    return medium._replace(frame_interval_ms=value), frozenset({name})
