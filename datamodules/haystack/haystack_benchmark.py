"""The haystack test as a benchmark: settings of the grid, the questions, and the official scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from datamodules.benchmarks.benchmark import Benchmark, ScoredItem
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart
from datamodules.haystack.needle_kinds import KINDS, NeedleKind
from datamodules.haystack.needle_times import most_needles
from datamodules.haystack.video_plan import NUMBERS, HaystackTask, NeedleCounts, PlannedVideo, VideoCell, plan_video

WITHOUT_NEEDLE = "no needle"
"""The depth of videos without a needle, in labels and scores."""


@dataclass(frozen=True)
class HaystackGrid:
    """Which videos are made.

    Args:
        lengths_s: Lengths in seconds.
        depths: Depths of a needle, from 0 (it begins with the video) to 1 (it ends with the video).
        videos_per_cell: Videos of every length and depth, for every task and kind of needle.
        controls: Videos without a needle, of every length, task and kind; the task order has none.

    Raises:
        ValueError: A value is out of range.
    """

    lengths_s: tuple[float, ...]
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    videos_per_cell: int = 1
    controls: int = 1

    def __post_init__(self) -> None:
        if not self.lengths_s or not self.depths or min(self.lengths_s) < 0.001:
            raise ValueError(f"lengths_s and depths must have values, and lengths must be positive, got {self}")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths are shares from 0 to 1, got {self.depths}")
        if self.videos_per_cell < 0 or self.controls < 0 or self.videos_per_cell + self.controls == 0:
            raise ValueError(f"videos_per_cell and controls must not be negative, nor both 0, got {self}")


@dataclass(frozen=True)
class HaystackNeedles:
    """What the videos show besides the haystack.

    Args:
        kinds: Kinds of needles, each in videos of its own.
        seconds: How long a needle is shown.
        number: Needles of a video of the task order; the most of the task count.
        distractors: Things of the same kind in every video that the question does not ask for.
        options: Most options of a question.

    Raises:
        ValueError: A value is out of range, or does not fit a kind of needle.
    """

    kinds: tuple[NeedleKind, ...] = ("caption",)
    seconds: float = 1.0
    number: int = 3
    distractors: int = 0
    options: int = 4

    def __post_init__(self) -> None:
        if self.seconds < 0.001 or self.distractors < 0 or self.options < 2 or not self.kinds:
            raise ValueError(f"seconds must be positive, options at least 2, and a kind must be named, got {self}")
        if not 2 <= self.number < len(NUMBERS):
            raise ValueError(f"number must be from 2 to {len(NUMBERS) - 1}, got {self.number}")
        for kind in self.kinds:
            words = KINDS[kind]
            if self.distractors and not words.has_distractors:
                raise ValueError(f"needles of the kind {kind!r} have no distractors; set distractors to 0")
            if max(self.number + self.distractors, self.options - 1) > len(words.labels):
                raise ValueError(f"needles of the kind {kind!r} can show only {len(words.labels)} things")


class HaystackBenchmark(Benchmark):
    """A grid of made-up videos, each with needles and a question about them.

    Args:
        grid: Which videos.
        needles: What they show.
        tasks: What is asked; each in videos of its own.
        all_orders: Ask every question once for each rotation of its options; it is right if all of them are.
        chosen_by: See ``Benchmark``.
        seed: Seed of all random choices.
        free_answers: Ask without options, so that the words of the answer are compared, or graded.

    Raises:
        ValueError: The needles do not fit into the shortest video, or settings exclude each other.
    """

    def __init__(
        self,
        grid: HaystackGrid,
        needles: HaystackNeedles = HaystackNeedles(),
        tasks: Sequence[HaystackTask] = ("retrieval",),
        all_orders: bool = False,
        chosen_by: Literal["letter", "text"] = "letter",
        seed: int = 0,
        free_answers: bool = False,
    ) -> None:
        super().__init__(questions="", chosen_by=chosen_by)
        if free_answers and all_orders:
            raise ValueError("free answers have no options, so all_orders must be false")
        self.grid = grid
        self.needles = needles
        self.tasks = tuple(tasks)
        self.all_orders = all_orders
        self.seed = seed
        self.free_answers = free_answers
        counts = [1 if task == "retrieval" else needles.number for task in self.tasks]
        most = max(counts) + needles.distractors
        shortest = round(1000 * min(grid.lengths_s))
        if most > 1 and most > most_needles(shortest, self.counts.needle_ms):
            raise ValueError(
                f"{most} needles and distractors of {needles.seconds:g} s may not fit into the shortest video, of "
                f"{shortest / 1000:g} s; make the shortest at least {(most + 1) * needles.seconds:g} s long"
            )

    @property
    def counts(self) -> NeedleCounts:
        """How many needles and options a video has."""
        chosen = self.needles
        return NeedleCounts(chosen.number, chosen.distractors, chosen.options, round(1000 * chosen.seconds))

    def read(self, root: Path = Path()) -> BenchmarkFiles:
        """Plan all videos, and write their questions; reads no file."""
        items = [item for cell in self._cells() for item in self._items(plan_video(cell, self.counts, self.seed))]
        return BenchmarkFiles(items, [])

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """Share of right videos, of all and by task and needle; right in all orders of the options if all are asked."""
        groups: dict[str, list[float]] = {}
        for item, is_right in right_videos(scored).values():
            needle = "without a needle" if item.labels["depth"] == WITHOUT_NEEDLE else "with a needle"
            for label in ("all videos", f"videos {needle}", f"{item.labels['task']} {needle}"):
                groups.setdefault(label, []).append(is_right)
        return {label: sum(values) / len(values) for label, values in sorted(groups.items())}

    def _cells(self) -> Iterator[VideoCell]:
        lengths = [round(1000 * length) for length in self.grid.lengths_s]
        for duration_ms, task, kind in product(lengths, self.tasks, self.needles.kinds):
            for depth, index in product(self.grid.depths, range(self.grid.videos_per_cell)):
                yield VideoCell(task, kind, duration_ms, depth, index)
            for index in range(0 if task == "order" else self.grid.controls):
                yield VideoCell(task, kind, duration_ms, None, index)

    def _items(self, video: PlannedVideo) -> Iterator[BenchmarkItem]:
        cell, options = video.cell, video.options
        depth = WITHOUT_NEEDLE if cell.depth is None else f"{100 * cell.depth:g} %"
        seconds = cell.duration_ms / 1000
        for turn in range(len(options) if self.all_orders else 1):
            yield BenchmarkItem(
                id=f"{cell.name}-order{turn}" if self.all_orders else cell.name,
                media=(MediaPart(cell.name),),
                question=video.question,
                options=() if self.free_answers else options[turn:] + options[:turn],
                answer=None if self.free_answers else (video.answer - turn) % len(options),
                reference=options[video.answer],
                labels={"task": cell.task, "needle": cell.kind, "length": f"{seconds:g} s", "depth": depth},
                duration_s=seconds,
                group=cell.name,
                facts={"video": video},
            )


def right_videos(scored: Sequence[ScoredItem]) -> dict[str, tuple[BenchmarkItem, float]]:
    """For every video one of its items, and whether all its questions are right: 1, else 0 or what is graded lowest.

    Args:
        scored: The scores of one scorer.
    """
    found: dict[str, tuple[BenchmarkItem, float]] = {}
    for each in scored:
        lowest = found.get(each.item.group, (each.item, 1.0))[1]
        found[each.item.group] = (each.item, min(lowest, each.score))
    return found


def planned_video(item: BenchmarkItem) -> PlannedVideo:
    """The video that an item of ``HaystackBenchmark`` is about."""
    video = item.facts["video"]
    assert isinstance(video, PlannedVideo)
    return video
