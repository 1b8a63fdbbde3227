"""Captions with times, as lines of text, SubRip, WebVTT and JSON lines.

A file begins with its header, and every caption is appended by one write and synchronised with the disk. So a file is
readable after each caption, and after the process was killed.
"""

import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Caption(NamedTuple):
    """A caption of a part of a video."""

    start_ms: int
    end_ms: int  # later than the start
    num_frames: int  # that the model read of it
    text: str


def plain_text(text: str) -> str:
    """The text without control characters, empty lines and spaces around lines."""
    lines = (re.sub(r"[^\S\n]+", " ", line).strip() for line in text.splitlines())
    printable = ("".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cs")) for line in lines)
    return "\n".join(line for line in printable if line.strip())


def to_text(caption: Caption) -> str:
    """One line such as ``[00:12 - 00:31] A man opens the door.``."""
    text = plain_text(caption.text).replace("\n", " ")
    return f"[{_clock(caption.start_ms)} - {_clock(caption.end_ms)}] {text or '(the model gave an empty caption)'}"


def to_srt(caption: Caption, number: int) -> str:
    """A block of SubRip, which has no way to escape ``-->``. Empty where there is no text."""
    text = plain_text(caption.text).replace("-->", "->")
    times = f"{_stamp(caption.start_ms, ',')} --> {_stamp(caption.end_ms, ',')}"
    return f"{number}\n{times}\n{text}\n\n" if text else ""


def to_vtt(caption: Caption, _number: int = 0) -> str:
    """A block of WebVTT. Empty where there is no text."""
    text = plain_text(caption.text)
    for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escape)
    times = f"{_stamp(caption.start_ms, '.')} --> {_stamp(caption.end_ms, '.')}"
    return f"{times}\n{text}\n\n" if text else ""


def to_json_line(caption: Caption, _number: int = 0) -> str:
    """A JSON object, with times in seconds."""
    shown = {
        "start": caption.start_ms / 1000,
        "end": caption.end_ms / 1000,
        "frames": caption.num_frames,
        "caption": caption.text,
    }
    return json.dumps(shown, ensure_ascii=False) + "\n"


class _Form(NamedTuple):
    header: str
    write: Callable[[Caption, int], str]


FORMS: Mapping[str, _Form] = {
    "srt": _Form("", to_srt),
    "vtt": _Form("WEBVTT\n\n", to_vtt),
    "jsonl": _Form("", to_json_line),
}
"""Forms of caption files by name."""


def check_caption_files(paths: Mapping[str, Path], source: str, *, overwrite: bool) -> None:
    """Refuse files that cannot be written, before a large model is opened.

    Args:
        paths: Files by the name of their form.
        source: The video that is read; it must not be overwritten.
        overwrite: Whether files may be there already.

    Raises:
        ValueError: Two files are the same, one is the video, or one is there already.
        OSError: There is no such folder, or this user may not write there.
    """
    resolved = [path.resolve() for path in paths.values()]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"two of the caption files are the same: {', '.join(map(str, paths.values()))}")
    for path in paths.values():
        if Path(source).resolve() == path.resolve():
            raise ValueError(f"{path} is the video that is read; choose another file for captions")
        with suppress(FileNotFoundError):
            about = path.stat()
            if stat.S_ISREG(about.st_mode) and about.st_size and not overwrite:
                raise ValueError(f"{path} is there already; choose another file, or give --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass


class CaptionFile:
    """A file of captions that is readable after every caption.

    Args:
        path: The file; its content is replaced.
        form: ``srt``, ``vtt`` or ``jsonl``.
    """

    def __init__(self, path: Path, form: str) -> None:
        self._form = FORMS[form]
        self._path = path
        self._number = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        self._append(self._form.header)

    def add(self, caption: Caption) -> None:
        """Append a caption, and wait until it is on the disk. A subtitle without text is left out."""
        block = self._form.write(caption, self._number + 1)
        if block:
            self._number += 1
            self._append(block)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            while data:  # one write, but for a pipe that takes less or a disk that is full
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(self._path)) from error
        with suppress(OSError):  # a pipe or terminal cannot be synchronised
            os.fsync(self._descriptor)


def _clock(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def _stamp(ms: int, point: str) -> str:
    seconds, thousandths = divmod(ms, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{thousandths:03}"
