"""The commands of a chat, what is written after them, and the messages about what went wrong."""

import contextlib
import math
import shlex
import traceback
from pathlib import Path

from command_errors import explain
from components.language.text_limits import CONTEXT_ADVICE, TextLimitError
from membridge.video_time import to_milliseconds

COMMANDS = {
    "/load": ("FILE [START] [END]", "read a video or picture; the next question shows it"),
    "/scenes": ("[NUMBER]", "scenes of the media: times, frames, what the memory admitted, what was attended to"),
    "/memory": ("[NUMBER]", "the same as bars: which scenes the memory holds and attends to"),
    "/fps": ("[N | model]", "frames per second of videos that are loaded from now on"),
    "/frames": ("[N]", "frames of every video that is loaded from now on, whatever its length"),
    "/settings": ("[NAME VALUE]", "how answers are chosen: max_new_tokens, temperature, top_k, top_p, seed"),
    "/undo": ("", "forget the last question and its answer"),
    "/clear": ("[all]", "forget the conversation; the media stay, without them: /clear all"),
    "/save": ("FILE", "write the conversation to FILE.jsonl, which /open reads, or to FILE.md"),
    "/open": ("FILE", "go on with a saved conversation"),
    "/help": ("", "this list"),
    "/quit": ("", "end the program"),
}
"""Name of a command -> what is written after it, and what it does."""


def split_load(text: str) -> tuple[Path, int | None, int | None]:
    """What ``/load`` is asked for: file, start and end in milliseconds.

    A path may have spaces, with or without quotation marks.

    Raises:
        ValueError: There is no path, or a time is wrong.
    """
    if not text:
        raise ValueError("/load needs a file: /load FILE [START] [END]")
    for num_times in range(3):
        path_text, *times = text.rsplit(maxsplit=num_times)
        path = given_path(path_text, "/load")
        if path.is_file():
            start, end = ([to_milliseconds(each) for each in times] + [None, None])[:2]
            return path, start, end
    return given_path(text, "/load"), None, None


def given_path(text: str, command: str) -> Path:
    """A path that may be in quotation marks or have escaped spaces.

    Raises:
        ValueError: The text is empty.
    """
    if not text:
        raise ValueError(f"{command} needs a file: {command} {COMMANDS[command][0]}")
    with contextlib.suppress(OSError):  # longer than a path can be
        if Path(text).exists():
            return Path(text)
    try:
        words = shlex.split(text)
    except ValueError:  # a single quotation mark
        words = []
    return Path(words[0] if len(words) == 1 else text).expanduser()


def given_number(text: str) -> float:
    """A number.

    Raises:
        ValueError: The text is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text or 'nothing'} is no number; give a number")
    return number


def message_about(error: Exception) -> str:
    """What to tell about an error, in terms of this command."""
    if isinstance(error, TextLimitError) and error.reason.endswith(CONTEXT_ADVICE):
        return (
            "the conversation is full, so this question was not asked and nothing is lost: "
            f"{error.reason.removesuffix(CONTEXT_ADVICE).removesuffix(': ')}. /undo forgets the last question, /clear "
            "all of them, /clear all the media too; /settings max_new_tokens N keeps less room for the answer; /save "
            "stores the conversation before"
        )
    if type(error).__name__ == "OutOfMemoryError":  # of torch
        return (
            f"{str(error).splitlines()[0]} Load less at a time (/fps or /frames, and START and END of /load), or "
            "forget media (/clear all)"
        )
    explained = explain(error)
    if explained is None:
        traceback.print_exception(error)
    return explained or f"{type(error).__name__}: {error} (unexpected; the chat goes on)"
