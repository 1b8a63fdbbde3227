"""Reads which part of a video a row names: start and end, in the fields and units that data sets use.

A number is in seconds, unless the field's name has another unit (``start_ms``). A text is a number with or without a
unit (``12.5``, ``12.5s``, ``800 ms``) or a time (``1:02:03.5``, ``02:03``: minutes and seconds). Ambiguous times are
refused.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from datamodules.convert.row_fields import shown
from datamodules.convert.row_problems import Reason, RowProblem

_OWNER = r"(?:(?:video|clip|segment|vid|moment|timestamp|time|ts|t)_?)?"
_UNIT = r"(?P<unit>_s|_?(?:secs?|seconds?|ms|msecs?|millis|milliseconds?))?"
_EDGE = re.compile(rf"{_OWNER}(?P<edge>start|begin|end|stop|finish)(?:_?(?:time|timestamp))?{_UNIT}", re.IGNORECASE)
_RANGE = re.compile(
    rf"(?:{_OWNER}(?:clip|span|segments?|split|interval|window|moment|trim|timestamps?)"
    rf"|(?:video|clip|time|start_?end)_?(?:range|span|window|interval)){_UNIT}",
    re.IGNORECASE,
)
_IN_FRAMES = re.compile(
    rf"{_OWNER}(?:(?:start|begin|end)_?frame\w*|frame_?(?:start|begin|end|range|span))", re.IGNORECASE
)
_CLOCK = re.compile(r"(?:(\d+):(?=\d\d:))?(\d+):(\d\d(?:[.,]\d+)?)")
_CLOCKS = re.compile(r"(?P<start>\d[\d:.,]*:[\d:.,]+)\s*(?:-+>?|\u2013|to|,)\s*(?P<end>\d[\d:.,]*:[\d:.,]+)")
_AMOUNTS = re.compile(r"[\[(]?\s*(?P<start>[\d.]+\s*m?s?)\s*(?:to|,)\s*(?P<end>[\d.]+\s*m?s?)\s*[\])]?")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(s|secs?|seconds?|ms|msecs?|milliseconds?)?", re.IGNORECASE)
_DURATIONS = ("duration", "video_duration")
_PART_DURATION = re.compile(r"(?:clip_|segment_)?(?:duration|length)(?:_s|_?(?:secs?|seconds?|ms))?", re.IGNORECASE)
_MAY_BE_SEVERAL = re.compile("timestamp|segments|moment", re.IGNORECASE)
_LONGEST_S = 100_000  # more than a day: a larger number without a unit may be milliseconds
_LATEST_MS = 1 << 31  # 25 days; no video that is read is longer
_MOST_DURATIONS = 10  # an end after this many lengths of the video may be milliseconds


class Span(NamedTuple):
    """The part, and the fields with it; None where a row has no start or no end."""

    start_ms: int | None
    end_ms: int | None
    names: frozenset[str]


class _Edge(NamedTuple):
    name: str
    is_start: bool
    ms: int
    is_weak: bool = False  # timestamps may belong to an answer, if another field has the part


@functools.lru_cache(4096)
def _name_of_edge(name: str) -> re.Match[str] | None:
    return _EDGE.fullmatch(name)


@functools.lru_cache(4096)
def _name_of_range(name: str) -> re.Match[str] | None:
    return _RANGE.fullmatch(name)


@functools.lru_cache(4096)
def _is_in_frames(name: str) -> bool:
    return _IN_FRAMES.fullmatch(name) is not None


def read_span(fields: Mapping[str, Any], inner: str | None) -> Span:
    """Read the part of a video that a row names.

    Args:
        fields: The row.
        inner: The field that holds further ones, such as ``meta``; None where there is none.

    Returns:
        The part. Fields inside ``inner`` are named ``INNER.NAME``.

    Raises:
        RowProblem: A time cannot be read, two fields contradict each other, or the unit is unclear.
    """
    edges = list(_edges(fields, ""))
    if inner is not None:
        edges += _edges(fields[inner], f"{inner}.")
    if not edges:
        _check_frames(fields)
        return Span(None, None, frozenset())
    edges = [edge for edge in edges if not edge.is_weak] or edges
    start, end = (_agreed([edge for edge in edges if edge.is_start is is_start]) for is_start in (True, False))
    if end is not None and end <= (start or 0):
        raise RowProblem(Reason.SPAN, f"start {start or 0} ms and end {end} ms do not span a part of a video")
    if end is None:
        _check_no_duration(fields, start or 0)
    duration = next((fields[name] for name in _DURATIONS if isinstance(fields.get(name), int | float)), 0)
    latest = max(start or 0, end or 0)
    if 0 < duration * 1000 * _MOST_DURATIONS < latest:
        raise RowProblem(
            Reason.SPAN,
            f"the part goes to {latest / 1000:g} s, but the row's duration is {duration:g}; for times in milliseconds, "
            "name the fields start_ms and end_ms",
        )
    return Span(start, end, frozenset(edge.name for edge in edges))


def _edges(fields: Mapping[str, Any], prefix: str) -> Iterator[_Edge]:
    for name, value in fields.items():
        if value is None or value == "":
            continue
        if (found := _name_of_edge(name)) is not None:
            is_start = found["edge"].lower() in ("start", "begin")
            yield _Edge(prefix + name, is_start, _milliseconds(value, prefix + name, found["unit"]))
        elif (found := _name_of_range(name)) is not None:
            if isinstance(value, str) and (two := _two_times(value.strip())):
                value = [two["start"], two["end"]]
            if isinstance(value, list | dict):
                is_weak = "timestamp" in name.lower()
                for edge in _edges_of_range(value, prefix + name, found["unit"]):
                    yield edge._replace(is_weak=is_weak)


def _two_times(text: str) -> re.Match[str] | None:
    return _CLOCKS.fullmatch(text) or _AMOUNTS.fullmatch(text)


def _edges_of_range(value: Any, name: str, unit: str | None) -> Iterator[_Edge]:
    if isinstance(value, dict):
        yield from (edge._replace(name=name) for edge in _edges(value, f"{name}."))
        return
    if len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    is_pair = len(value) == 2 and not any(isinstance(one, list | dict) for one in value)
    if is_pair:
        for number, one in enumerate(value):
            if one is not None:
                yield _Edge(name, number == 0, _milliseconds(one, name, unit))
    elif value and not _MAY_BE_SEVERAL.search(name):  # timestamps of several events do not choose a part
        raise RowProblem(Reason.SPAN, f"{name!r} must be a start and an end, got {shown(value)}")


def _agreed(edges: list[_Edge]) -> int | None:
    if len({edge.ms for edge in edges}) > 1:
        times = ", ".join(f"{edge.name!r} {edge.ms} ms" for edge in edges)
        raise RowProblem(Reason.SPAN, f"several fields have different times: {times}; leave one of them")
    return edges[0].ms if edges else None


def _milliseconds(value: Any, name: str, unit: str | None) -> int:
    unit = (unit or "").lower().lstrip("_")
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())) and not unit.startswith("m"):
        hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), float(clock[3].replace(",", "."))
        if seconds < 60 and (minutes < 60 or clock[1] is None):
            return round(((hours * 60 + minutes) * 60 + seconds) * 1000)
    amount: object = value
    if isinstance(value, str) and (found := _AMOUNT.fullmatch(value.strip())):
        amount = float(found[1])
        own_unit = (found[2] or "").lower()
        if own_unit and unit and own_unit[0] != unit[0]:
            raise RowProblem(Reason.SPAN, f"{name!r} is {value!r}: its name and its unit contradict each other")
        unit = unit or own_unit
    if isinstance(amount, int):
        amount = min(amount, 1 << 62)  # it may have more digits than a float can hold
    if not isinstance(amount, int | float) or isinstance(amount, bool) or amount < 0 or not math.isfinite(amount):
        raise RowProblem(
            Reason.SPAN, f"{name!r} must be seconds, 0 or more, or a time such as 1:02:03.5, got {shown(value)}"
        )
    if not unit and amount >= _LONGEST_S:
        raise RowProblem(
            Reason.SPAN,
            f"{name!r} is {amount:g} s, more than a day; if that is milliseconds, name the fields start_ms and end_ms",
        )
    ms = amount if unit.startswith("m") else amount * 1000
    if ms > _LATEST_MS:
        raise RowProblem(Reason.SPAN, f"{name!r} is {shown(value)}, more than 25 days; expected a time in a video")
    return round(ms)


def _check_no_duration(fields: Mapping[str, Any], start: int) -> None:
    for name, value in fields.items():
        if isinstance(value, int | float) and _PART_DURATION.fullmatch(name):
            raise RowProblem(
                Reason.SPAN,
                f"a start of {start} ms, no end, and {name!r} {value:g}: that may be the length of the part or of the "
                "whole video; write an end instead",
            )


def _check_frames(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if value is not None and _is_in_frames(name):
            raise RowProblem(Reason.SPAN, f"{name!r} counts frames, which is not read; write start and end in seconds")
