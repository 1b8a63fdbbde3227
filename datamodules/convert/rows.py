"""Converts a row of another project's JSON to one conversation.

Every source gives the same form:

- ``<image>``, ``<video>`` and the marks of other projects (``<|video_pad|>``, ``<ImageHere>``, ``<image_1>``) may be
  anywhere in the user's turns, several times or not at all, if the row names no media or one. They are removed. If the
  row names one, ``<video>`` is put before the first user turn.
- If the row names several images or videos, the user's turns hold one mark for each, in their order. ``<video>`` takes
  the position of each mark. If both images and videos are named, ``<image>`` marks show the images and ``<video>``
  marks the videos. Rows with another number of marks are refused.
- Turns are ``{"from", "value"}`` or ``{"role", "content"}``; ``human`` is the user and ``gpt`` the assistant. The text
  of a field ``system`` or ``system_prompt`` becomes the system turn if there is none.
- Assistant turns before the first question are dropped, as LLaVA's own training code does (its 665k mix has some).
- PLLaVA's ``i`` of the first question becomes the system text. A caption has no question (``q`` is empty): its ``i``
  becomes the user's text. If both are empty, the user's turn is ``<video>`` alone.
- The part of a video that the row names becomes ``start_ms`` and ``end_ms``; ``video_spans`` reads it.

A field that is neither read nor known to be harmless is listed in ``Row.unread``. A field that changes the meaning of a
row and is not supported, such as ``audio``, is refused.

Source: the row layouts are those of PLLaVA, VideoChat2-IT, LLaVA-1.5, LLaVA-Video-178K, LLaVA-NeXT's interleaved data
and the lists of images and videos of Qwen's fine-tuning data.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from datamodules.convert.media_marks import (
    check_numbers,
    has_plain_mark,
    other_marks,
    with_video_marks,
    without_media_marks,
)
from datamodules.convert.media_paths import NamedAs
from datamodules.convert.row_fields import check_fields, shown, string_in, unread_in_row, unread_in_turns
from datamodules.convert.row_media import RowMedia, RowMedium, read_media
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.errors import SampleError
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import MAX_CONVERSATIONS_BYTES, VIDEO_MARK, Turn, parse_conversation

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURN_FIELDS = ("conversations", "messages")
_SYSTEM_FIELDS = ("system", "system_prompt")


class Row(NamedTuple):
    """One conversation about its media."""

    media: tuple[RowMedium, ...]  # in the order of the marks; empty for text only
    turns: tuple[Turn, ...]
    unread: tuple[str, ...] = ()  # fields and marks that are not read and not known to be harmless


def llava_row(item: Any) -> Row:
    """Read a row of LLaVA's form: ``conversations``, with or without ``image`` or ``video``.

    Raises:
        RowProblem: The row cannot be used.
    """
    fields = _object(item, "the row")
    media = read_media(fields)
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
    media = read_media(fields)
    if not media.media:
        raise RowProblem(Reason.MALFORMED, "the row names no video and no image; expected one of them")
    turns: list[Turn] = []
    pairs = _list(fields.get("QA"), "'QA'")
    for number, entry in enumerate(pairs):
        pair = _object(entry, "an entry of 'QA'")
        question, instruction = (string_in(pair.get(name) or "", f"{name!r}").strip() for name in ("q", "i"))
        if number == 0:
            turns += [Turn("system", instruction)] if instruction and question else []
            question = question or instruction
        turns += [Turn("user", question), Turn("assistant", string_in(pair.get("a"), "'a'"))]
    return _row(fields, media, turns, frozenset(("QA",)), unread_in_turns(pairs, "QA"))


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
        parse_conversation(conversation, "the row", MediaCount(len(row.media), len(row.media) > 1))
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
    return Turn(ours, string_in(fields.get("value", fields.get("content")), "a turn's text"))


def _row(
    fields: dict[str, Any], named: RowMedia, turns: list[Turn], turn_names: frozenset[str], unread: set[str]
) -> Row:
    read = named.names | turn_names
    if turns and turns[0].role != "system":
        name = next((name for name in _SYSTEM_FIELDS if fields.get(name)), None)
        if name is not None:
            read |= {name}
            turns = [Turn("system", string_in(fields[name], f"{name!r}")), *turns]
            turns = turns if turns[0].content.strip() else turns[1:]
    _check_order(turns)
    media, marked = _with_several_marks(turns, named) if len(named.media) > 1 else _with_one_mark(turns, named)
    for number, turn in enumerate(marked):
        if not turn.content:
            raise RowProblem(Reason.EMPTY_TURN, f"turn {number + 1} ({turn.role}) is empty; expected text")
    unread = unread | unread_in_row(fields, read, has_media=bool(media))
    unread |= other_marks(marked)
    return Row(media, tuple(marked), tuple(sorted(unread)))


def _with_one_mark(turns: Sequence[Turn], named: RowMedia) -> tuple[tuple[RowMedium, ...], list[Turn]]:
    """Put the mark of the one medium, if there is one, before the first question."""
    by_user = [turn.content for turn in turns if turn.role == "user"]
    if not named.media and any(map(has_plain_mark, by_user)):
        raise RowProblem(Reason.PLACEHOLDER, "a question holds <image> or <video>, but the row names no media")
    _refuse_marks_of_others(turns)
    if named.media:
        check_numbers(by_user)
    first_user = next(number for number, turn in enumerate(turns) if turn.role == "user")
    marked = []
    for number, turn in enumerate(turns):
        is_marked = turn.role == "user" and bool(named.media)
        content = without_media_marks(turn.content) if is_marked else turn.content.strip()
        if number == first_user and named.media:
            content = f"{VIDEO_MARK}\n{content}".strip()
        marked.append(Turn(turn.role, content))
    return named.media, marked


def _with_several_marks(turns: Sequence[Turn], named: RowMedia) -> tuple[tuple[RowMedium, ...], list[Turn]]:
    """Write ``<video>`` for every mark, and bring the media into the order of the marks."""
    _refuse_marks_of_others(turns)
    fields: list[NamedAs] = []
    marked = []
    for turn in turns:
        content = turn.content
        if turn.role == "user":
            content, found = with_video_marks(content)
            fields += found
        marked.append(Turn(turn.role, content.strip()))
    return named.in_order(fields), marked


def _refuse_marks_of_others(turns: Sequence[Turn]) -> None:
    if any(VIDEO_MARK in turn.content for turn in turns if turn.role != "user"):
        raise RowProblem(Reason.PLACEHOLDER, "<video> is outside the user's turns, where it would be read as media")


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
