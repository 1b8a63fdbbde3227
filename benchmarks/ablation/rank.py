"""Measures how many directions a trained reader's memory uses."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ablation.held_out import HeldOutVideo, held_out_videos
from components.model import VideoLanguageModel, text_of
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
    for model, video in held_out_videos(checkpoint, shards, "rank of the memory", progress=progress):
        memory = _last_memory(model, video)
        if memory is None:
            return {}
        num_memory = memory.shape[1]
        found[video.length].append(float(effective_rank(memory)[0]))
    return {
        length: {"mean": statistics.fmean(found[length]), "videos": len(found[length]), "num_memory": num_memory}
        for length in sorted(found, key=length_order)
    }


def _last_memory(model: VideoLanguageModel, video: HeldOutVideo) -> Tensor | None:
    """Memory tokens after the video's last segment, ``[1, M, D]``."""
    if MEMORY_STREAM not in model.readers:
        return None
    videos, asked = model.packed_videos(video.batch), model.asked(text_of(video.batch))
    states = model.read_videos(videos, lambda _: (), asked).last
    memory: Tensor | None = model.readers[MEMORY_STREAM].diagnostics(states[MEMORY_STREAM].reader).memory
    return memory
