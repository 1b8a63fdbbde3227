r"""Stores a conversation in a file, and reads it back.

A ``.jsonl`` file can be read back. Its first line is a header, then come the media, a line each, then the turns:

    {"conversation": 1}
    {"media": "/videos/clip.mp4", "start_ms": null, "end_ms": 60000, "frames": {}}
    {"role": "user", "text": "<video>\nWhat happens?"}
    {"role": "assistant", "text": "A dog runs."}

``frames`` is ``{}`` for the model's own settings, else it has ``num_frames``, ``fps`` and ``max_frames``. A ``.md``
file is for people only.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from components.checkpoints.atomic_folder import write_atomically
from datamodules.media.frame_sampling import FrameSampling
from membridge.conversation import MARK, Conversation
from membridge.opened_medium import OpenedMedium, open_medium
from membridge.video_time import to_clock

VERSION = 1
READABLE, FOR_PEOPLE = ".jsonl", ".md"
_ROLES = ("system", "user", "assistant")
_CHANGEABLE = ("num_frames", "fps", "max_frames")  # the other frame settings belong to the model


class SavedMedium(NamedTuple):
    """A medium of a stored conversation."""

    path: Path
    start_ms: int | None
    end_ms: int | None
    frames: dict[str, Any]  # settings in place of the model's own; empty: its own


class SavedConversation(NamedTuple):
    """A conversation as it is stored."""

    media: list[SavedMedium]
    turns: list[tuple[str, str]]


def save(conversation: Conversation, path: Path) -> None:
    """Write a conversation to a file. The file is complete or not there.

    Args:
        conversation: The conversation.
        path: ``.jsonl`` can be read back, ``.md`` is for people.

    Raises:
        ValueError: The name has another ending, or a medium did not come from a file.
        OSError: The file cannot be written.
    """
    if path.suffix not in (READABLE, FOR_PEOPLE):
        raise ValueError(f"{path} ends with neither {READABLE} (can be read back) nor {FOR_PEOPLE} (for people)")
    if path.suffix == FOR_PEOPLE:
        write_atomically(path, _markdown(conversation))
        return
    lines = [json.dumps({"conversation": VERSION})]
    lines += [json.dumps(_medium_line(conversation, medium)) for medium in conversation.media]
    lines += [json.dumps({"role": role, "text": text}, ensure_ascii=False) for role, text in conversation.turns]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def read_saved(path: Path) -> SavedConversation:
    """Read what ``save`` wrote.

    Raises:
        ValueError: The file is none that can be read back, or is damaged.
        OSError: There is no such file, or it cannot be read.
    """
    if path.suffix == FOR_PEOPLE:
        raise ValueError(f"{path} is for people; only a conversation that was saved as {READABLE} can be read back")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()})")
    media: list[SavedMedium] = []
    turns: list[tuple[str, str]] = []
    for number, line in enumerate(_lines(path), start=2):
        try:
            if "media" in line:
                media.append(_medium(line))
            else:
                turns.append(_turn(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is neither a medium nor a turn: {error}") from error
    marks = sum(text.count(MARK) for role, text in turns if role == "user")
    if marks > len(media):
        raise ValueError(f"{path} shows {marks} media but lists {len(media)}: it is not as it was saved")
    return SavedConversation(media, turns)


def restore(conversation: Conversation, saved: SavedConversation) -> None:
    """Put a stored conversation in place of the present one. If a medium cannot be read, the present one stays.

    The next question reads the turns again, as text. An answer after that can differ from one in the conversation
    that was stored: a text can have other tokens than the model wrote, and a reader that reads questions sees all
    turns.

    Raises:
        OSError: A medium's file is not there, or cannot be read.
        ValueError: It cannot be decoded.
    """
    model = conversation.model
    media = []
    for each in saved.media:
        frames = replace(model.training_facts.frames, **each.frames)
        media.append(open_medium(model, each.path, start_ms=each.start_ms, end_ms=each.end_ms, frames=frames))
    conversation.clear(with_media=True)
    for medium in media:
        conversation.add(medium)
    conversation.resume(saved.turns)


def _medium_line(conversation: Conversation, medium: OpenedMedium) -> dict[str, Any]:
    source = medium.source
    if source is None:
        raise ValueError(
            f"{medium.name} did not come from a file, so the conversation can be saved as {FOR_PEOPLE} only"
        )
    is_own = source.frames == conversation.model.training_facts.frames
    frames = {} if is_own else {name: getattr(source.frames, name) for name in _CHANGEABLE}
    path = str(source.path.absolute())
    return {"media": path, "start_ms": source.start_ms, "end_ms": source.end_ms, "frames": frames}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines after the header."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no saved conversation: {error}") from error
    if not lines or lines[0] != {"conversation": VERSION} or not all(isinstance(line, dict) for line in lines):
        raise ValueError(
            f"{path} is no saved conversation: its first line is not {json.dumps({'conversation': VERSION})}"
        )
    yield from lines[1:]


def _medium(line: dict[str, Any]) -> SavedMedium:
    start_ms, end_ms, frames = line["start_ms"], line["end_ms"], dict(line["frames"])
    if not isinstance(line["media"], str) or not all(
        value is None or type(value) is int for value in (start_ms, end_ms)
    ):
        raise ValueError(f"expected a path, and milliseconds or null, in {line}")
    if frames:
        FrameSampling(**frames)  # raises on wrong names and values
    return SavedMedium(Path(line["media"]), start_ms, end_ms, frames)


def _turn(line: dict[str, Any]) -> tuple[str, str]:
    role, text = line["role"], line["text"]
    if role not in _ROLES or not isinstance(text, str):
        raise ValueError(f"expected a role of {', '.join(_ROLES)}, and a text")
    return role, text


def _markdown(conversation: Conversation) -> str:
    """The conversation for people. Text of the model is quoted line by line."""
    lines = ["# Conversation", ""]
    for number, medium in enumerate(conversation.media, start=1):
        where = medium.name if medium.source is None else str(medium.source.path)
        start = 0 if medium.source is None else medium.source.start_ms or 0
        first, last = (to_clock(start + medium.frame_ms[at]) for at in (0, -1))
        lines.append(f"{number}. `{where}`: {medium.num_frames} frames from {first} to {last}")
    for role, text in conversation.turns:
        quoted = [f"> {line}" if role == "assistant" else line for line in text.replace(MARK, "`<video>`").split("\n")]
        lines += ["", f"**{role}**", "", *quoted]
    text = "\n".join(lines) + "\n"
    return text.encode("utf-8", "replace").decode()  # a file's name may be no Unicode
