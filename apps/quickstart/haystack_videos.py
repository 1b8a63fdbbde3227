"""Makes one needle-in-a-haystack video with its questions: plans, draws and encodes it."""

import dataclasses
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from apps.quickstart.clips import MAX_RUN, Backgrounds, Clip, Part, Run, plan_run, render
from apps.quickstart.haystack_questions import MAX_NEEDLES, NUMBERS, Task, conversations
from apps.quickstart.needles import COLOURS, SHAPES, Needle, paint

FRAMES_PER_SECOND = 2  # reading at this rate samples every frame
# With key frames only, at one quantiser, a frame decodes to the same pixels in every video. So a feature cache can
# encode it once.
_ENCODER_OPTIONS = {"preset": "ultrafast", "qp": "20", "g": "1", "bf": "0"}
_SHORTEST_SCENE = 2  # frames; the last scene of a video may be shorter
_LARGEST_TURN = 12.0  # degrees


@dataclass(frozen=True)
class Split:
    """Videos that go into shards of their own.

    Args:
        name: Start of the shards' names.
        num_videos: How many.
        min_frames: Frames of the shortest.
        max_frames: Frames of the longest.
        part: Part of the clips that they use.
        length: Name of the length in reports, ``meta.length`` of every sample.
        task: Their needles and questions.

    Raises:
        ValueError: The shortest video has too few frames for the task's needles, each on a frame of its own.
    """

    name: str
    num_videos: int
    min_frames: int
    max_frames: int
    part: Part
    length: str
    task: Task = "needle"

    def __post_init__(self) -> None:
        if self.min_frames < MAX_NEEDLES[self.task]:
            raise ValueError(
                f"split {self.name!r} has videos of {self.min_frames} frames, but the task {self.task!r} shows up to "
                f"{MAX_NEEDLES[self.task]} needles, each on a frame of its own; raise min_frames"
            )


def default_splits(num_train: int = 2000, num_one_segment: int = 600, num_eval: int = 80) -> tuple[Split, ...]:
    """Training videos of 4 to 16 frames, and held-out ones of 1, 2, 4 and 8 times 16.

    Args:
        num_train: Training videos of 4 to 16 frames.
        num_one_segment: Training videos of 4 frames, for the start of a curriculum.
        num_eval: Held-out videos of each length.
    """
    return (
        Split("train-one-segment", num_one_segment, 4, 4, "train", "one segment"),
        Split("train", num_train, 4, 16, "train", "train"),
        *(Split(f"eval-{times}x", num_eval, 16 * times, 16 * times, "held_out", f"{times}x") for times in (1, 2, 4, 8)),
    )


@dataclass(frozen=True)
class HaystackSettings:
    """Everything that decides what the videos are.

    Args:
        splits: What to make.
        frame_size: Side of the square frames in pixels; even (H.264), at most 120.
        seed: A video depends only on this, the name of its split and its index.
        num_train_scenes: Number of scenes, of up to six frames, from which training videos are joined. With few scenes
            there are few different frames, and a frozen encoder encodes each only once.
        num_held_out_scenes: The same for held-out videos.
        no_needle_share: Share of videos without a needle, in the task ``needle``.
        needle_sizes: Smallest and largest side of a needle, as a share of the frame's.
        videos_per_shard: Samples of a shard.
        backgrounds: How much backgrounds may differ from the clips.
    """

    splits: tuple[Split, ...] = dataclasses.field(default_factory=default_splits)
    frame_size: int = 112
    seed: int = 0
    num_train_scenes: int = 400
    num_held_out_scenes: int = 150
    no_needle_share: float = 0.17
    needle_sizes: tuple[float, float] = (0.38, 0.50)
    videos_per_shard: int = 250
    backgrounds: Backgrounds = "natural"


class VideoPlan(NamedTuple):
    """All random choices of one video."""

    num_frames: int
    runs: list[Run]
    needles: tuple[Needle, ...]  # in the order of their frames


class HaystackSample(NamedTuple):
    """One sample of a shard."""

    key: str
    mp4: bytes
    record: dict[str, Any]


def count_frames(settings: HaystackSettings, split: Split, index: int) -> int:
    """Frames of a video, without planning the rest of it."""
    return int(_random(settings, split.name, index).integers(split.min_frames, split.max_frames, endpoint=True))


