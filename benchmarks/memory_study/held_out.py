"""Runs a trained model over held-out videos, to measure what it stores of them."""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from apps.evaluate.shards import build, make_loader
from components.checkpoints.exported_weights import open_weights
from components.model import VideoLanguageModel
from components.packed_frames import PackedVideos
from datamodules.shards.shard_reader import open_shards
from lightning_modules.trained_model import load_weights, stored_config


def held_out_videos(
    checkpoint: Path, shards: Sequence[str], what: str, *, progress: bool = True
) -> Iterator[tuple[VideoLanguageModel, PackedVideos, list[str]]]:
    """The model of a checkpoint with the videos of each batch.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        what: What is measured, for the progress bar.
        progress: Whether to show the bar.

    Yields:
        The model in evaluation mode, the videos of a batch, and the length of each, such as ``2x``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        weights = open_weights(checkpoint)
        cli = build(stored_config(weights.path), Path(scratch) / "predictions.jsonl", None, None)
        load_weights(cli.model, weights)
        cli.model.eval()
        model: VideoLanguageModel = cli.model.built
        reader = open_shards(shards, cli.datamodule.loading.cache)
        loader = make_loader(cli.datamodule, reader, range(len(reader)), Path(scratch) / "skipped.jsonl")
        for batch in tqdm(loader, desc=what, unit="batch", disable=not progress):
            lengths = {int(v): q.meta["length"] for v, q in zip(batch.video_index[:, 0], batch.questions, strict=True)}
            yield model, model.packed_videos(batch), [lengths[video] for video in range(len(batch.frame_counts))]


def single_videos(videos: PackedVideos) -> Iterator[PackedVideos]:
    """The videos of a batch, each by itself."""
    counts = videos.frame_counts.tolist()
    frames, frame_ms = videos.frames.split(counts), videos.frame_ms.split(counts)
    single_counts, picture_sizes = videos.frame_counts.split(1), videos.picture_sizes.split(1)
    for of_video in zip(frames, single_counts, frame_ms, picture_sizes, strict=True):
        yield PackedVideos(*of_video)


def write_measured(found: Mapping[str, Any], out: Path) -> None:
    """Write a measurement as JSON, complete or not at all, and print it."""
    text = json.dumps(found, indent=2)
    unfinished = out.with_name(f".{out.name}.writing")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, out)
    print(text)


def measure_checkpoint(
    measure: Callable[[Path, Sequence[str]], Mapping[str, Any]],
    program: str,
    description: str,
    arguments: Sequence[str] | None,
) -> None:
    """Run the command of a measurement of one checkpoint.

    Args:
        measure: Measures a checkpoint with these shards.
        program: Module of the command.
        description: For its help.
        arguments: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint that training wrote")
    parser.add_argument("--data", nargs="+", required=True, help="shards, folders or glob patterns")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    write_measured(measure(options.checkpoint, options.data), options.out)
