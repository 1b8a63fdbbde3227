"""Measures how many directions a trained reader's memory uses: ``python -m benchmarks.memory_study.rank --help``."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory_study.held_out import held_out_videos, measure_checkpoint
from command_errors import run_and_exit
from components.model import VideoLanguageModel
from components.packed_frames import PackedVideos
from components.streams import MEMORY_STREAM
from lightning_modules.evaluation.report import length_order
from lightning_modules.monitoring.effective_rank import effective_rank


@torch.no_grad()
def ranks_by_length(checkpoint: Path, shards: Sequence[str], *, progress: bool = True) -> dict[str, dict[str, Any]]:
    """Measure the memory's rank after the last segment of held-out videos.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        progress: Whether to show a progress bar.

    Returns:
        By length, in their natural order: ``mean`` over the videos, ``videos``, and ``num_memory``, the largest rank
        possible. Empty if the reader has no memory tokens.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    num_memory = 0
    for model, videos, lengths in held_out_videos(checkpoint, shards, "rank of the memory", progress=progress):
        memory = _last_memory(model, videos)
        if memory is None:
            return {}
        num_memory = memory.shape[1]
        for length, rank in zip(lengths, effective_rank(memory).tolist(), strict=True):
            found[length].append(rank)
    return {
        length: {"mean": statistics.fmean(found[length]), "videos": len(found[length]), "num_memory": num_memory}
        for length in sorted(found, key=length_order)
    }


def _last_memory(model: VideoLanguageModel, videos: PackedVideos) -> Tensor | None:
    """Memory tokens after every video's last segment, ``[V, M, D]``."""
    states = model.read_videos(videos).last
    reader = model.readers[MEMORY_STREAM]
    memory: Tensor | None = reader.diagnostics(states[MEMORY_STREAM].reader).memory
    return memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rank of one checkpoint and write it as JSON.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    measure_checkpoint(ranks_by_length, "benchmarks.memory_study.rank", __doc__ or "", arguments)


if __name__ == "__main__":
    run_and_exit(main)
