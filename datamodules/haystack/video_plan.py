"""Makes all random choices of one video of the haystack test: its needles, and the question about them."""

import math
import zlib
from typing import Literal, NamedTuple

import numpy as np

from datamodules.haystack.needle_kinds import KINDS, DrawnNeedle, NeedleKind
from datamodules.haystack.needle_times import place_needles

HaystackTask = Literal["retrieval", "order", "count"]
"""``retrieval``: what did the needle show. ``order``: in which order were several shown. ``count``: how many."""

NO_NEEDLE = "none"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class PlacedNeedle(NamedTuple):
    """A needle, and when it is shown."""

    start_ms: int
    end_ms: int  # it is no longer shown at this time
    drawn: DrawnNeedle


class VideoCell(NamedTuple):
    """Which video of the grid it is."""

    task: HaystackTask
    kind: NeedleKind
    duration_ms: int
    depth: float | None  # 0 to 1, of one of its needles; None: no needle, as a control
    number: int  # among the videos of the cell

    @property
    def name(self) -> str:
        """Name of the video."""
        depth = "no-needle" if self.depth is None else f"{100 * self.depth:g}%"
        return f"{self.task}-{self.kind}-{self.duration_ms / 1000:g}s-{depth}-{self.number}"


class PlannedVideo(NamedTuple):
    """Everything about one video."""

    cell: VideoCell
    needles: tuple[PlacedNeedle, ...]  # and distractors, in the order of time
    background: int  # random number: where in the haystack the video begins
    question: str
    options: tuple[str, ...]
    answer: int  # index of the right option


class NeedleCounts(NamedTuple):
    """How many of everything a video has."""

    needles: int  # of the task order; the most of the task count
    distractors: int
    options: int  # at most
    needle_ms: int


def plan_video(cell: VideoCell, counts: NeedleCounts, seed: int) -> PlannedVideo:
    """Make the random choices of a video. They depend on the arguments only.

    Args:
        cell: Which video.
        counts: How many needles and options it has.
        seed: Seed of the test.

    Raises:
        ValueError: The needles do not fit into the video.
    """
    random = np.random.default_rng((seed, zlib.crc32(cell.name.encode())))
    number = _num_needles(cell, counts, random)
    words = KINDS[cell.kind]
    labels = [str(label) for label in random.permutation(words.labels)]
    others = labels[number + counts.distractors :]
    shown, distracting = labels[:number], labels[number : number + counts.distractors]
    needles = _place(cell, shown, distracting, counts.needle_ms, random)
    in_order = [needle.drawn.label for needle in needles if not needle.drawn.is_distractor]
    if cell.task == "count":
        question, right, wrong = words.count_question, NUMBERS[number], list(NUMBERS[: counts.needles + 1])
        wrong.remove(right)
    elif cell.task == "order":
        question, right = words.order_question, ", ".join(in_order)
        wrong = _other_orders(in_order, counts.options - 1, random)
    else:
        question, right = words.which_question, in_order[0] if in_order else NO_NEEDLE
        wrong = [*distracting, *others][: counts.options - (2 if in_order else 1)]
        wrong += [NO_NEEDLE] if in_order else []
    options = tuple(str(option) for option in random.permutation([right, *wrong]))
    return PlannedVideo(cell, needles, int(random.integers(2**31)), question, options, options.index(right))


def _num_needles(cell: VideoCell, counts: NeedleCounts, random: np.random.Generator) -> int:
    if cell.depth is None:
        return 0
    if cell.task == "retrieval":
        return 1
    return counts.needles if cell.task == "order" else int(random.integers(1, counts.needles, endpoint=True))


def _other_orders(labels: list[str], most: int, random: np.random.Generator) -> list[str]:
    """Different orders of labels as texts, each but the given one; at most so many."""
    found = {", ".join(labels): None}
    while len(found) < min(most + 1, math.factorial(len(labels))):
        found[", ".join(str(label) for label in random.permutation(labels))] = None
    return list(found)[1:]


def _place(
    cell: VideoCell, shown: list[str], distracting: list[str], needle_ms: int, random: np.random.Generator
) -> tuple[PlacedNeedle, ...]:
    """The needles in the order of time; a random one of those that are no distractors is at the cell's depth."""
    needle_ms = min(needle_ms, cell.duration_ms)
    number = len(shown) + len(distracting)
    if not number:
        return ()
    depth = float(random.random()) if cell.depth is None else cell.depth
    first, others = place_needles(depth, number, cell.duration_ms, needle_ms, random)
    starts = [first, *others]
    needles = []
    for position, label in enumerate([*shown, *distracting]):
        drawn = DrawnNeedle(cell.kind, label, position >= len(shown), int(random.integers(2**31)))
        needles.append(PlacedNeedle(starts[position], starts[position] + needle_ms, drawn))
    return tuple(sorted(needles))
