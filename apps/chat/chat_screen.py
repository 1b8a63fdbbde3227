"""What a chat prints: answers as they come, tables, messages."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.table import Table

from components.interfaces import NewTokens
from membridge.conversation import EMPTY_ANSWER, Conversation
from membridge.opened_medium import OpenedMedium
from membridge.video_time import to_clock

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BAR = 24  # characters of a full bar


class ChatScreen:
    """Prints for a person at a terminal, or into pipes: then answers and tables alone are on the standard output.

    Args:
        is_interactive: Whether a person types at a terminal.

    Attributes:
        is_interactive: See above.
        num_errors: Number of errors that were printed.
    """

    def __init__(self, *, is_interactive: bool) -> None:
        self.is_interactive = is_interactive
        self.num_errors = 0
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._messages = self._out if is_interactive else Console(stderr=True, highlight=False, markup=False)

    def say(self, text: str) -> None:
        """Print a message that is no answer."""
        self._messages.print(printable(text), style="dim", soft_wrap=True)

    def error(self, text: str) -> None:
        """Print what went wrong."""
        self.num_errors += 1
        self._messages.print(f"error: {printable(text)}", style="red", soft_wrap=True)

    def show(self, shown: RenderableType) -> None:
        """Print what a command was asked for."""
        self._out.print(shown)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something takes time, while it does."""
        if not self.is_interactive:
            yield
            return
        with self._out.status(text):
            yield

    def write(self, text: str) -> None:
        """Write a part of an answer at once."""
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()


class AnswerWriter:
    """Writes an answer token by token, without white space around it.

    Args:
        screen: Where it is written.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._spaces = ""  # seen, and written only if more text follows
        self._has_begun = False

    def add(self, tokens: NewTokens) -> None:
        """Write the next token; a ``Streamer``."""
        text = self._spaces + tokens.texts[0] if self._has_begun else tokens.texts[0].lstrip()
        written = text.rstrip()
        self._spaces = text[len(written) :]
        if written:
            self._has_begun = True
            self._screen.write(written)

    def end(self) -> None:
        """End the line."""
        self._screen.write("\n" if self._has_begun else f"{EMPTY_ANSWER}\n")


def printable(text: str) -> str:
    """Text without control characters, which could change how a terminal behaves. Line ends and tabs stay."""
    return _CONTROL.sub("", text)


def scene_table(conversation: Conversation, number: int) -> Table:
    """The scenes of a medium, a row each.

    Args:
        conversation: The conversation.
        number: Index of the medium.
    """
    medium = conversation.media[number]
    table = _titled(medium, number)
    for column in ("scene", "from", "to", "frames", "admitted", "attended"):
        table.add_column(column, justify="right")
    attended = conversation.segment_attention(number)
    for index, scene in enumerate(medium.scenes):
        table.add_row(
            str(index + 1),
            time_in_file(medium, scene.start_ms),
            time_in_file(medium, scene.end_ms),
            str(scene.num_frames),
            _percent(scene.admitted),
            _percent(None if attended is None else attended[index]),
        )
    return table


def memory_table(conversation: Conversation, number: int) -> Table:
    """What the memory admitted of every segment of a medium, and what was attended to, as bars.

    Args:
        conversation: The conversation.
        number: Index of the medium.
    """
    medium = conversation.media[number]
    table = _titled(medium, number)
    table.add_column("scene", justify="right")
    table.add_column("from", justify="right")
    table.add_column("admitted to the memory")
    table.add_column("attended to")
    attended = conversation.segment_attention(number)
    largest = max(attended or [0.0]) or 1.0
    for index, scene in enumerate(medium.scenes):
        share = None if attended is None else attended[index]
        table.add_row(
            str(index + 1),
            time_in_file(medium, scene.start_ms),
            _bar(scene.admitted, 1.0),
            _bar(share, largest),
        )
    return table


def memory_notes(conversation: Conversation, numbers: Sequence[int]) -> list[str]:
    """Why columns of the tables are empty."""
    media = [conversation.media[number] for number in numbers]
    notes = []
    if any(scene.admitted is None for medium in media for scene in medium.scenes):
        notes.append("This model's memory has no gate: it holds every scene.")
    if any(conversation.segment_attention(number) is None for number in numbers):
        notes.append("Attention is shown once a question has shown the medium, if a reader of this model has it.")
    return notes


def time_in_file(medium: OpenedMedium, milliseconds: int) -> str:
    """A time of a medium, from the beginning of its file."""
    start = 0 if medium.source is None else medium.source.start_ms or 0
    return to_clock(start + milliseconds)


def _titled(medium: OpenedMedium, number: int) -> Table:
    return Table(title=printable(f"{number + 1}. {medium.name}"), title_justify="left", title_style="bold", box=None)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _bar(share: float | None, largest: float) -> str:
    """A bar whose full length means ``largest``."""
    if share is None:
        return "-"
    length = round(_BAR * share / largest)
    return f"{'█' * length}{'·' * (_BAR - length)} {share:.0%}"
