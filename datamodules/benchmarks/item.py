"""A question of a benchmark, as every benchmark's reader gives it."""

from collections.abc import Mapping
from typing import NamedTuple

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the options, in their order."""


class MediaPart(NamedTuple):
    """What a question shows: a video, a picture, a folder of frames, or a part of one."""

    path: str  # from the folder of media on; its ending may be missing
    start_ms: int | None = None  # None: from the beginning
    end_ms: int | None = None  # None: to the end
    frames_per_second: float | None = None  # of a folder whose files are the frames, in the order of their names

    def until(self, end_ms: int) -> "MediaPart":
        """The part up to a time of the video, in milliseconds; not beyond its own end."""
        return self._replace(end_ms=end_ms if self.end_ms is None else min(end_ms, self.end_ms))


class BenchmarkItem(NamedTuple):
    """A question of a benchmark."""

    id: str  # unique in the benchmark
    media: tuple[MediaPart, ...]  # what is shown, in this order; usually one video
    question: str
    options: tuple[str, ...] = ()  # without letters; empty: the answer is free text
    answer: int | None = None  # index of the right option; None: there are no options, or the answer is not public
    reference: str = ""  # the right answer as text
    labels: Mapping[str, str] = {}  # such as type and length; scores are reported by each of them
    duration_s: float | None = None  # of the video, where the benchmark names it
    ask_ms: int | None = None  # of a video that plays: when the question is asked; nothing after it is shown
    group: str = ""  # items of a group count together, see the benchmark's ``summary``
    facts: Mapping[str, object] = {}  # what only this benchmark's prompt or summary reads

    @property
    def is_labelled(self) -> bool:
        """Whether the right answer is known."""
        return self.answer is not None or bool(self.reference)


class Prompt(NamedTuple):
    """How a question is asked."""

    text: str  # what the user says; its ``<video>`` marks show the media, and without marks they come first
    choices: tuple[str, ...] = ()  # what the model could answer, one for each option; the most likely one is chosen
    system: str | None = None  # None: that of the chat template


class Problem(NamedTuple):
    """Something wrong with the files of a benchmark."""

    where: str  # file and line, or id of the item
    what: str


class BenchmarkFiles(NamedTuple):
    """What a benchmark's files hold."""

    items: list[BenchmarkItem]
    problems: list[Problem]
