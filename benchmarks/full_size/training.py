"""Measures a training step: forward, loss, backward with activation checkpointing, optimizer."""

import statistics
from collections.abc import Iterator
from typing import NamedTuple

import torch

from benchmarks.full_size.building import BridgeForm, Trains, build_model
from benchmarks.full_size.device import now, unless_out_of_memory
from benchmarks.full_size.sizes import Shape, Workload
from components.flops.step import ModelFlops, StepFlops, work_of
from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.model import VideoLanguageModel
from components.model_output import ModelOutput
from datamodules.batch import Batch
from lightning_modules.monitoring.device_memory import peak_memory

_RATE = 1e-5


class StepCost(NamedTuple):
    """Cost of a training step."""

    seconds: float  # median
    peak_gib: float  # of tensors on CUDA; on the CPU the process's, since it began
    flops: StepFlops
    trainable: int  # parameters
    loss: float  # after the last step; random weights begin near the logarithm of the vocabulary


class TrainingRow(NamedTuple):
    """A case and its cost; None if there was too little memory."""

    trains: Trains
    form: BridgeForm
    frames: int
    videos: int
    cost: StepCost | None


def measure_training(
    shape: Shape, form: BridgeForm, trains: Trains, workload: Workload, device: torch.device
) -> Iterator[TrainingRow]:
    """Build a model and measure its steps at every number of frames.

    Args:
        shape: Sizes of the parts.
        form: The bridge.
        trains: What trains.
        workload: How many frames, videos and steps.
        device: Where.

    Yields:
        One row a number of frames.
    """
    stepping = unless_out_of_memory(lambda: _Stepping(build_model(shape, form, trains, device), device))
    for frames in workload.frames:
        cost = None
        if stepping is not None:
            measure = stepping.measure
            cost = unless_out_of_memory(lambda: measure(make_batch(shape, workload, frames, device), workload))  # noqa: B023  called at once
        yield TrainingRow(trains, form, frames, workload.videos, cost)


def make_batch(shape: Shape, workload: Workload, num_frames: int, device: torch.device) -> Batch:
    """Videos of noise, one frame a second, and a conversation of random words about each."""
    generator = torch.Generator(device).manual_seed(0)
    side = int(shape.vision["image_size"])
    videos, tokens = workload.videos, workload.text_tokens
    frames = torch.randint(
        256, (videos * num_frames, 3, side, side), dtype=torch.uint8, device=device, generator=generator
    )
    vocabulary = int(shape.language["vocab_size"])
    ids = torch.randint(vocabulary, (videos, tokens), device=device, generator=generator)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, -workload.answer_tokens :] = ids[:, -workload.answer_tokens :]
    ids[:, 1] = VIDEO_PLACEHOLDER
    return Batch(
        frames=frames,
        frame_counts=torch.full((videos,), num_frames),
        frame_ms=1000 * torch.arange(num_frames, device=device).repeat(videos),
        picture_sizes=torch.zeros(videos, 2, dtype=torch.int64),
        input_ids=ids,
        text_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        video_index=torch.arange(videos)[:, None],
        questions=(),
    )


class _Stepping:
    """A model and its optimizer. The optimizer's states are created in the first step.

    Args:
        model: The model.
        device: Where it is.
    """

    def __init__(self, model: VideoLanguageModel, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._flops = ModelFlops(model)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # The fused form needs no temporary copy of all weights.
        self._optimizer = torch.optim.AdamW(self._trained, lr=_RATE, fused=True)

    def measure(self, batch: Batch, workload: Workload) -> StepCost:
        """Do the steps on one batch. Warm-up steps count for memory, not for time."""
        self._optimizer.zero_grad()  # a step that ran out of memory leaves gradients behind
        peak_memory(self._device)
        output = self._step(batch)
        seconds = []
        for number in range(1, workload.warm_up + workload.steps):
            begin = now(self._device)
            output = self._step(batch)
            if number >= workload.warm_up:
                seconds.append(now(self._device) - begin)
        return StepCost(
            seconds=statistics.median(seconds),
            peak_gib=next(iter(peak_memory(self._device).values())),
            flops=self._flops.of(work_of(batch, output)),
            trainable=sum(parameter.numel() for parameter in self._trained),
            loss=float(output.loss.detach()),
        )

    def _step(self, batch: Batch) -> ModelOutput:
        with torch.autocast(self._device.type, torch.bfloat16):
            output: ModelOutput = self._model(batch)
        output.loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        return output._replace(loss=output.loss.detach())
