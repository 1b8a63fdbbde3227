r"""What a sample of a shard may hold: member names, and the JSON beside the media.

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

The visual tokens, of a video or an image, replace the mark ``<video>``. If the sample has media, every conversation has
the mark once, in a user turn; otherwise it has none. User and assistant turns alternate; the last is the assistant's.
"""

import json
import math
from typing import Any, NamedTuple

from components.language.chat_template import VIDEO_MARK as VIDEO_MARK
from datamodules.errors import MalformedJsonError, SampleError, ShardError, VideoMarkError

VIDEO_ENDINGS = frozenset({"mp4", "webm", "mkv", "mov", "avi", "gif"})
ARRAY_ENDINGS = frozenset({"npy"})
IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp"})
FEATURE_ENDINGS = frozenset({"safetensors"})
MEDIA_ENDINGS = VIDEO_ENDINGS | ARRAY_ENDINGS | IMAGE_ENDINGS | FEATURE_ENDINGS
ALLOWED_ENDINGS = MEDIA_ENDINGS | {"json"}
"""Other members are refused, because a pickle can run code when it is opened. ``npy`` is read without pickle."""

MAX_JSON_BYTES = 64 << 20
"""Most bytes of a JSON member: enough for thousands of conversations, little enough for memory."""

MAX_CONVERSATIONS_BYTES = MAX_JSON_BYTES - (1 << 20)
"""Most bytes of the conversations in a JSON member: the rest is for source and meta."""

_CATEGORY_FIELDS = ("category", "kind")  # shards of earlier versions have ``kind``


class Turn(NamedTuple):
    """One utterance."""

    role: str
    content: str


class Conversation(NamedTuple):
    """One dialogue about the sample's media."""

    id: str
    category: str  # of the question, by which accuracies are reported too; empty for none
    options: tuple[str, ...]
    turns: tuple[Turn, ...]


class Record(NamedTuple):
    """A sample's JSON, checked."""

    source: str
    start_ms: int | None
    end_ms: int | None
    meta: dict[str, str | int | float]
    conversations: tuple[Conversation, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object from which ``parse_record`` makes this record."""
        span = {"start_ms": self.start_ms, "end_ms": self.end_ms}
        return {
            "source": self.source,
            **{name: value for name, value in span.items() if value is not None},
            "meta": dict(self.meta),
            "conversations": [
                {
                    "id": conversation.id,
                    "category": conversation.category,
                    "options": list(conversation.options),
                    "turns": [turn._asdict() for turn in conversation.turns],
                }
                for conversation in self.conversations
            ],
        }


def check_key(key: str) -> None:
    """Refuse keys that WebDataset would read differently, or that are paths outside the shard.

    Raises:
        ValueError: The key is empty, absolute, climbs with ``..``, or has a dot after its last slash.
    """
    parts = key.split("/")
    if not parts[-1] or "." in parts[-1] or ".." in parts or key.startswith("/") or "\n" in key:
        raise ValueError(f"{key!r} cannot be a sample key; use a relative name without dots, such as 'clips/000123'")


def split_member_name(name: str, shard: str) -> tuple[str, str]:
    """Split a tar member's name into sample key and ending, as WebDataset does: at the base name's first dot.

    Raises:
        ShardError: The name is absolute, climbs with ``..`` or has an ending that is not allowed.
    """
    if name.startswith("/") or ".." in name.split("/") or name.startswith("pipe:") or not name.isprintable():
        raise ShardError(
            f"shard {shard}: member {name!r} is refused: absolute, '..', 'pipe:' and unprintable names are not read"
        )
    folder, _, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    ending = ending.lower()
    if not stem or not dot or ending not in ALLOWED_ENDINGS:
        raise ShardError(
            f"shard {shard}: member {name!r} is refused: its ending is {ending!r}, allowed are "
            f"{', '.join(sorted(ALLOWED_ENDINGS))} (an ending starts at the base name's first dot). "
            "Remove or convert the member; pickled members can run code and are never opened."
        )
    return (f"{folder}/{stem}" if folder else stem), ending


def parse_record(data: bytes, *, where: str, has_media: bool) -> Record:
    """Read and check a sample's JSON.

    Args:
        data: Bytes of the JSON member.
        where: Shard and key, for messages.
        has_media: Whether the sample has a video, an image or cached features.

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
    start_ms, end_ms = _optional_int(fields, "start_ms", where), _optional_int(fields, "end_ms", where)
    if (start_ms or 0) < 0 or (end_ms is not None and end_ms <= (start_ms or 0)):
        raise SampleError(f"{where}: start_ms {start_ms} and end_ms {end_ms} do not span a part of a video")
    return Record(
        source=_string(fields, "source", where),
        start_ms=start_ms,
        end_ms=end_ms,
        meta=_meta(fields.get("meta", {}), where),
        conversations=tuple(
            parse_conversation(item, f"{where}, conversation {number}", has_media)
            for number, item in enumerate(conversations)
        ),
    )


def parse_conversation(item: Any, where: str, has_media: bool) -> Conversation:
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
    _check_video_mark(turns, where, has_media)
    name = next((name for name in _CATEGORY_FIELDS if name in fields), None)
    category = "" if name is None else _string(fields, name, where)
    return Conversation(_string(fields, "id", where), category, tuple(options), turns)


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


def _check_video_mark(turns: tuple[Turn, ...], where: str, has_media: bool) -> None:
    by_user = sum(turn.content.count(VIDEO_MARK) for turn in turns if turn.role == "user")
    by_others = sum(turn.content.count(VIDEO_MARK) for turn in turns if turn.role != "user")
    if by_others:
        raise VideoMarkError(f"{where}: {VIDEO_MARK} is outside the user's turns; only a user turn may have it")
    if by_user and not has_media:
        raise VideoMarkError(
            f"{where}: {VIDEO_MARK} in the text, but the sample has no media member; add the media or remove the mark"
        )
    if has_media and by_user != 1:
        raise VideoMarkError(
            f"{where}: {by_user} times {VIDEO_MARK} in the user's turns; a sample with media needs one"
        )


def _meta(value: Any, where: str) -> dict[str, str | int | float]:
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
