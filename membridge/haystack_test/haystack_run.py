"""Asks a model the questions of the haystack test: every video is made, read once, and forgotten."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from command_errors import explain
from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings
from components.streaming import StreamingSession
from datamodules.benchmarks.item import BenchmarkItem, Prompt
from datamodules.errors import SampleError
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, planned_video
from datamodules.media.sample_media import SampleMedia
from membridge.evaluation.asked_item import AskedItem
from membridge.evaluation.benchmark_run import BenchmarkRun
from membridge.evaluation.item_answers import AskingSettings, ReadMedia, answer_prompts, ask_items, turns_of
from membridge.evaluation.scorers import SCORERS, Scorer
from membridge.haystack_test.backgrounds import Background
from membridge.haystack_test.made_video import MadeVideo
from membridge.opened_medium import read_medium

Reading = Literal["session", "complete"]
"""``session``: frames are pushed to a streaming session, a piece at a time, however many they are. ``complete``: the
frames that the model chooses of a file are read together."""


class HaystackRun(BenchmarkRun):
    """The haystack test of one model, and the answers so far; see ``BenchmarkRun``.

    Args:
        benchmark: The grid.
        items: Its questions.
        background: The haystack.
        out: Folder of the answers.
        settings: Model and settings as plain values; answers of others are not continued.
        asking: How questions are asked.
        reading: How the model reads a video.
        scorers: Which answers are right.
    """

    def __init__(
        self,
        benchmark: HaystackBenchmark,
        items: Sequence[BenchmarkItem],
        background: Background,
        out: Path,
        settings: Mapping[str, Any],
        asking: AskingSettings = AskingSettings(),  # noqa: B008  frozen
        reading: Reading = "session",
        scorers: Sequence[Scorer] = SCORERS,
    ) -> None:
        # There is no folder of media: a video's path is its name.
        super().__init__(benchmark, items, Path(), out, settings, asking, scorers=scorers)
        self.background = background
        self.reading = reading

    def ask_group(self, model: VideoLanguageModel, items: Sequence[BenchmarkItem]) -> list[AskedItem]:
        """Make the video of questions, let the model read it, and ask; see ``BenchmarkRun.ask_group``."""
        video = MadeVideo(planned_video(items[0]), self.background, frames_read(model, self.reading))
        try:
            if self.reading == "session":
                return self._ask_session(model, items, video)
            begin = time.perf_counter()
            frames = torch.cat([pixels for pixels, _ in video.pieces()])
            medium = read_medium(model, video.plan.cell.name, SampleMedia(frames, torch.tensor(video.frame_ms)))
        except (OSError, SampleError) as error:  # of the clips
            return [AskedItem(error=explain(error) or str(error))] * len(items)
        read = ReadMedia([medium], time.perf_counter() - begin)
        return ask_items(model, self.benchmark, items, read, self.asking)

    @torch.no_grad()
    def _ask_session(
        self, model: VideoLanguageModel, items: Sequence[BenchmarkItem], video: MadeVideo
    ) -> list[AskedItem]:
        begin = time.perf_counter()
        session = StreamingSession(model)
        for pixels, frame_ms in video.pieces():
            session.push(pixels, frame_ms)
        read_seconds = (time.perf_counter() - begin) / len(items)
        prompts = [self.benchmark.prompt(item, [video.frame_ms]) for item in items]
        answers: list[AskedItem] = []
        for first in range(0, len(prompts), self.asking.at_once):
            answers += self._ask_prompts(model, session, prompts[first : first + self.asking.at_once])
        count, end = session.num_frames, video.frame_ms[-1] / 1000
        return [
            each if each.error else each._replace(frames=count, shown_s=end, read_seconds=read_seconds)
            for each in answers
        ]

    def _ask_prompts(
        self, model: VideoLanguageModel, session: StreamingSession, prompts: Sequence[Prompt]
    ) -> list[AskedItem]:
        """Ask prompts together; where one is too long, each by itself."""
        begin = time.perf_counter()
        text = model.language_model.prompts([turns_of(prompt, 1) for prompt in prompts])
        try:
            answers = answer_prompts(model, prompts, text, session.visual_tokens(text), self.asking)
        except TextLimitError as error:
            if len(prompts) == 1:
                return [AskedItem(error=error.reason)]
            return [answer for prompt in prompts for answer in self._ask_prompts(model, session, [prompt])]
        seconds = (time.perf_counter() - begin) / len(prompts)
        return [answer._replace(answer_seconds=seconds) for answer in answers]


def usual_reading(model: VideoLanguageModel) -> Reading:
    """``session`` for a model that can stream and reads frames by time; ``complete`` for others.

    Args:
        model: A model in evaluation mode.
    """
    if model.training_facts.frames.fps is None:
        return "complete"
    try:
        StreamingSession(model)
    except ValueError:
        return "complete"
    return "session"


def frames_read(model: VideoLanguageModel, reading: Reading) -> FrameSettings:
    """How a model reads the frames of a video. A session gets frames as they come, so it has no ``max_frames``.

    Args:
        model: The model.
        reading: How the model reads a video.
    """
    frames = model.training_facts.frames
    return replace(frames, max_frames=None) if reading == "session" else frames


def num_unseen(items: Sequence[BenchmarkItem], background: Background, frames: FrameSettings) -> int:
    """Number of videos of which a model's frames miss a needle, because they are too far apart in time.

    Args:
        items: The questions.
        background: The haystack.
        frames: How the model reads videos.
    """
    plans = {item.group: planned_video(item) for item in items}
    return sum(
        MadeVideo(plan, background, frames).needles_seen < sum(not each.drawn.is_distractor for each in plan.needles)
        for plan in plans.values()
    )
