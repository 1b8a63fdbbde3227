r"""The JSON of a sample, beside its media; ``member_names`` has the names of both.

The JSON member of a sample:

    {"source": "where it comes from",
     "start_ms": 0, "end_ms": 9000,                       optional: use this part of the video only
     "meta": {"num_frames": 16, "length": "8x"},          optional: numbers and strings, copied into the index
     "conversations": [
       {"id": "unique in its source",
        "category": "colour", "options": ["red", "blue"], optional: for reports; possible answers
        "turns": [{"role": "system", "content": "..."},   optional, first
                  {"role": "user", "content": "<video>\nWhich colour?"},
                  {"role": "assistant", "content": "red"}]}]}

User and assistant turns alternate; the last is the assistant's. The visual tokens, of a video or an image, replace the
mark ``<video>``, which only user turns have. A sample without media has no mark. With one medium, every conversation
has the mark once. With several media (numbered members such as ``0.jpg`` and ``1.mp4``), every conversation has either

- ``<video>`` once for every medium, in the order of the media; or
- numbered marks, ``<video_1>`` for member 1: for all media or some of them, in any order, each once.

With several media, the facts about each of them are in a list, and not beside ``source``:

    {"source": "where they come from",
     "media": [{"meta": {"width": 640, "height": 480}},   optional: one entry a medium, in the order of the media
               {"start_ms": 0, "end_ms": 9000, "meta": {"duration_ms": 9000}}],
     "conversations": [...]}
"""

import json
import math
from typing import Any, NamedTuple

from datamodules.errors import MalformedJsonError, SampleError
from datamodules.shards.member_names import MediaCount
from datamodules.shards.video_marks import VIDEO_MARK as VIDEO_MARK
from datamodules.shards.video_marks import shown_media, with_numbers, without_numbers

MAX_JSON_BYTES = 64 << 20
"""Most bytes of a JSON member: enough for thousands of conversations, little enough for memory."""

MAX_CONVERSATIONS_BYTES = MAX_JSON_BYTES - (1 << 20)
"""Most bytes of the conversations in a JSON member: the rest is for source and meta."""

_CATEGORY_FIELDS = ("category", "kind")  # shards of earlier versions have ``kind``
_FACTS_OF_ONE_MEDIUM = ("num_frames", "duration_ms", "frame_interval_ms")

Meta = dict[str, str | int | float]
"""Numbers and strings, copied into the index."""


class Turn(NamedTuple):
    """One utterance."""

    role: str
    content: str


class Conversation(NamedTuple):
    """One dialogue about the sample's media."""

    id: str
    category: str  # of the question, by which accuracies are reported too; empty for none
    options: tuple[str, ...]
    turns: tuple[Turn, ...]  # with ``<video>`` for numbered marks too
    media: tuple[int, ...] = ()  # of the sample, in the order of the marks

    def to_json(self) -> dict[str, Any]:
        """The JSON object from which ``parse_conversation`` makes this conversation."""
        numbers = iter(self.media)
        turns = self.turns
        if self.media != tuple(range(len(self.media))):
            turns = tuple(turn._replace(content=with_numbers(turn.content, numbers)) for turn in turns)
        return {
            "id": self.id,
            "category": self.category,
            "options": list(self.options),
            "turns": [turn._asdict() for turn in turns],
        }


class MediumFacts(NamedTuple):
    """What a sample's JSON states about one of its media."""

    start_ms: int | None  # the part that is used
    end_ms: int | None
    meta: Meta

    def to_json(self) -> dict[str, Any]:
        """The JSON object of these facts."""
        span = {"start_ms": self.start_ms, "end_ms": self.end_ms}
        return {**{name: value for name, value in span.items() if value is not None}, "meta": dict(self.meta)}


class Record(NamedTuple):
    """A sample's JSON, checked."""

    source: str
    start_ms: int | None  # of the one medium, as ``meta``
    end_ms: int | None
    meta: Meta
    conversations: tuple[Conversation, ...]
    media: tuple[MediumFacts, ...] = ()  # of numbered members, if stated

    def medium(self, number: int) -> MediumFacts:
        """The facts about a medium."""
        if self.media:
            return self.media[number]
        return MediumFacts(self.start_ms, self.end_ms, self.meta)

    def to_json(self) -> dict[str, Any]:
        """The JSON object from which ``parse_record`` makes this record."""
        return {
            "source": self.source,
            **MediumFacts(self.start_ms, self.end_ms, self.meta).to_json(),
            **({"media": [facts.to_json() for facts in self.media]} if self.media else {}),
            "conversations": [conversation.to_json() for conversation in self.conversations],
        }


