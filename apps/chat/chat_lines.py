"""Where the lines of a chat come from: a person at a terminal, or a pipe."""

import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from apps.chat.chat_screen import ChatScreen

PROMPT = "> "
_WITH_PATH = ("/load ", "/save ", "/open ")


def is_interactive() -> bool:
    """Whether a person types at a terminal and sees what is printed."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class PipedLines:
    """Lines of a standard input that is no terminal."""

    def __init__(self) -> None:
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]

    def read(self) -> str | None:
        """The next line without its end; None at the end."""
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None


class TypedLines:
    """Lines that a person types, with history and completion.

    Args:
        screen: Where hints are shown.
        history: File of the lines typed so far.
        commands: Names of the commands, for completion.
    """

    def __init__(self, screen: ChatScreen, history: Path, commands: Sequence[str]) -> None:
        self._screen = screen
        self._session: PromptSession[str] = PromptSession(
            history=_open_history(history, screen),
            completer=CommandCompleter(commands),
            complete_while_typing=False,
        )

    def read(self) -> str | None:
        """The next line; None after Ctrl-D. Ctrl-C empties the line."""
        while True:
            try:
                return self._session.prompt(PROMPT)
            except KeyboardInterrupt:
                self._screen.say("Ctrl-D or /quit ends the program.")
            except EOFError:
                return None


class CommandCompleter(Completer):
    """Completes names of commands, and paths after the commands that take a file.

    Args:
        commands: Names of the commands.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What the text before the cursor may go on with."""
        text = document.text_before_cursor
        command = next((name for name in _WITH_PATH if text.startswith(name)), None)
        if command is not None:
            path = text[len(command) :].lstrip()
            yield from self._paths.get_completions(Document(path), complete_event)
        elif text.startswith("/"):
            yield from (Completion(name, -len(text)) for name in self._commands if name.startswith(text))


class _QuietFileHistory(FileHistory):
    """A history whose file may become unwritable, as on a full disk: that must not end the chat."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def _open_history(path: Path, screen: ChatScreen) -> History:
    """The history in a file that only this user may read; without a file where none can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except OSError as error:
        screen.say(f"Typed lines are not stored: {path}: {error.strerror}.")
        return InMemoryHistory()
    return _QuietFileHistory(path)