def plan_video(settings: HaystackSettings, clips: Sequence[Clip], split: Split, index: int) -> VideoPlan:
    """Make all random choices of a video.

    Args:
        settings: What the videos are like.
        clips: What to cut backgrounds from.
        split: The video's split.
        index: The video's number in its split.
    """
    random = _random(settings, split.name, index)
    num_frames = int(random.integers(split.min_frames, split.max_frames, endpoint=True))
    return VideoPlan(
        num_frames=num_frames,
        runs=_join_scenes(random, settings, clips, split.part, num_frames),
        needles=_plan_needles(random, settings, split.task, num_frames),
    )


def make_sample(settings: HaystackSettings, clips: Sequence[Clip], split: Split, index: int) -> HaystackSample:
    """Draw a video, encode it and make its questions.

    Args:
        settings: What the videos are like.
        clips: What to cut backgrounds from.
        split: The video's split.
        index: The video's number in its split.
    """
    plan = plan_video(settings, clips, split, index)
    key = f"{split.name}-{index:06d}"
    meta = {"length": split.length, "num_frames": plan.num_frames, **_needle_meta(split.task, plan.needles)}
    asked = conversations(split.task, plan.needles, plan.num_frames, key)
    record = {"source": "haystack", "meta": meta, "conversations": asked}
    return HaystackSample(key, encode(draw_frames(settings, clips, plan)), record)


def draw_frames(settings: HaystackSettings, clips: Sequence[Clip], plan: VideoPlan) -> NDArray[np.uint8]:
    """Draw a planned video.

    Returns:
        RGB frames ``[T, size, size, 3]``.
    """
    frames = render(clips, plan.runs, settings.frame_size)
    for needle in plan.needles:
        paint(frames[needle.frame], needle)
    return frames


def encode(frames: NDArray[np.uint8]) -> bytes:
    """Encode frames as an H.264 mp4 at ``FRAMES_PER_SECOND``.

    Args:
        frames: RGB frames ``[T, H, W, 3]``, H and W even.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_ENCODER_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = (
            1  # other processes use the other cores, and bytes do not depend on their number
        )
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _random(settings: HaystackSettings, what: str, index: int) -> np.random.Generator:
    return np.random.default_rng((settings.seed, zlib.crc32(what.encode()), index))


def _join_scenes(
    random: np.random.Generator, settings: HaystackSettings, clips: Sequence[Clip], part: Part, num_frames: int
) -> list[Run]:
    num_scenes = settings.num_train_scenes if part == "train" else settings.num_held_out_scenes
    runs: list[Run] = []
    missing = num_frames
    while missing:
        scene = int(random.integers(num_scenes))
        choices = _random(settings, f"{part} scene", scene)
        run = plan_run(choices, clips, part, settings.frame_size, settings.backgrounds)
        length = min(int(random.integers(_SHORTEST_SCENE, MAX_RUN, endpoint=True)), len(run.frames), missing)
        start = int(random.integers(len(run.frames) - length, endpoint=True))
        runs.append(run._replace(frames=run.frames[start : start + length]))
        missing -= length
    return runs


def _plan_needles(
    random: np.random.Generator, settings: HaystackSettings, task: Task, num_frames: int
) -> tuple[Needle, ...]:
    if task == "needle":
        shown = random.random() >= settings.no_needle_share
        return (_plan_needle(random, settings, num_frames),) if shown else ()
    number = MAX_NEEDLES[task] if task == "order" else int(random.integers(len(NUMBERS)))
    frames = np.sort(random.choice(num_frames, number, replace=False))
    needles = [_plan_needle(random, settings, num_frames)._replace(frame=int(frame)) for frame in frames]
    if task == "order":
        colours = random.choice(list(COLOURS), number, replace=False)
        needles = [needle._replace(colour=str(colour)) for needle, colour in zip(needles, colours, strict=True)]
    return tuple(needles)


def _needle_meta(task: Task, needles: Sequence[Needle]) -> dict[str, int | str]:
    if task == "needle":
        return {"needle_frame": needles[0].frame if needles else -1}
    return {"needle_frames": ",".join(str(needle.frame) for needle in needles)}  # meta has no lists


def _plan_needle(random: np.random.Generator, settings: HaystackSettings, num_frames: int) -> Needle:
    smallest, largest = settings.needle_sizes
    size = round(settings.frame_size * random.uniform(smallest, largest))
    return Needle(
        shape=SHAPES[random.integers(len(SHAPES))],
        colour=tuple(COLOURS)[random.integers(len(COLOURS))],
        frame=int(random.integers(num_frames)),
        size=size,
        top=int(random.integers(settings.frame_size - size, endpoint=True)),
        left=int(random.integers(settings.frame_size - size, endpoint=True)),
        degrees=float(random.uniform(-_LARGEST_TURN, _LARGEST_TURN)),
    )
