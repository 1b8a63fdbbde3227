"""Finds the longest video that fits: read at once, as in evaluation, and streamed, as during playback."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.full_size.building import QUESTION, BridgeForm, build_model, read_every_frame
from benchmarks.full_size.device import largest_that_fits, now, unless_out_of_memory
from benchmarks.full_size.sizes import Shape, Workload
from components.flops.step import ModelFlops, StepWork
from components.interfaces import VisualReader, VisualTokens
from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from components.streams import MEMORY_STREAM
from datamodules.batch import Batch
from lightning_modules.monitoring.device_memory import peak_memory

Way = Literal["whole", "streamed"]
WAYS: tuple[Way, ...] = ("whole", "streamed")
_FRAMES_A_PUSH = 64  # what the encoder takes at once


class Reading(NamedTuple):
    """Cost of reading a video and answering a question about it."""

    seconds: float  # until the language model could see
    answer_seconds: float
    peak_gib: float  # of tensors on CUDA; on the CPU the process's, since it began
    groups: tuple[int, ...]  # frames that the bridge read, by segment


class InferenceRow(NamedTuple):
    """The longest video of one bridge, read in one way; without a reading if not even the smallest fits."""

    way: Way
    form: BridgeForm
    frames: int
    is_most: bool  # a longer one was not tried
    reading: Reading | None
    flops: float  # of encoder and bridge


def measure_inference(
    shape: Shape, form: BridgeForm, workload: Workload, device: torch.device
) -> Iterator[InferenceRow]:
    """Build a frozen model and show for the longest video that it can read, in both ways.

    Args:
        shape: Sizes of the parts.
        form: The bridge.
        workload: What lengths to try.
        device: Where.

    Yields:
        One row a way.
    """
    model = unless_out_of_memory(lambda: build_model(shape, form, None, device))
    for way in WAYS:
        row = InferenceRow(way, form, 0, False, None, 0.0)
        yield row if model is None else _longest(model, row, shape, workload, device)


def _longest(
    model: VideoLanguageModel, row: InferenceRow, shape: Shape, workload: Workload, device: torch.device
) -> InferenceRow:
    if row.way == "streamed":
        read_every_frame(model)
    show = show_all if row.way == "whole" else show_streamed
    most = workload.most_frames if row.way == "whole" else workload.most_streamed
    side = int(shape.vision["image_size"])

    def attempt(num_frames: int) -> Reading | None:
        return unless_out_of_memory(lambda: read_video(model, show, num_frames, side, workload.new_tokens, device))

    found = largest_that_fits(attempt, min(workload.first_frames, most), most, workload.grain)
    if found is None:
        return row
    (frames, is_most), reading = found
    return row._replace(
        frames=frames, is_most=is_most, reading=reading, flops=flops_of_reading(model, frames, reading.groups)
    )


Show = Callable[[VideoLanguageModel, int, int, torch.device], VisualTokens]


@torch.no_grad()
def read_video(
    model: VideoLanguageModel, show: Show, num_frames: int, side: int, new_tokens: int, device: torch.device
) -> Reading:
    """Read a video of noise and answer a question about it.

    Args:
        model: In evaluation mode.
        show: One of ``show_all`` and ``show_streamed``.
        num_frames: Frames of the video.
        side: Of a frame, in pixels.
        new_tokens: Longest answer.
        device: Of the model.
    """
    peak_memory(device)
    begin = now(device)
    with _GroupsRead(model.bridge) as groups:
        visual = show(model, num_frames, side, device)
    seen = now(device)
    model.language_model.generate(visual, model.language_model.prompts([QUESTION]), new_tokens)
    answered = now(device)
    peak = next(iter(peak_memory(device).values()))
    return Reading(seen - begin, answered - seen, peak, groups.counts())


def show_all(model: VideoLanguageModel, num_frames: int, side: int, device: torch.device) -> VisualTokens:
    """Show all frames at once."""
    text = model.language_model.prompts([QUESTION])
    count = torch.tensor([num_frames])
    times = 1000 * torch.arange(num_frames, device=device)
    no_picture = torch.zeros(1, 2, dtype=torch.int64)
    return model.visual_tokens(Batch(_noise(num_frames, side, device), count, times, no_picture, *text, questions=()))


def show_streamed(model: VideoLanguageModel, num_frames: int, side: int, device: torch.device) -> VisualTokens:
    """Show a few frames at a time; no frame is stored."""
    session = StreamingSession(model)
    for start in range(0, num_frames, _FRAMES_A_PUSH):
        end = min(start + _FRAMES_A_PUSH, num_frames)
        session.push(_noise(end - start, side, device), 1000 * torch.arange(start, end))
    return session.visual_tokens()


def flops_of_reading(model: VideoLanguageModel, num_frames: int, groups: tuple[int, ...]) -> float:
    """Operations of encoder and bridge for one video, without the readout; the model must be frozen."""
    none = torch.empty(0, dtype=torch.int64)
    read = {MEMORY_STREAM: torch.tensor([groups])}
    work = StepWork(torch.tensor([num_frames]), read, torch.empty(0, 1, dtype=torch.int64), none, none, none)
    return ModelFlops(model).of(work).total


def _noise(num_frames: int, side: int, device: torch.device) -> Tensor:
    return torch.randint(256, (num_frames, 3, side, side), dtype=torch.uint8, device=device)


class _GroupsRead:
    """Notes how many frames of one video the bridge reads in every call."""

    def __init__(self, bridge: VisualReader[Any]) -> None:
        self._bridge = bridge
        self._masks: list[Tensor] = []

    def __enter__(self) -> "_GroupsRead":
        self._listening = self._bridge.register_forward_pre_hook(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.remove()

    def counts(self) -> tuple[int, ...]:
        """Frames by call."""
        return tuple(torch.stack(self._masks).tolist())

    def _note(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self._masks.append(inputs[0].frame_mask.sum())  # not asked for yet, so that no call waits for the device
