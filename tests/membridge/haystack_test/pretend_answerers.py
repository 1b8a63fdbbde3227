"""Haystack tests that are answered by rules, not by a model: one reads the pixels, the others see nothing."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings
from datamodules.benchmarks.item import LETTERS, BenchmarkItem
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, planned_video
from datamodules.haystack.needle_kinds import KINDS, DrawnNeedle, NeedleKind, paint_needle
from datamodules.haystack.video_plan import NO_NEEDLE, NUMBERS, PlannedVideo
from membridge.evaluation.asked_item import AskedItem
from membridge.haystack_test.backgrounds import MadeBackground
from membridge.haystack_test.haystack_run import HaystackRun
from membridge.haystack_test.made_video import MadeVideo

SIDE = 42
FRAMES = FrameSettings(SIDE, num_frames=None, fps=2.0)


class RuleRun(HaystackRun):
    """Answers every question by a rule."""

    def __init__(
        self, benchmark: HaystackBenchmark, out: Path, rule: Callable[[BenchmarkItem, MadeVideo], int], **settings: Any
    ) -> None:
        super().__init__(benchmark, benchmark.read().items, MadeBackground(), out, settings)
        self.rule = rule

    def ask_group(self, model: VideoLanguageModel, items: Sequence[BenchmarkItem]) -> list[AskedItem]:
        video = MadeVideo(planned_video(items[0]), self.background, FRAMES)
        return [self._chosen(item, self.rule(item, video)) for item in items]

    def _chosen(self, item: BenchmarkItem, index: int) -> AskedItem:
        likelihoods = tuple(-float(number != index) for number in range(len(item.options)))
        return AskedItem(LETTERS[index], likelihoods)


def first_option(item: BenchmarkItem, video: MadeVideo) -> int:
    return 0


def always_none(item: BenchmarkItem, video: MadeVideo) -> int:
    return item.options.index(NO_NEEDLE if NO_NEEDLE in item.options else NUMBERS[0])


def read_pixels(item: BenchmarkItem, video: MadeVideo) -> int:
    """Find the needles by comparing every frame with what needles look like; knows nothing of the plan's answers."""
    seen: list[str] = []
    for pixels, times in video.pieces():
        for frame, time in zip(pixels.permute(0, 2, 3, 1).numpy(), times, strict=True):
            background = MadeBackground().frame(video.plan.background + time, FRAMES)
            label = None if np.array_equal(frame, background) else _label(frame, background, video.plan)
            if label is not None and label not in seen:
                seen.append(label)
    if video.plan.cell.task == "retrieval":
        return item.options.index(seen[0] if seen else NO_NEEDLE)
    return item.options.index(NUMBERS[len(seen)] if video.plan.cell.task == "count" else ", ".join(seen))


def _label(frame: NDArray[np.uint8], background: NDArray[np.uint8], plan: PlannedVideo) -> str | None:
    """What a needle in a frame shows; None for a distractor."""
    kind = plan.cell.kind
    if kind in ("picture", "clip"):  # they replace the frame
        return _shown_by_frames(kind)[frame.tobytes()]
    seeds = [each.drawn.seed for each in plan.needles] if kind == "shape" else [0]  # where it is, not what
    for label in KINDS[kind].labels:
        for is_distractor in (False, True):
            needles = [DrawnNeedle(kind, label, is_distractor, seed) for seed in seeds]
            if any(np.array_equal(frame, paint_needle(background, needle)) for needle in needles):
                return None if is_distractor else label
    raise AssertionError(f"a frame of {plan.cell.name} shows something unknown")


@functools.cache
def _shown_by_frames(kind: NeedleKind) -> dict[bytes, str | None]:
    """What every possible frame of a needle that replaces it shows."""
    steps = [index / (2 * SIDE) for index in range(2 * SIDE)] if kind == "clip" else [0.0]
    empty = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    return {
        paint_needle(empty, DrawnNeedle(kind, label, is_distractor), step).tobytes(): None if is_distractor else label
        for label in KINDS[kind].labels
        for is_distractor in (False, True)
        for step in steps
    }
