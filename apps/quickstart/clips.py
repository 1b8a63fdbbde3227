"""Makes backgrounds of the videos: short runs of frames, cut from real clips and joined."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "held_out"]
Backgrounds = Literal["natural", "varied"]  # varied ones are also rotated, with unnatural colours

TRAIN_END = 0.70  # training videos use the frames of a clip before this share,
HELD_OUT_START = 0.75  # held-out videos those after this one; no video uses those between
_HEIGHTS = (120, 160, 240)  # frames are stored at these heights, so that crops differ in scale
_NATURAL_HEIGHTS = 2  # natural backgrounds show the first of them
MAX_RUN = 6  # frames
_STEPS = (1, 6)  # clip frames from one frame of a run to the next: 0.04 to 0.24 s at 25 frames a second


class Clip(NamedTuple):
    """A decoded clip."""

    name: str
    scales: tuple[NDArray[np.uint8], ...]  # RGB frames [T, H, W, 3], once for each of the heights


class ColourChange(NamedTuple):
    """How colours differ from the clip's: ``gain * value + offset`` in each channel."""

    gain: tuple[float, float, float]
    offset: float
    channels: tuple[int, int, int] = (0, 1, 2)  # of the clip, where the gains apply


class Run(NamedTuple):
    """Consecutive frames of one clip, cropped at one position."""

    clip: int
    scale: int
    frames: range
    top: int
    left: int
    mirrored: bool
    colours: ColourChange
    turns: int = 0  # by 90 degrees each


def read_clip(path: Path) -> Clip:
    """Decode a clip at every scale.

    Args:
        path: A video file.

    Raises:
        ValueError: The file has no frame.
    """
    scales: list[list[NDArray[np.uint8]]] = [[] for _ in _HEIGHTS]
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            for height, frames in zip(_HEIGHTS, scales, strict=True):
                width = round(height * frame.width / frame.height)
                frames.append(frame.reformat(width=width, height=height, format="rgb24").to_ndarray())
    if not scales[0]:
        raise ValueError(f"{path} has no video frame; fetch the clips again with `python -m apps.quickstart.fetch`")
    return Clip(path.stem, tuple(np.stack(frames) for frames in scales))


def usable_frames(num_frames: int, part: Part) -> range:
    """Frames of a clip that training or held-out videos may use. They do not overlap.

    Args:
        num_frames: Frames of the clip.
        part: Which videos.
    """
    if part == "train":
        return range(int(TRAIN_END * num_frames))
    return range(int(np.ceil(HELD_OUT_START * num_frames)), num_frames)


def plan_run(
    random: np.random.Generator, clips: Sequence[Clip], part: Part, size: int, backgrounds: Backgrounds = "natural"
) -> Run:
    """Choose a run.

    Args:
        random: Source of randomness.
        clips: What to cut from.
        part: Which frames of the clips may be used.
        size: Side of the square crop in pixels, at most the smallest height.
        backgrounds: How much a run may differ from its clip. Three clips have few scenes; with varied backgrounds a
            model memorises them less.

    Returns:
        A run of ``MAX_RUN`` frames, or of fewer from a very short clip.
    """
    varied = backgrounds == "varied"
    num_scales = len(_HEIGHTS) if varied else _NATURAL_HEIGHTS
    clip, scale = int(random.integers(len(clips))), int(random.integers(num_scales))
    total, height, width, _ = clips[clip].scales[scale].shape
    usable = usable_frames(total, part)
    step = int(random.integers(_STEPS[0], _STEPS[1], endpoint=True))
    length = min(MAX_RUN, 1 + (len(usable) - 1) // step)
    span = (length - 1) * step + 1
    start = usable.start + int(random.integers(len(usable) - span, endpoint=True))
    return Run(
        clip=clip,
        scale=scale,
        frames=range(start, start + span, step),
        top=int(random.integers(height - size, endpoint=True)),
        left=int(random.integers(width - size, endpoint=True)),
        mirrored=bool(random.integers(2)),
        colours=_plan_varied_colours(random) if varied else _plan_colours(random),
        turns=int(random.integers(4)) if varied else 0,
    )


def render(clips: Sequence[Clip], runs: Sequence[Run], size: int) -> NDArray[np.uint8]:
    """Cut the runs from the clips and join them.

    Args:
        clips: What the runs were planned for.
        runs: The runs.
        size: Side of the square frames in pixels.

    Returns:
        RGB frames ``[T, size, size, 3]``.
    """
    return np.concatenate([_render_run(clips[run.clip].scales[run.scale], run, size) for run in runs])


def _plan_colours(random: np.random.Generator) -> ColourChange:
    brightness = random.uniform(0.8, 1.15)
    red, green, blue = (float(brightness * random.uniform(0.94, 1.06)) for _ in range(3))
    return ColourChange(gain=(red, green, blue), offset=float(random.uniform(-12, 12)))


def _plan_varied_colours(random: np.random.Generator) -> ColourChange:
    brightness = random.uniform(0.55, 1.3)
    red, green, blue = (float(brightness * random.uniform(0.75, 1.25)) for _ in range(3))
    first, second, third = (int(channel) for channel in random.permutation(3))
    offset = float(random.uniform(-30, 30))
    return ColourChange(gain=(red, green, blue), offset=offset, channels=(first, second, third))


def _render_run(frames: NDArray[np.uint8], run: Run, size: int) -> NDArray[np.uint8]:
    chosen = frames[run.frames.start : run.frames.stop : run.frames.step]
    crop = chosen[:, run.top : run.top + size, run.left : run.left + size]
    if run.mirrored:
        crop = crop[:, :, ::-1]
    crop = np.rot90(crop, run.turns, axes=(1, 2))
    values = np.arange(256)
    tables = [
        np.clip(np.rint(gain * values + run.colours.offset), 0, 255).astype(np.uint8) for gain in run.colours.gain
    ]
    shown = zip(tables, run.colours.channels, strict=True)
    return np.stack([table[crop[..., channel]] for table, channel in shown], axis=-1)
