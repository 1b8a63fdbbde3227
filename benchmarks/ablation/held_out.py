"""Runs a trained model over held-out videos, to measure what it stores of them."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from apps.evaluate.shards import build, make_loader
from components.checkpoints.exported_weights import open_weights
from components.interfaces import TEXT_ONLY
from components.model import VideoLanguageModel
from datamodules.batch import Batch
from datamodules.shards.shard_reader import open_shards
from lightning_modules.trained_model import load_weights, stored_config


class HeldOutVideo(NamedTuple):
    """One video with one question."""

    length: str  # such as 2x
    batch: Batch  # with one conversation


def open_checkpoint(checkpoint: Path, scratch: Path) -> Any:
    """The command line object of a run, with its data and its model in evaluation mode.

    Args:
        checkpoint: Checkpoint of a training run.
        scratch: Folder for files that nobody reads.
    """
    weights = open_weights(checkpoint)
    cli = build(stored_config(weights.path), scratch / "predictions.jsonl", None, None)
    load_weights(cli.model, weights)
    cli.model.eval()
    return cli


def held_out_videos(
    checkpoint: Path, shards: Sequence[str], what: str, *, most: int | None = None, progress: bool = True
) -> Iterator[tuple[VideoLanguageModel, HeldOutVideo]]:
    """The model of a checkpoint with every held-out video, on the GPU if there is one.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        what: What is measured, for the progress bar.
        most: Most videos of a length; None for all.
        progress: Whether to show the bar.

    Yields:
        The model in evaluation mode and a video with the first of its questions.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cli = open_checkpoint(checkpoint, Path(scratch))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = cli.model.built.to(device)
        reader = open_shards(shards, cli.datamodule.loading.cache)
        loader = make_loader(cli.datamodule, reader, range(len(reader)), Path(scratch) / "skipped.jsonl")
        seen: dict[str, int] = {}
        for batch in tqdm(loader, desc=what, unit="batch", disable=not progress):
            for video in _single(batch.to(device)):
                seen[video.length] = seen.get(video.length, 0) + 1
                if most is None or seen[video.length] <= most:
                    yield model, video


def _single(batch: Batch) -> Iterator[HeldOutVideo]:
    """The videos of a batch, each by itself with its first question."""
    counts = batch.frame_counts.tolist()
    frames, frame_ms = batch.frames.split(counts), batch.frame_ms.split(counts)
    shown = batch.video_index[:, 0].tolist()
    for video in sorted(set(shown) - {TEXT_ONLY}):
        row = shown.index(video)
        texts = (batch.input_ids, batch.text_mask, batch.labels)
        input_ids, text_mask, labels = (each[row : row + 1] for each in texts)
        yield HeldOutVideo(
            batch.questions[row].meta["length"],
            batch._replace(
                frames=frames[video],
                frame_counts=batch.frame_counts[video : video + 1],
                frame_ms=frame_ms[video],
                picture_sizes=batch.picture_sizes[video : video + 1],
                input_ids=input_ids,
                text_mask=text_mask,
                labels=labels,
                video_index=batch.video_index[row : row + 1, :1] * 0,
                questions=(batch.questions[row],),
            ),
        )


def write_measured(found: Mapping[str, Any], out: Path) -> None:
    """Write a measurement as JSON, complete or not at all, and print it."""
    text = json.dumps(found, indent=2)
    unfinished = out.with_name(f".{out.name}.writing")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, out)
    print(text)
