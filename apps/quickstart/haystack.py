"""Makes needle-in-a-haystack videos from real clips and packs them: ``python -m apps.quickstart.haystack``.

A video is joined from short scenes of the clips. One frame has a coloured shape, the needle. The questions ask for its
colour, its shape, and whether it was at the beginning or at the end. Some videos have no needle, and every answer is
``none``. (Two other tasks, for studies of memory, have several needles: ``apps.quickstart.haystack_questions``.)
Training videos use the first 70 % of each clip's frames and held-out videos the last 25 %, so no frame is in both.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from apps.quickstart.clips import Clip, read_clip
from apps.quickstart.fetch import fetch_parts
from apps.quickstart.haystack_videos import (
    HaystackSample,
    HaystackSettings,
    Split,
    count_frames,
    default_splits,
    make_sample,
)
from command_errors import run_and_exit
from datamodules.shards.shard_writer import ShardWriter

_RECIPE = 4  # part of the fingerprint; raise it when the same settings give other videos or questions
_MANIFEST = "haystack.json"
_VIDEOS_A_TASK = 16


class HaystackShards(NamedTuple):
    """Paths and sizes of the shards, by split."""

    folder: Path
    shards: dict[str, tuple[Path, ...]]
    num_videos: dict[str, int]
    num_frames: dict[str, int]
    num_questions: dict[str, int]


def build_haystack(
    settings: HaystackSettings, clips: Sequence[Path], out: Path, *, workers: int = 2, progress: bool = True
) -> HaystackShards:
    """Make the shards, unless they exist.

    The folder appears when it is complete. Shards of the same settings and clips are kept, others are replaced.

    Args:
        settings: Settings of the videos.
        clips: Video files to cut backgrounds from.
        out: Folder for the shards.
        workers: Processes.
        progress: Whether to show a progress bar.

    Returns:
        Paths and sizes of the shards.

    Raises:
        FileExistsError: ``out`` has other files, which must not be replaced.
    """
    fingerprint = _fingerprint(settings, clips)
    made = _read_manifest(out)
    if made is not None and made["fingerprint"] == fingerprint and _is_complete(out, made):
        return _shards(out, made)
    if made is None and out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty and has no {_MANIFEST}; choose another folder or empty it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        built = Path(scratch) / "haystack"
        built.mkdir()
        splits = _write_splits(settings, tuple(clips), built, workers, progress)
        made = {"fingerprint": fingerprint, "settings": dataclasses.asdict(settings), "splits": splits}
        (built / _MANIFEST).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        built.rename(out)
    return _shards(out, made)


class _Map(Protocol):
    def __call__(self, function: Any, tasks: Any, /) -> Iterator[list[HaystackSample]]: ...


def _write_splits(
    settings: HaystackSettings, clips: tuple[Path, ...], folder: Path, workers: int, progress: bool
) -> dict[str, Any]:
    total = sum(count_frames(settings, split, index) for split in settings.splits for index in range(split.num_videos))
    with (
        _mapper(workers) as map_tasks,
        tqdm(total=total, unit="frame", desc="haystack videos", disable=not progress, dynamic_ncols=True) as bar,
    ):
        return {split.name: _write_split(settings, clips, split, folder, map_tasks, bar) for split in settings.splits}


@contextmanager
def _mapper(workers: int) -> Iterator[_Map]:
    if workers == 1:
        yield map
        return
    # A fork would copy a process that may have torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield pool.map


def _write_split(
    settings: HaystackSettings,
    clips: tuple[Path, ...],
    split: Split,
    folder: Path,
    map_tasks: _Map,
    bar: "tqdm[Any]",
) -> dict[str, Any]:
    videos = range(split.num_videos)
    tasks = [videos[start : start + _VIDEOS_A_TASK] for start in range(0, len(videos), _VIDEOS_A_TASK)]
    num_frames = num_questions = 0
    with ShardWriter(folder / split.name, max_samples=settings.videos_per_shard) as writer:
        for samples in map_tasks(functools.partial(_make_samples, settings, clips, split), tasks):
            for sample in samples:
                writer.write(sample.key, sample.record, sample.mp4, "mp4")
                num_frames += sample.record["meta"]["num_frames"]
                num_questions += len(sample.record["conversations"])
                bar.update(sample.record["meta"]["num_frames"])
    return {
        "shards": {path.name: path.stat().st_size for path in writer.paths},
        "num_videos": split.num_videos,
        "num_frames": num_frames,
        "num_questions": num_questions,
    }


def _make_samples(
    settings: HaystackSettings, clips: tuple[Path, ...], split: Split, indices: Sequence[int]
) -> list[HaystackSample]:
    decoded = _read_clips(clips)
    return [make_sample(settings, decoded, split, index) for index in indices]


@functools.lru_cache(maxsize=1)  # once a process
def _read_clips(clips: tuple[Path, ...]) -> tuple[Clip, ...]:
    return tuple(read_clip(path) for path in clips)


def _fingerprint(settings: HaystackSettings, clips: Sequence[Path]) -> str:
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in clips]
    description = json.dumps([_RECIPE, dataclasses.asdict(settings), contents], sort_keys=True)
    return hashlib.sha256(description.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return manifest


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    sizes = {name: size for split in manifest["splits"].values() for name, size in split["shards"].items()}
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _shards(folder: Path, manifest: dict[str, Any]) -> HaystackShards:
    splits = manifest["splits"]
    return HaystackShards(
        folder=folder,
        shards={name: tuple(folder / file for file in split["shards"]) for name, split in splits.items()},
        num_videos={name: split["num_videos"] for name, split in splits.items()},
        num_frames={name: split["num_frames"] for name, split in splits.items()},
        num_questions={name: split["num_questions"] for name, split in splits.items()},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a haystack from the command line.

    Args:
        arguments: Command line without the program's name; ``sys.argv`` if None.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m apps.quickstart.haystack",
        description="Make needle-in-a-haystack videos from real clips and write them as WebDataset shards.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--clips", type=Path, nargs="+", help="video files (default: the fetched clips)")
    parser.add_argument("--train-videos", type=int, default=2000, help="training videos of 4 to 16 frames")
    parser.add_argument("--one-segment-videos", type=int, default=600, help="training videos of 4 frames")
    parser.add_argument("--eval-videos", type=int, default=80, help="held-out videos of each length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    splits = default_splits(options.train_videos, options.one_segment_videos, options.eval_videos)
    clips = options.clips or fetch_parts().clips
    made = build_haystack(HaystackSettings(splits, seed=options.seed), clips, options.out, workers=options.workers)
    for name, shards in made.shards.items():
        counts = f"{made.num_videos[name]} videos, {made.num_frames[name]} frames, {made.num_questions[name]} questions"
        print(f"{name}: {counts} in {len(shards)} shards, {shards[0].parent}/{name}-*.tar")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
