"""From a row of somebody's JSON to one conversation of ours.

What is normalised, so that every source gives the same form:

- ``<image>`` and ``<video>`` may stand anywhere in the user's turns, several times or not at all. They are taken out,
  and where the row names media, ``<video>`` is put in front of the first user turn.
- Turns are ``{"from", "value"}`` or ``{"role", "content"}``; ``human`` is the user and ``gpt`` the assistant.
- Assistant turns before the first question are dropped, as LLaVA's own training code does (its 665k mix has some).
- PLLaVA's ``i`` of the first question becomes the system text. A caption has no question (``q`` is empty): its ``i``
  is then what the user says. Where both are empty, the user shows the video and says nothing.
- ``start`` and ``end`` (seconds) of a video become ``start_ms`` and ``end_ms``.

Rows with several images or videos are refused: a sample has one.

Source: the row layouts are those of PLLaVA, VideoChat2-IT, LLaVA-1.5 and LLaVA-Video-178K.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from datamodules.convert.paths import NamedAs
from datamodules.convert.problems import Reason, RowProblem
from datamodules.errors import SampleError
from datamodules.schema import VIDEO_MARK, Turn, parse_record

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MARK = re.compile(r"\s*<(?:image|video)>\s*")
_MEDIA_FIELDS = ("video", "videos", "image", "images")


class Row(NamedTuple):
    """One conversation about at most one video or image."""

    media: str | None  # as the annotation names it
    start_ms: int | None
    end_ms: int | None
    turns: tuple[Turn, ...]
    named_as: NamedAs | None = None  # field that names the media; None without


def llava_row(item: Any) -> Row:
    """Read a row of LLaVA's form: ``conversations`` and ``image`` or ``video`` or neither.

    Raises:
        RowProblem: The row cannot be used.
    """
    fields = _object(item, "the row")
    media, span, named_as = _media_and_span(fields)
    said = fields.get("conversations", fields.get("messages"))
    turns = [_llava_turn(turn) for turn in _list(said, "'conversations'")]
    first_user = next((number for number, turn in enumerate(turns) if turn.role == "user"), 0)
    turns = [turn for number, turn in enumerate(turns) if number >= first_user or turn.role == "system"]
    return Row(media, *span, _with_one_mark(turns, media), named_as)


def pllava_row(item: Any) -> Row:
    """Read a row of PLLaVA's form: ``QA``, a list of ``{"i", "q", "a"}``, about ``video`` or ``image``.

    Raises:
        RowProblem: The row cannot be used.
    """
    fields = _object(item, "the row")
    media, span, named_as = _media_and_span(fields)
    if media is None:
        raise RowProblem(Reason.MALFORMED, "the row names no video and no image; expected one of them")
    turns: list[Turn] = []
    for number, entry in enumerate(_list(fields.get("QA"), "'QA'")):
        pair = _object(entry, "an entry of 'QA'")
        question, instruction = (_string(pair.get(name) or "", f"{name!r}").strip() for name in ("q", "i"))
        if number == 0:
            turns += [Turn("system", instruction)] if instruction and question else []
            question = question or instruction
        turns += [Turn("user", question), Turn("assistant", _string(pair.get("a"), "'a'"))]
    return Row(media, *span, _with_one_mark(turns, media), named_as)


def conversation_json(row: Row, conversation_id: str, kind: str) -> str:
    """Write a row as one entry of a record's ``conversations``.

    Raises:
        RowProblem: ``datamodules.schema`` would refuse it in a shard.
    """
    turns = [turn._asdict() for turn in row.turns]
    conversation = {"id": conversation_id, **({"kind": kind} if kind else {}), "turns": turns}
    text = json.dumps(conversation, ensure_ascii=False)
    try:
        record = f'{{"source": "", "conversations": [{text}]}}'.encode()
        parse_record(record, where="the row", has_media=row.media is not None)
    except UnicodeEncodeError as error:
        raise RowProblem(Reason.ENCODING, f"the text holds half a character ({error.reason}); repair it") from error
    except SampleError as error:
        raise RowProblem(Reason.MALFORMED, str(error)) from error
    return text


def _llava_turn(entry: Any) -> Turn:
    fields = _object(entry, "a turn")
    role = fields.get("from", fields.get("role"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise RowProblem(Reason.MALFORMED, f"a turn's role is {_show(role)}; expected one of {', '.join(_ROLES)}")
    return Turn(_ROLES[role.lower()], _string(fields.get("value", fields.get("content")), "a turn's text"))


def _media_and_span(
    fields: dict[str, Any],
) -> tuple[str | None, tuple[int | None, int | None], NamedAs | None]:
    named: list[tuple[str, str]] = []
    for name in _MEDIA_FIELDS:
        value = fields.get(name)
        for entry in value if isinstance(value, list) else [value]:
            if entry not in (None, "", "None"):  # VideoChat2-IT writes "None"
                named.append((name, _string(entry, f"{name!r}")))
    if len(named) > 1:
        raise RowProblem(
            Reason.SEVERAL_MEDIA, f"the row names {len(named)} images or videos; only rows with one are supported"
        )
    if not named:
        return None, (None, None), None
    field, media = named[0]
    if field.startswith("video"):
        return media, _span(fields), "video"
    return media, (None, None), "image"


def _span(fields: dict[str, Any]) -> tuple[int | None, int | None]:
    start, end = (_milliseconds(fields.get(name), name) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise RowProblem(Reason.SPAN, f"start {start or 0} ms and end {end} ms do not span a part of a video")
    return start, end


def _milliseconds(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise RowProblem(Reason.SPAN, f"{name!r} must be seconds, 0 or more, got {_show(value)}")
    return round(value * 1000)


def _with_one_mark(turns: Sequence[Turn], media: str | None) -> tuple[Turn, ...]:
    _check_order(turns)
    if media is None and any(_MARK.search(turn.content) for turn in turns if turn.role == "user"):
        raise RowProblem(Reason.PLACEHOLDER, "a question holds <image> or <video>, but the row names no media")
    if any(VIDEO_MARK in turn.content for turn in turns if turn.role != "user"):
        raise RowProblem(Reason.PLACEHOLDER, "<video> stands outside the user's turns, where it would be read as media")
    first_user = next(number for number, turn in enumerate(turns) if turn.role == "user")
    marked = []
    for number, turn in enumerate(turns):
        content = _without_marks(turn.content) if turn.role == "user" else turn.content.strip()
        if number == first_user and media is not None:
            content = f"{VIDEO_MARK}\n{content}".strip()
        if not content:
            raise RowProblem(Reason.EMPTY_TURN, f"turn {number + 1} ({turn.role}) is empty; expected text")
        marked.append(Turn(turn.role, content))
    return tuple(marked)


def _check_order(turns: Sequence[Turn]) -> None:
    spoken = [turn.role for turn in turns]
    if spoken[:1] == ["system"]:
        spoken = spoken[1:]
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        got = ", ".join(turn.role for turn in turns[:8]) or "none"
        raise RowProblem(Reason.TURNS, f"the turns are {got}; expected user and assistant in turn, the assistant last")


def _without_marks(text: str) -> str:
    return _MARK.sub(lambda mark: "\n" if "\n" in mark.group() else " ", text).strip()


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a JSON object, got {_show(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a JSON list, got {_show(value)}")
    return value


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a string, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
