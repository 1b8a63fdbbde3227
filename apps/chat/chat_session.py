"""Answers the lines of a chat: questions and commands. An error never ends it."""

import difflib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from apps.chat.chat_arguments import COMMANDS, given_number, given_path, message_about, split_load
from apps.chat.chat_screen import AnswerWriter, ChatScreen, memory_notes, memory_table, scene_table, time_in_file
from components.pretrained.frame_settings import FrameSettings
from datamodules.media.frame_sampling import FrameSampling
from membridge.conversation import Conversation
from membridge.saved_conversation import SavedConversation, read_saved, restore, save

_SETTINGS: dict[str, type[int] | type[float]] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
}


class ChatSession:
    """A conversation that is led by lines of text.

    Args:
        conversation: The conversation.
        screen: Where answers and messages are printed.

    Attributes:
        conversation: See above.
        has_ended: Whether ``/quit`` was given.
    """

    def __init__(self, conversation: Conversation, screen: ChatScreen) -> None:
        self.conversation = conversation
        self.has_ended = False
        self._screen = screen
        self._own_files: set[Path] = set()  # written or opened here, so that /save may replace them
        self._actions: dict[str, Callable[[str], None]] = {
            "/load": self._load,
            "/scenes": lambda text: self._show_media(text, scene_table),
            "/memory": lambda text: self._show_media(text, memory_table),
            "/fps": self._fps,
            "/frames": self._frames,
            "/settings": self._settings,
            "/undo": self._undo,
            "/clear": self._clear,
            "/save": self._save,
            "/open": self._open,
            "/help": self._help,
            "/quit": self._quit,
        }

    @property
    def commands(self) -> list[str]:
        """Names of all commands."""
        return list(self._actions)

    def handle(self, line: str) -> None:
        """Do what a line says. Errors are printed; Ctrl-C stops only this line where a person types.

        Raises:
            KeyboardInterrupt: The lines come from a pipe.
        """
        line = line.strip()
        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)
        except KeyboardInterrupt:
            if not self._screen.is_interactive:
                raise
            self._screen.write("\n")
            self._screen.say("Stopped. The conversation is as it was before this line.")
        except Exception as error:
            self._screen.error(message_about(error))

    def load(self, path: Path, start_ms: int | None = None, end_ms: int | None = None) -> None:
        """Read a video or picture; see ``Conversation.load``."""
        begin = time.perf_counter()
        with self._screen.working(f"reading {path.name}"):
            medium = self.conversation.load(path, start_ms=start_ms, end_ms=end_ms)
        first, last = (time_in_file(medium, medium.frame_ms[at]) for at in (0, -1))
        self._screen.say(
            f"{len(self.conversation.media)}. {medium.name}: {_count(medium.num_frames, 'frame')} from {first} to "
            f"{last}, {_count(len(medium.scenes), 'scene')}, read in {time.perf_counter() - begin:.1f} s. "
            "The next question shows it."
        )

    def open(self, path: Path, saved: SavedConversation) -> None:
        """Go on with a saved conversation; the present one is forgotten.

        Args:
            path: Its file.
            saved: What the file holds.
        """
        with self._screen.working(f"opening {path.name}"):
            restore(self.conversation, saved)
        self._own_files.add(path.resolve())
        turns, media = len(self.conversation.turns), len(self.conversation.media)
        self._screen.say(f"Opened {path}: {_count(turns, 'turn')} about {_count(media, 'medium', 'media')}.")

    def set_fps(self, fps: float) -> None:
        """Read this number of frames per second of the videos that are loaded from now on."""
        own = self.conversation.model.training_facts.frames
        if not 0 < fps < math.inf:
            raise ValueError(f"{fps} frames per second is not possible; give a number above 0, such as 1 or 0.5")
        self._set_frames(replace(own, num_frames=None, fps=fps))

    def _ask(self, question: str) -> None:
        writer = AnswerWriter(self._screen)
        reply = self.conversation.ask(question, writer.add)
        writer.end()
        if self._screen.is_interactive:
            visual = f", {reply.visual_tokens} of them visual" if reply.visual_tokens else ""
            self._screen.say(
                f"{_count(reply.new_tokens, 'token')} in {reply.seconds:.1f} s, the first after "
                f"{reply.first_token_seconds:.1f} s; read {reply.prompt_tokens} tokens{visual}"
            )

    def _command(self, line: str) -> None:
        name, _, text = line.partition(" ")
        action = self._actions.get(name)
        if action is None:
            if given_path(line, "/load").is_file():
                raise ValueError(f"there is no command {name}; to read a file write: /load {line}")
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise ValueError(f"there is no command {name}; {f'did you mean {near[0]}?' if near else '/help lists all'}")
        action(text.strip())

    def _load(self, text: str) -> None:
        self.load(*split_load(text))

    def _show_media(self, text: str, table: Callable[[Conversation, int], Table]) -> None:
        media = self.conversation.media
        if not media:
            raise ValueError("no video or picture is loaded; load one with /load FILE")
        if text and not (text.isdecimal() and 1 <= int(text) <= len(media)):
            raise ValueError(f"there is no medium {text}; give a number from 1 to {len(media)}, or none for all")
        numbers = [int(text) - 1] if text else list(range(len(media)))
        for number in numbers:
            self._screen.show(table(self.conversation, number))
        for note in memory_notes(self.conversation, numbers):
            self._screen.say(note)

    def _fps(self, text: str) -> None:
        if text == "model":
            self._set_frames(self.conversation.model.training_facts.frames)
        elif text:
            self.set_fps(given_number(text))
        else:
            self._say_frames()

    def _frames(self, text: str) -> None:
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(f"{text} is no number of frames; give a whole number of at least 1")
            own = self.conversation.model.training_facts.frames
            self._set_frames(replace(own, num_frames=int(text), fps=None, max_frames=None))
        else:
            self._say_frames()

    def _set_frames(self, frames: FrameSettings) -> None:
        FrameSampling(frames.num_frames, frames.fps, frames.max_frames)  # raises where they do not go together
        self.conversation.frames = frames
        self._say_frames()

    def _say_frames(self) -> None:
        own = self.conversation.model.training_facts.frames
        now = self.conversation.frames
        trained = "as in training" if now == own else f"in training: {_described(own)}"
        self._screen.say(f"Videos that are loaded from now on: {_described(now)} ({trained}).")
        for number, medium in enumerate(self.conversation.media, start=1):
            first, last = (time_in_file(medium, medium.frame_ms[at]) for at in (0, -1))
            frames = _count(medium.num_frames, "frame")
            self._screen.say(f"{number}. {medium.name}: {frames} from {first} to {last}")

    def _settings(self, text: str) -> None:
        if text:
            name, _, value = text.replace("=", " ").partition(" ")
            name = name.replace("-", "_")
            if name not in _SETTINGS:
                raise ValueError(f"there is no setting {name}; there are {', '.join(_SETTINGS)}")
            number = given_number(value.strip())
            if _SETTINGS[name] is int and not number.is_integer():
                raise ValueError(f"{name} is a whole number, not {value.strip()}")
            changed: dict[str, Any] = {name: _SETTINGS[name](number)}
            self.conversation.settings = replace(self.conversation.settings, **changed)
        values = [f"{name} {getattr(self.conversation.settings, name)}" for name in _SETTINGS]
        self._screen.say(", ".join(values))

    def _undo(self, _text: str) -> None:
        question = self.conversation.undo()
        self._screen.say(f"Forgotten: {question}")

    def _clear(self, text: str) -> None:
        if text not in ("", "all"):
            raise ValueError(f"/clear {text} is not known; write /clear, or /clear all to forget the media too")
        self.conversation.clear(with_media=bool(text))
        media = _count(len(self.conversation.media), "medium", "media")
        self._screen.say(f"The conversation begins again with {media}.")

    def _save(self, text: str) -> None:
        path = given_path(text, "/save")
        if path.exists() and path.resolve() not in self._own_files:
            raise ValueError(f"{path} is there already; choose another name")
        save(self.conversation, path)
        self._own_files.add(path.resolve())
        self._screen.say(f"Saved {_count(len(self.conversation.turns), 'turn')} to {path}.")

    def _open(self, text: str) -> None:
        path = given_path(text, "/open")
        self.open(path, read_saved(path))

    def _help(self, _text: str) -> None:
        table = Table(box=None, show_header=False)
        for name, (arguments, meaning) in COMMANDS.items():
            table.add_row(f"{name} {arguments}", meaning)
        self._screen.show(table)
        self._screen.show("Any other line is a question. START and END are seconds, mm:ss or h:mm:ss.")

    def _quit(self, _text: str) -> None:
        self.has_ended = True


def _described(frames: FrameSettings) -> str:
    if frames.num_frames is not None:
        return f"{_count(frames.num_frames, 'frame')} each"
    most = "" if frames.max_frames is None else f", at most {frames.max_frames} frames"
    return f"{frames.fps:g} frames per second{most}"


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
