"""Asks questions about a video that plays: each sees the video up to its own time, and every frame is read once."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings
from components.streaming import StreamingSession
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from datamodules.benchmarks.media_search import find_media
from datamodules.errors import SampleError
from datamodules.media.sample_media import SampleMedia
from membridge.evaluation.asked_item import AskedItem
from membridge.evaluation.item_answers import AskingSettings, answer_prompts, check_part, problem_of, turns_of
from membridge.media_files import read_media_file

_PIECE_S = 60
"""Seconds of video that are decoded at once; only so much of it is in memory."""


def check_can_play(model: VideoLanguageModel, items: Sequence[BenchmarkItem]) -> None:
    """Refuse what no session can be asked.

    Raises:
        ValueError: The model cannot stream, or reads a number of frames that depends on the length of the video; or an
            item shows several media, or a folder of frames.
    """
    instead = "ask about the video up to each question's time instead: --timed clip"
    try:
        StreamingSession(model)
    except ValueError as error:
        raise ValueError(f"{error}; or {instead}") from error
    if model.training_facts.frames.fps is None:
        raise ValueError(
            f"this model reads {model.training_facts.frames.num_frames} frames of every video, so a video that plays "
            f"has no rate of frames; {instead}"
        )
    for item in items:
        if item.ask_ms is not None and (len(item.media) != 1 or item.media[0].frames_per_second is not None):
            raise ValueError(f"item {item.id} does not show one file of a video, so nothing can play; {instead}")


@torch.no_grad()
def ask_while_playing(
    model: VideoLanguageModel,
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    folder: Path,
    settings: AskingSettings,
) -> list[AskedItem]:
    """Play one video to a streaming session, and ask every question at its time.

    Args:
        model: A model that can stream, whose frame settings have ``fps``.
        benchmark: Writes the prompts.
        items: Questions about the same part of one video, each with ``ask_ms``.
        folder: The folder of media.
        settings: How questions are asked.

    Returns:
        An answer for each question, or the reason why it has none.

    Raises:
        OSError: The video is missing.
        SampleError: The video cannot be decoded.
        ValueError: The model cannot stream, see ``check_can_play``.
    """
    [part] = items[0].media
    check_part(part)
    session = StreamingSession(model)
    frames = _Frames(find_media(folder, part.path), part, model.training_facts.frames, max(map(_ask_ms, items)))
    answers: dict[int, AskedItem] = {}
    begin = time.perf_counter()
    for number in sorted(range(len(items)), key=lambda index: _ask_ms(items[index])):
        item = items[number]
        for pixels, frame_ms in frames.until(_ask_ms(item)):
            session.push(pixels, frame_ms)
        read = time.perf_counter() - begin
        if not session.num_frames:
            answers[number] = AskedItem(error=f"no frame is shown before {_ask_ms(item) / 1000:g} s")
            continue
        answers[number] = _ask(model, benchmark, item, session, frames.shown_ms, settings)._replace(read_seconds=read)
        begin = time.perf_counter()
    return [answers[number] for number in range(len(items))]


def _ask(
    model: VideoLanguageModel,
    benchmark: Benchmark,
    item: BenchmarkItem,
    session: StreamingSession,
    shown_ms: list[int],
    settings: AskingSettings,
) -> AskedItem:
    begin = time.perf_counter()
    prompt = benchmark.prompt(item, [shown_ms])
    problem = problem_of(prompt, item, 1)
    if problem:
        return AskedItem(error=problem)
    text = model.language_model.prompts([turns_of(prompt, 1)])
    try:
        [answer] = answer_prompts(model, [prompt], text, session.visual_tokens(text), settings)
    except TextLimitError as error:
        return AskedItem(error=error.reason)
    seconds = time.perf_counter() - begin
    return answer._replace(frames=session.num_frames, shown_s=shown_ms[-1] / 1000, answer_seconds=seconds)


class _Frames:
    """The frames of a video in the order of time, decoded piece by piece.

    Frames are those at the centres of slices of ``1 / fps`` seconds, as for the complete video.
    """

    def __init__(self, path: Path, part: MediaPart, settings: FrameSettings, last_ms: int) -> None:
        self.shown_ms: list[int] = []
        self._pieces = self._decoded(path, part, settings, last_ms)
        self._next: SampleMedia | None = None

    def until(self, end_ms: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """The frames that were not given yet and are shown before ``end_ms``, a piece at a time."""
        while True:
            self._next = self._next or next(self._pieces, None)
            if self._next is None:
                return
            count = int((self._next.frame_ms < end_ms).sum())
            if count:
                times: list[int] = self._next.frame_ms[:count].tolist()
                self.shown_ms += times
                yield self._next.frames[:count], times
            if count < len(self._next.frame_ms):
                self._next = SampleMedia(self._next.frames[count:], self._next.frame_ms[count:])
                return
            self._next = None

    def _decoded(self, path: Path, part: MediaPart, settings: FrameSettings, last_ms: int) -> Iterator[SampleMedia]:
        """Pieces of the video with times from the beginning of the part on."""
        assert settings.fps is not None
        by_time = FrameSettings(settings.size, settings.fit, None, settings.fps)
        first, piece_ms = part.start_ms or 0, max(1, round(_PIECE_S * settings.fps)) * 1000 / settings.fps
        end = first + last_ms if part.end_ms is None else min(part.end_ms, first + last_ms)
        for number in range(2**31):
            start, stop = round(first + number * piece_ms), round(first + (number + 1) * piece_ms)
            if start >= end:
                return
            try:
                piece = read_media_file(path, by_time, start_ms=start, end_ms=stop)
            except SampleError as error:
                if number and type(error) is SampleError:  # the video ended exactly where this piece begins
                    return
                raise
            yield SampleMedia(piece.frames, piece.frame_ms + (start - first))


def _ask_ms(item: BenchmarkItem) -> int:
    assert item.ask_ms is not None
    return item.ask_ms
