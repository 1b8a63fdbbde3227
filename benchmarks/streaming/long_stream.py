"""Cost of a frame, memory and latency of an answer after minutes and after hours of one video."""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from components.bridges.recurrent import RecurrentMemoryBridge
from components.model import VideoLanguageModel
from components.segmenters.scene_tilling import SceneTilling
from components.streaming import StreamingSession

SELECTIVE, BOUNDED, SCENES = "selective", "fixed capacity", "selective, SceneTilling"
UNSELECTED = "cache without selection"
_MS_A_FRAME = 1000
_BLOCK_FRAMES = 20  # are timed together: only some frames close a segment


class Point(NamedTuple):
    """What was measured after some frames of a video."""

    frames: int
    frame_seconds: float  # median over blocks of frames
    state_bytes: int
    answer_seconds: float  # median


class Window(NamedTuple):
    """The frames whose cost is measured at every point: the same ones, so that their content makes no difference."""

    frames: Tensor
    rounds: int


def shuffled(videos: Sequence[Tensor], seed: int = 0) -> Iterator[Tensor]:
    """Frames of the videos without end: all videos in random order, then in another order, and so on."""
    draw = random.Random(seed)
    while True:
        for number in draw.sample(range(len(videos)), len(videos)):
            yield from videos[number]


def memories(model: VideoLanguageModel, capacity: int) -> dict[str, VideoLanguageModel]:
    """The model with each of the memories that are compared; weights are the same.

    The memory of fixed capacity may hold every segment, so it is soon full, and then drops one with each segment. That
    is the most that it can cost.

    Args:
        model: A model with a selective recurrent bridge.
        capacity: Segments that the memory of fixed capacity holds.

    Raises:
        ValueError: The model has another bridge.
    """
    bridge = model.readers.get("memory")
    if not isinstance(bridge, RecurrentMemoryBridge) or bridge.update is None:
        raise ValueError("the benchmark needs a model whose one reader is a selective RecurrentMemoryBridge")
    bounded, unselected, scenes = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    settings = replace(bridge.update.settings, capacity=capacity, admit_logit=-math.inf)
    bounded.bridge.update.settings = settings  # type: ignore[union-attr]
    unselected.bridge.register_module("update", None)
    scenes.segmenter = SceneTilling(alpha=1.0, max_segment_frames=4)
    return {SELECTIVE: model, BOUNDED: bounded, UNSELECTED: unselected, SCENES: scenes}


def walk(
    model: VideoLanguageModel,
    videos: Sequence[Tensor],
    points: Sequence[int],
    window: Window,
    question: str,
    clock: Callable[[], float],
) -> list[Point]:
    """Play one long video, and measure after so many frames.

    The sessions at the points are copied, and measured afterwards in turns: what else the machine does falls on all
    alike.

    Args:
        model: A model of cached features.
        videos: Features of the frames of every video, ``[T, rows, width]``.
        points: Numbers of frames, ascending.
        window: Frames that each of the sessions is given to measure their cost.
        question: Asked at every point.
        clock: Seconds.
    """
    session, sessions = StreamingSession(model), []
    for frame in islice(shuffled(videos), points[-1]):
        session.push(frame[None], [_MS_A_FRAME * session.num_frames])
        if session.num_frames in points:
            sessions.append(_copied(session))
    costs: list[list[float]] = [[] for _ in sessions]
    latencies: list[list[float]] = [[] for _ in sessions]
    for _ in range(window.rounds):
        for place, each in enumerate(sessions):
            costs[place] += _seconds_a_frame(_copied(each), window.frames, clock)
            start = clock()
            each.ask(question, model.training_facts.max_new_tokens)
            latencies[place].append(clock() - start)
    measured = zip(sessions, costs, latencies, strict=True)
    return [Point(each.num_frames, median(cost), each.state_bytes, median(took)) for each, cost, took in measured]


def _copied(session: StreamingSession) -> StreamingSession:
    """A session that goes on from here by itself, with the same model."""
    return copy.deepcopy(session, {id(session.model): session.model})


def _seconds_a_frame(session: StreamingSession, frames: Tensor, clock: Callable[[], float]) -> list[float]:
    """Seconds a frame of each block of frames, pushed one by one."""
    seconds = []
    for block in torch.split(frames, _BLOCK_FRAMES):
        start = clock()
        for frame in block:
            session.push(frame[None], [_MS_A_FRAME * session.num_frames])
        seconds.append((clock() - start) / len(block))
    return seconds[1:]  # the first one touches copied memory for the first time
