"""Converts a row of another project's JSON to one conversation.

Every source gives the same form:

- ``<image>``, ``<video>`` and the marks of other projects (``<|video_pad|>``, ``<ImageHere>``, ``<image_1>``) may stand
  anywhere in the user's turns, several times or not at all. They are removed. If the row names media, ``<video>`` is
  put before the first user turn.
- Turns are ``{"from", "value"}`` or ``{"role", "content"}``; ``human`` is the user and ``gpt`` the assistant. The text
  of a field ``system`` or ``system_prompt`` becomes the system turn if there is none.
- Assistant turns before the first question are dropped, as LLaVA's own training code does (its 665k mix has some).
- PLLaVA's ``i`` of the first question becomes the system text. A caption has no question (``q`` is empty): its ``i``
  becomes the user's text. If both are empty, the user's turn is ``<video>`` alone.
- The part of a video that the row names becomes ``start_ms`` and ``end_ms``; ``video_spans`` reads it.

A field that is neither read nor known to be harmless is listed in ``Row.unread``. A field that changes the meaning of a
row and is not supported, such as ``audio``, is refused.

Rows with several images or videos are refused: a sample has one.

Source: the row layouts are those of PLLaVA, VideoChat2-IT, LLaVA-1.5 and LLaVA-Video-178K.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datamodules.convert.media_marks import check_numbers, has_plain_mark, other_marks, without_media_marks
from datamodules.convert.media_paths import NamedAs, ending_of, usual_field
from datamodules.convert.row_fields import (
    MEDIA_FIELDS,
    OTHER_MEDIA_FIELDS,
    check_fields,
    inner_field,
    shown,
    unread_in_row,
    unread_in_turns,
)
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.video_spans import read_span
from datamodules.errors import SampleError
from datamodules.media.npy_file import MAX_FRAME_INTERVAL_MS
from datamodules.shards.schema import (
    ARRAY_ENDINGS,
    MAX_CONVERSATIONS_BYTES,
    VIDEO_ENDINGS,
    VIDEO_MARK,
    Turn,
    parse_conversation,
)

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURN_FIELDS = ("conversations", "messages")
_SYSTEM_FIELDS = ("system", "system_prompt")
_INTERVAL_FIELD = "frame_interval_ms"


class Row(NamedTuple):
    """One conversation about at most one video or image."""

    media: str | None  # as the annotation names it
    start_ms: int | None
    end_ms: int | None
    turns: tuple[Turn, ...]
    named_as: NamedAs | None = None  # field that names the media; None without media
    unread: tuple[str, ...] = ()  # fields and marks that are not read and not known to be harmless
    frame_interval_ms: float | None = None  # of a video in an npy file


class _Media(NamedTuple):
    """The media of a row, and the fields in which it was found."""

    path: str | None
    start_ms: int | None
    end_ms: int | None
    names: frozenset[str]
    named_as: NamedAs | None
    frame_interval_ms: float | None = None


def llava_row(item: Any) -> Row:
    """Read a row of LLaVA's form: ``conversations``, with or without ``image`` or ``video``.

    Raises:
        RowProblem: The row cannot be used.
    """
    fields = _object(item, "the row")
    media = _media(fields)
    name = TURN_FIELDS[0] if fields.get(TURN_FIELDS[0]) is not None else TURN_FIELDS[1]
    if fields.get(name) is None:
        has = ", ".join(sorted(fields)[:10]) or "nothing"
        raise RowProblem(Reason.MALFORMED, f"the row has no {' or '.join(map(repr, TURN_FIELDS))}; it has {has[:200]}")
    said = _list(fields[name], f"{name!r}")
    turns = [_llava_turn(turn) for turn in said]
    first_user = next((number for number, turn in enumerate(turns) if turn.role == "user"), 0)
    turns = [turn for number, turn in enumerate(turns) if number >= first_user or turn.role == "system"]
    return _row(fields, media, turns, frozenset((name,)), unread_in_turns(said, "turn"))


def pllava_row(item: Any) -> Row:
    """Read a row of PLLaVA's form: ``QA``, a list of ``{"i", "q", "a"}``, about ``video`` or ``image``.

    Raises:
        RowProblem: The row cannot be used.
    """
    fields = _object(item, "the row")
    media = _media(fields)
    if media.path is None:
        raise RowProblem(Reason.MALFORMED, "the row names no video and no image; expected one of them")
    turns: list[Turn] = []
    pairs = _list(fields.get("QA"), "'QA'")
    for number, entry in enumerate(pairs):
        pair = _object(entry, "an entry of 'QA'")
        question, instruction = (_string(pair.get(name) or "", f"{name!r}").strip() for name in ("q", "i"))
        if number == 0:
            turns += [Turn("system", instruction)] if instruction and question else []
            question = question or instruction
        turns += [Turn("user", question), Turn("assistant", _string(pair.get("a"), "'a'"))]
    return _row(fields, media, turns, frozenset(("QA",)), unread_in_turns(pairs, "QA"))


def named_media(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """The different media that a row names, each with the fields that name it.

    Raises:
        RowProblem: A field that names media is no string and no list of strings.
    """
    return _named(fields, MEDIA_FIELDS) or _named(fields, OTHER_MEDIA_FIELDS)


def conversation_json(row: Row, conversation_id: str, category: str) -> str:
    """Write a row as one entry of a record's ``conversations``.

    Raises:
        RowProblem: Training would refuse it in a shard.
    """
    turns = [turn._asdict() for turn in row.turns]
    conversation = {"id": conversation_id, **({"category": category} if category else {}), "turns": turns}
    text = json.dumps(conversation, ensure_ascii=False)
    try:
        num_bytes = len(text.encode())
        parse_conversation(conversation, "the row", row.media is not None)
    except UnicodeEncodeError as error:
        raise RowProblem(Reason.ENCODING, f"the text holds half a character ({error.reason}); repair it") from error
    except SampleError as error:
        raise RowProblem(Reason.MALFORMED, str(error)) from error
    if num_bytes + len(", ") > MAX_CONVERSATIONS_BYTES:
        raise RowProblem(
            Reason.MALFORMED, f"the conversation has {num_bytes} bytes, more than {MAX_CONVERSATIONS_BYTES}; split it"
        )
    return text


def _llava_turn(entry: Any) -> Turn:
    fields = _object(entry, "a turn")
    role = fields.get("from", fields.get("role"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise RowProblem(Reason.MALFORMED, f"a turn's role is {shown(role)}; expected one of {', '.join(_ROLES)}")
    ours = _ROLES[role.lower()]
    if ours == "assistant" and len(fields) > 2:
        check_fields(fields, "an answer")  # questions are not learned, so their fields do not matter
    return Turn(ours, _string(fields.get("value", fields.get("content")), "a turn's text"))


def _media(fields: dict[str, Any]) -> _Media:
    check_fields(fields, "the row")
    named = named_media(fields)
    if len(named) > 1:
        raise RowProblem(
            Reason.SEVERAL_MEDIA, f"the row names {len(named)} images or videos; only rows with one are supported"
        )
    if not named:
        return _Media(None, None, None, frozenset(), None)
    ((path, names),) = named.items()
    said: list[NamedAs] = ["video", "image"]
    named_as = next((kind for kind in said if any(name.startswith(kind) for name in names)), None)
    if ending_of(path) in VIDEO_ENDINGS - {"gif"}:
        named_as = "video"  # some data sets name all media by "image"
    if (named_as or usual_field(path)) == "image":
        return _Media(path, None, None, frozenset(names), named_as)
    span = read_span(fields, inner_field(fields))
    media = _Media(path, span.start_ms, span.end_ms, span.names.union(names), named_as)
    if ending_of(path) not in ARRAY_ENDINGS:
        return media
    interval_ms, name = _frame_interval_ms(fields)
    return media._replace(frame_interval_ms=interval_ms, names=media.names | {name})


def _frame_interval_ms(fields: Mapping[str, Any]) -> tuple[float, str]:
    """The time between two frames of an array, in milliseconds, and the name of the field with it."""
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
    return value, name


def _named(fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        for entry in value if isinstance(value, list) else [value]:
            if entry not in (None, "", "None"):  # VideoChat2-IT writes "None"
                found.setdefault(_string(entry, f"{name!r}"), []).append(name)
    return found


def _row(fields: dict[str, Any], media: _Media, turns: list[Turn], turn_names: frozenset[str], unread: set[str]) -> Row:
    read = media.names | turn_names
    if turns and turns[0].role != "system":
        name = next((name for name in _SYSTEM_FIELDS if fields.get(name)), None)
        if name is not None:
            read |= {name}
            turns = [Turn("system", _string(fields[name], f"{name!r}")), *turns]
            turns = turns if turns[0].content.strip() else turns[1:]
    marked = _with_one_mark(turns, media.path)
    unread = unread | unread_in_row(fields, read, has_media=media.path is not None)
    unread |= other_marks(marked)
    return Row(
        media.path,
        media.start_ms,
        media.end_ms,
        marked,
        media.named_as,
        tuple(sorted(unread)),
        media.frame_interval_ms,
    )


def _with_one_mark(turns: Sequence[Turn], media: str | None) -> tuple[Turn, ...]:
    _check_order(turns)
    by_user = [turn.content for turn in turns if turn.role == "user"]
    if media is None and any(map(has_plain_mark, by_user)):
        raise RowProblem(Reason.PLACEHOLDER, "a question holds <image> or <video>, but the row names no media")
    if any(VIDEO_MARK in turn.content for turn in turns if turn.role != "user"):
        raise RowProblem(Reason.PLACEHOLDER, "<video> is outside the user's turns, where it would be read as media")
    if media is not None:
        check_numbers(by_user)
    first_user = next(number for number, turn in enumerate(turns) if turn.role == "user")
    marked = []
    for number, turn in enumerate(turns):
        is_marked = turn.role == "user" and media is not None
        content = without_media_marks(turn.content) if is_marked else turn.content.strip()
        if number == first_user and media is not None:
            content = f"{VIDEO_MARK}\n{content}".strip()
        if not content:
            raise RowProblem(Reason.EMPTY_TURN, f"turn {number + 1} ({turn.role}) is empty; expected text")
        marked.append(Turn(turn.role, content))
    return tuple(marked)


def _check_order(turns: Sequence[Turn]) -> None:
    roles = [turn.role for turn in turns]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        got = ", ".join(turn.role for turn in turns[:8]) or "none"
        raise RowProblem(Reason.TURNS, f"the turns are {got}; expected user and assistant by turns, assistant last")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a JSON object, got {shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a JSON list, got {shown(value)}")
    return value


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RowProblem(Reason.MALFORMED, f"{what} must be a string, got {shown(value)}")
    return value
