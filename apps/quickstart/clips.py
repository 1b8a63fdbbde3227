"""Backgrounds for the haystacks: short runs of frames cut from real clips and joined."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "held_out"]

TRAIN_END = 0.70  # training videos use the clips before this share of their frames,
HELD_OUT_START = 0.75  # held-out videos the clips after this one; what lies between is used by neither
_HEIGHTS = (120, 160)  # frames are kept at these heights, so that crops differ in scale
_RUN_LENGTHS = (2, 6)  # frames of a run
_STEPS = (1, 6)  # clip frames from one frame of a run to the next: 0.04 to 0.24 s at 25 frames a second


class Clip(NamedTuple):
    """A decoded clip."""

    name: str
    scales: tuple[NDArray[np.uint8], ...]  # RGB frames [T, H, W, 3], once for each of the heights


class Run(NamedTuple):
    """Consecutive frames from one place of one clip."""

    clip: int
    scale: int
    frames: range
    top: int
    left: int
    mirrored: bool


class Look(NamedTuple):
    """How a video's colours differ from the clips': ``gain * value + offset`` in each channel."""

    gain: tuple[float, float, float]
    offset: float


def read_clip(path: Path) -> Clip:
    """Decode a whole clip at every scale.

    Args:
        path: A video file.

    Raises:
        ValueError: The file holds no frame.
    """
    scales: list[list[NDArray[np.uint8]]] = [[] for _ in _HEIGHTS]
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            for height, frames in zip(_HEIGHTS, scales, strict=True):
                width = round(height * frame.width / frame.height)
                frames.append(frame.reformat(width=width, height=height, format="rgb24").to_ndarray())
    if not scales[0]:
        raise ValueError(f"{path} holds no video frame; fetch the clips again with `python -m apps.quickstart.fetch`")
    return Clip(path.stem, tuple(np.stack(frames) for frames in scales))


def usable_frames(num_frames: int, part: Part) -> range:
    """Frames of a clip that training or held-out videos may show; the two never meet.

    Args:
        num_frames: Frames of the clip.
        part: Which videos.
    """
    if part == "train":
        return range(int(TRAIN_END * num_frames))
    return range(int(np.ceil(HELD_OUT_START * num_frames)), num_frames)


def plan_runs(random: np.random.Generator, clips: Sequence[Clip], part: Part, num_frames: int, size: int) -> list[Run]:
    """Choose the runs that make a video.

    Args:
        random: Source of every choice.
        clips: What to cut from.
        part: Which frames of the clips may be used.
        num_frames: Frames of the video.
        size: Side of the video's square frames, at most the smallest kept height.

    Returns:
        Runs whose frames add up to ``num_frames``.
    """
    runs: list[Run] = []
    missing = num_frames
    while missing:
        clip, scale = int(random.integers(len(clips))), int(random.integers(len(_HEIGHTS)))
        total, height, width, _ = clips[clip].scales[scale].shape
        usable = usable_frames(total, part)
        step = int(random.integers(_STEPS[0], _STEPS[1], endpoint=True))
        length = int(random.integers(_RUN_LENGTHS[0], _RUN_LENGTHS[1], endpoint=True))
        length = min(length, missing, 1 + (len(usable) - 1) // step)
        span = (length - 1) * step + 1
        start = usable.start + int(random.integers(len(usable) - span, endpoint=True))
        runs.append(
            Run(
                clip=clip,
                scale=scale,
                frames=range(start, start + span, step),
                top=int(random.integers(height - size, endpoint=True)),
                left=int(random.integers(width - size, endpoint=True)),
                mirrored=bool(random.integers(2)),
            )
        )
        missing -= length
    return runs


def plan_look(random: np.random.Generator) -> Look:
    """Choose a mild change of brightness, contrast and tint for a whole video."""
    brightness = random.uniform(0.8, 1.15)
    red, green, blue = (float(brightness * random.uniform(0.94, 1.06)) for _ in range(3))
    return Look(gain=(red, green, blue), offset=float(random.uniform(-12, 12)))


def render(clips: Sequence[Clip], runs: Sequence[Run], look: Look, size: int) -> NDArray[np.uint8]:
    """Cut the runs from the clips and join them.

    Args:
        clips: What the runs were planned for.
        runs: The runs.
        look: Change of colours.
        size: Side of the square frames in pixels.

    Returns:
        RGB frames ``[T, size, size, 3]``.
    """
    pieces = []
    for run in runs:
        frames = clips[run.clip].scales[run.scale][run.frames.start : run.frames.stop : run.frames.step]
        piece = frames[:, run.top : run.top + size, run.left : run.left + size]
        pieces.append(piece[:, :, ::-1] if run.mirrored else piece)
    video = np.concatenate(pieces)
    values = np.arange(256)
    for channel, gain in enumerate(look.gain):
        table = np.clip(np.rint(gain * values + look.offset), 0, 255).astype(np.uint8)
        video[..., channel] = table[video[..., channel]]
    return video
