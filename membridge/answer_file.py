"""A file of answers, one JSON object a line, that a stopped command continues.

Lines are appended and written to the disk together, so only the last one can be incomplete, without its line break.
Beside ``answers.jsonl`` is ``answers.settings.json``, which says with what model and settings the answers were given.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class AnswerFile:
    """Answers of one model with one choice of settings. Use it as a context manager: it is open and locked inside.

    Args:
        path: The file.
        settings: Model and settings, plain values. Answers of others are not continued.

    Attributes:
        answers: The answers so far, by id.
        was_cut: Whether an incomplete last line was removed.

    Raises:
        ValueError: The file is in use, is damaged, or has answers of another model or other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.answers: dict[str, dict[str, Any]] = {}
        self.was_cut = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._lock()
            self._check_settings(dict(settings))
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Append answers, each with its ``id``, and wait until they are on the disk."""
        new = list(answers)
        self._file.write(b"".join(map(_encoded, new)))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(self.path)) from error
        self.answers |= {each["id"]: dict(each) for each in new}

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process writes {self.path}; wait for it, or choose another file") from error

    def _check_settings(self, settings: dict[str, Any]) -> None:
        """Compare with the settings of the answers so far, or store them where there is no answer yet."""
        beside = _settings_path(self.path)
        if not os.fstat(self._file.fileno()).st_size:
            unfinished = beside.with_name(f".{beside.name}")
            unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(beside)
            return
        check_settings(self.path, settings)

    def _read(self) -> None:
        """Read the answers, and cut off an incomplete last line, which is left where a process was killed."""
        self._file.seek(0)
        content = self._file.read()
        answers, whole = _parse(content, self.path)
        self.answers = {answer["id"]: answer for answer in answers}
        self.was_cut = whole < len(content)
        if self.was_cut:
            self._file.truncate(whole)


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a file with answers of another model or with other settings. A file without content fits all.

    Args:
        path: The file of answers.
        settings: Model and settings, plain values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The answers are of another model or other settings, or nothing says of which.
    """
    if not path.stat().st_size:
        return
    beside = _settings_path(path)
    advice = "Choose another place for the answers, or remove the file to ask everything again"
    if not beside.is_file():
        raise ValueError(f"{path} has content, but not of this command: {beside} is not there. {advice}")
    try:
        earlier = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{beside} is damaged ({error}). {advice}") from error
    if not isinstance(earlier, dict):
        raise ValueError(f"{beside} is damaged (it is no JSON object). {advice}")
    differing = sorted(name for name in {*earlier, *settings} if earlier.get(name) != settings.get(name))
    if differing:
        was = ", ".join(f"{name} was {earlier.get(name)!r}, is {settings.get(name)!r}" for name in differing)
        raise ValueError(f"{path} has answers of another model or other settings: {was}. {advice}")


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read the answers of a file that another process may be writing.

    Args:
        path: The file. A last line without line break is left out.

    Returns:
        The lines in their order; an id occurs more than once where its question was asked again.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A complete line is no answer.
    """
    return _parse(path.read_bytes(), path)[0]


def _settings_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.settings.json")


def _encoded(answer: Mapping[str, Any]) -> bytes:
    """An answer as a line. Half a character, which UTF-8 cannot store, is written as an escape."""
    try:
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(answer).encode() + b"\n"


def _parse(content: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The answers, and the number of bytes of complete lines."""
    answers: list[dict[str, Any]] = []
    *lines, incomplete = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            answer = json.loads(line)
            is_answer = isinstance(answer, dict) and isinstance(answer.get("id"), str)
        except (ValueError, RecursionError):
            is_answer = False
        if not is_answer:
            raise ValueError(
                f"{path}, line {number} is no answer: {line[:80].decode(errors='replace')!r}. Remove the line "
                "to have its question asked again"
            )
        answers.append(answer)
    return answers, len(content) - len(incomplete)
