"""Reads a file of questions about many videos: JSON lines, one question a line.

    {"video": "a.mp4", "question": "Which colour?", "id": "a1"}
    {"video": "a.mp4", "question": "Which shape?", "options": ["circle", "star"], "start": "1:30", "end": 120}

``video`` is the path of a video or picture, from the folder of media on. ``id`` is unique; without it the number of the
line is used. With ``options`` the answer is the most likely of them. ``start`` and ``end`` limit the question to a part
of the video. Other fields are ignored.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from membridge.asking import AskedQuestion
from membridge.video_time import to_milliseconds

_MOST_NAMED = 5


class VideoPart(NamedTuple):
    """A video, or a part of it, that questions are about."""

    video: str  # path as the file of questions names it
    start_ms: int | None = None
    end_ms: int | None = None


class FileQuestion(NamedTuple):
    """A line of the file."""

    id: str
    part: VideoPart
    question: AskedQuestion


def read_questions(path: Path, whole: VideoPart | None = None) -> list[FileQuestion]:
    """Read all questions.

    Args:
        path: The file.
        whole: Start and end for questions that name none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Lines are no questions or ids are used twice, all of which the message names; or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line breaks may be in texts
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    questions, wrong, line_of = [], [], dict[str, int]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line), str(number), whole or VideoPart(""))
        except (ValueError, RecursionError) as error:
            wrong.append(f"line {number}: {error}")
            continue
        if question.id in line_of:
            wrong.append(f"line {number}: its id {question.id!r} is that of line {line_of[question.id]} too")
        line_of[question.id] = number
        questions.append(question)
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} lines more" if len(wrong) > _MOST_NAMED else ""
        raise ValueError(f"{path} has lines that are no questions: {'; '.join(wrong[:_MOST_NAMED])}{more}")
    if not questions:
        raise ValueError(f'{path} has no questions; write one a line: {{"video": PATH, "question": TEXT}}')
    return questions


def by_part(questions: Iterable[FileQuestion]) -> Iterator[tuple[VideoPart, list[FileQuestion]]]:
    """Group questions by what they are about, in the order of first appearance, so that every video is read once."""
    groups: dict[VideoPart, list[FileQuestion]] = {}
    for question in questions:
        groups.setdefault(question.part, []).append(question)
    yield from groups.items()


def _check_characters(text: str, name: str) -> None:
    """Refuse half a character, which JSON can write as an escape, but which no tokenizer reads.

    Raises:
        ValueError: The text has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has half a character, {text[error.start]!r}; remove it") from error


def _question(fields: Any, number: str, whole: VideoPart) -> FileQuestion:
    """One question.

    Raises:
        ValueError: The fields are no question.
    """
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object in braces")
    for name in ("video", "question"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise ValueError(f"{name} is {fields.get(name)!r}; expected text")
        _check_characters(fields[name], name)
    options = fields.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise ValueError(f"options is {options!r}; expected a list of texts")
    _check_characters(" ".join(options), "options")
    identity = fields.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"id is {identity!r}; expected text or a number")
    times = (None if fields.get(name) is None else to_milliseconds(fields[name]) for name in ("start", "end"))
    start, end = times
    start, end = whole.start_ms if start is None else start, whole.end_ms if end is None else end
    if end is not None and end <= (start or 0):
        raise ValueError(f"it ends at {end / 1000:g} s, not after its start at {(start or 0) / 1000:g} s")
    asked = AskedQuestion(fields["question"], tuple(options))
    return FileQuestion(str(identity), VideoPart(fields["video"], start, end), asked)
