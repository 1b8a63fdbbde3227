"""Frames a second of several videos at once that share encoder and language model."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from apps.quickstart.clips import read_clip
from components.interfaces import FrameEncoder
from components.model import VideoLanguageModel
from components.streaming import NextFrames, StreamingSession
from membridge.session_group import SessionGroup

_SIZE = 84
_MS_A_FRAME = 1000


class Shared(NamedTuple):
    """What was measured with so many sessions."""

    sessions: int
    alone: float  # frames a second, each session pushed by itself
    together: float  # frames a second, frames of all sessions encoded in one call
    same_answers: bool


def clip_frames(clips: Sequence[Path]) -> Tensor:
    """The middle of every frame of the clips, uint8 ``[F, 3, 84, 84]``."""
    middles = []
    for clip in clips:
        frames = torch.from_numpy(read_clip(clip).scales[0])
        top, left = (frames.shape[1] - _SIZE) // 2, (frames.shape[2] - _SIZE) // 2
        middles.append(frames[:, top : top + _SIZE, left : left + _SIZE].permute(0, 3, 1, 2))
    return torch.cat(middles)


def with_encoder(model: VideoLanguageModel, encoder: FrameEncoder) -> VideoLanguageModel:
    """The model of cached features with the encoder that the features came from."""
    pixels = copy.deepcopy(model)
    pixels.encoder = encoder
    return pixels.eval()


def measure_sessions(
    model: VideoLanguageModel,
    frames: Tensor,
    counts: Sequence[int],
    num_frames: int,
    question: str,
    clock: Callable[[], float],
) -> list[Shared]:
    """Let 1, 4, ... videos play, a frame of each at a time.

    Args:
        model: A model that reads pixels.
        frames: Frames of clips; every session plays another part of them.
        counts: Numbers of sessions.
        num_frames: Frames that each session is given.
        question: Asked at the end of every session.
        clock: Seconds.
    """
    measured = []
    for count in counts:
        starts = [len(frames) * number // count for number in range(count)]
        videos = [frames.roll(-start, 0)[torch.arange(num_frames) % len(frames)] for start in starts]
        group = SessionGroup(model)
        together, alone = ([group.open() for _ in videos] for _ in range(2))
        begin = clock()
        _play(together, videos, group.push)
        middle = clock()
        _play(alone, videos, _one_by_one)
        end = clock()
        total = count * num_frames
        longest = model.training_facts.max_new_tokens
        pairs = zip(together, alone, strict=True)
        same = all(one.ask(question, longest) == other.ask(question, longest) for one, other in pairs)
        measured.append(Shared(count, total / (end - middle), total / (middle - begin), same))
    return measured


def _play(
    sessions: Sequence[StreamingSession], videos: Sequence[Tensor], push: Callable[[list[NextFrames]], None]
) -> None:
    for number in range(len(videos[0])):
        each = zip(sessions, videos, strict=True)
        push([NextFrames(session, video[number : number + 1], [_MS_A_FRAME * number]) for session, video in each])


def _one_by_one(given: list[NextFrames]) -> None:
    for session, frames, frame_ms in given:
        session.push(frames, frame_ms)