def parse_record(data: bytes, *, where: str, media: MediaCount) -> Record:
    """Read and check a sample's JSON.

    Args:
        data: Bytes of the JSON member.
        where: Shard and key, for messages.
        media: The sample's videos, images or cached features.

    Returns:
        The checked record.

    Raises:
        MalformedJsonError: It is no JSON.
        VideoMarkError: The video mark and the media do not fit each other.
        SampleError: It does not follow the schema at the top of this file.
    """
    try:
        document = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedJsonError(
            f"{where}: the JSON is not UTF-8 (byte {error.start}); write it again as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"{where}: malformed JSON: {error}") from error
    fields = _object(document, where, "the JSON")
    conversations = _list(fields.get("conversations"), where, "conversations")
    if not conversations:
        raise SampleError(f"{where}: 'conversations' is empty; a sample needs at least one conversation")
    return Record(
        _string(fields, "source", where),
        *_medium_facts(fields, where),
        tuple(
            parse_conversation(item, f"{where}, conversation {number}", media)
            for number, item in enumerate(conversations)
        ),
        _facts_of_numbered(fields, where, media.num_media) if media.is_numbered else (),
    )


def parse_conversation(item: Any, where: str, media: MediaCount) -> Conversation:
    """Check one entry of ``conversations``; see ``parse_record``.

    Raises:
        VideoMarkError: The video mark and the media do not fit each other.
        SampleError: It does not follow the schema at the top of this file.
    """
    fields = _object(item, where, "a conversation")
    turns = tuple(_turn(turn, where) for turn in _list(fields.get("turns"), where, "turns"))
    options = _list(fields.get("options", []), where, "options")
    if not all(isinstance(option, str) for option in options):
        raise SampleError(f"{where}: 'options' must be strings, got {options!r}")
    _check_turns(turns, where)
    by_user = [turn.content for turn in turns if turn.role == "user"]
    shown = shown_media(by_user, [turn.content for turn in turns if turn.role != "user"], media, where)
    if media.is_numbered:
        turns = tuple(turn._replace(content=without_numbers(turn.content)) for turn in turns)
    name = next((name for name in _CATEGORY_FIELDS if name in fields), None)
    category = "" if name is None else _string(fields, name, where)
    return Conversation(_string(fields, "id", where), category, tuple(options), turns, shown)


def _turn(item: Any, where: str) -> Turn:
    fields = _object(item, where, "a turn")
    return Turn(_string(fields, "role", where), _string(fields, "content", where))


def _check_turns(turns: tuple[Turn, ...], where: str) -> None:
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        raise SampleError(f"{where}: no assistant turn, so nothing to learn or to evaluate; add the answer or drop it")
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise SampleError(
            f"{where}: the turns are {', '.join(roles)}; expected an optional system turn, then user and assistant "
            "in turn, ending with the assistant"
        )
    if not all(turn.content.strip() for turn in turns if turn.role == "assistant"):
        raise SampleError(f"{where}: an assistant turn is empty; add the answer or drop the conversation")


def _medium_facts(fields: dict[str, Any], where: str) -> MediumFacts:
    start_ms, end_ms = _optional_int(fields, "start_ms", where), _optional_int(fields, "end_ms", where)
    if (start_ms or 0) < 0 or (end_ms is not None and end_ms <= (start_ms or 0)):
        raise SampleError(f"{where}: start_ms {start_ms} and end_ms {end_ms} do not span a part of a video")
    return MediumFacts(start_ms, end_ms, _meta(fields.get("meta", {}), where))


def _facts_of_numbered(fields: dict[str, Any], where: str, num_media: int) -> tuple[MediumFacts, ...]:
    meta = fields.get("meta", {})
    misplaced = [name for name in ("start_ms", "end_ms") if fields.get(name) is not None]
    misplaced += [f"meta.{name}" for name in _FACTS_OF_ONE_MEDIUM if name in meta]
    if misplaced:
        raise SampleError(
            f"{where}: {misplaced[0]} is about one medium, but the members are numbered; write it in the medium's "
            "entry of 'media'"
        )
    entries = fields.get("media")
    if entries is None:
        return (MediumFacts(None, None, {}),) * num_media
    if len(_list(entries, where, "media")) != num_media:
        raise SampleError(f"{where}: 'media' has {len(entries)} entries for {num_media} media; write one for each")
    return tuple(
        _medium_facts(_object(entry, f"{where}, medium {number}", "an entry of 'media'"), f"{where}, medium {number}")
        for number, entry in enumerate(entries)
    )


def _meta(value: Any, where: str) -> Meta:
    fields = _object(value, where, "'meta'")
    for name, entry in fields.items():
        if not isinstance(entry, str | int | float) or isinstance(entry, bool):
            raise SampleError(f"{where}: meta {name!r} must be a number or a string, got {_shown(entry)}")
        if isinstance(entry, float) and not math.isfinite(entry):
            raise SampleError(f"{where}: meta {name!r} must be a finite number, got {entry}")
    num_frames = fields.get("num_frames", 0)
    if not isinstance(num_frames, int) or not 0 <= num_frames < 1 << 31:
        raise SampleError(f"{where}: meta 'num_frames' must be a whole number of frames, got {num_frames!r}")
    return fields


def _object(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SampleError(f"{where}: {what} must be a JSON object, got {_shown(value)}")
    return value


def _list(value: Any, where: str, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise SampleError(f"{where}: {name!r} must be a JSON list, got {_shown(value)}")
    return value


def _string(fields: dict[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise SampleError(f"{where}: {name!r} must be a string, got {_shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SampleError(
                f"{where}: {name!r} holds half a character (a lone surrogate); repair the text"
            ) from error
    return value


def _optional_int(fields: dict[str, Any], name: str, where: str) -> int | None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise SampleError(f"{where}: {name!r} must be whole milliseconds, got {value!r}")
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
