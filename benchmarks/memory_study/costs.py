"""Measures visual tokens and bytes of the state by length of the video: ``python -m benchmarks.memory_study.costs``.

Of trained models on held-out videos. What models that are not trained cost at most is measured too, so that arms
without a run can be compared.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from apps.commands import ROOT
from benchmarks.bridge.forms import admit_everything
from benchmarks.memory_study.arms import Run
from benchmarks.memory_study.data import LONGEST_TRAINING_FRAMES
from benchmarks.memory_study.held_out import held_out_videos, measure_checkpoint, single_videos
from benchmarks.memory_study.training import training_configs
from command_errors import run_and_exit
from components.bridges.recurrent import RecurrentMemoryBridge
from components.model import VideoLanguageModel
from components.packed_frames import PackedVideos
from lightning_modules.console.config_files import read_config
from lightning_modules.evaluation.report import length_order
from lightning_modules.trained_model import build_module
from lightning_modules.video_language import VideoLanguageModule


class Cost(NamedTuple):
    """What a video costs after its last segment."""

    visual_tokens: int  # that the language model sees, words of the visual prompt included
    state_bytes: int  # of all readers and reducers, after ``prune``


@torch.no_grad()
def cost_of_video(model: VideoLanguageModel, video: PackedVideos) -> Cost:
    """Read one video and count.

    Args:
        model: A model in evaluation mode, whose readers do not read questions.
        video: One video; in a batch, a state also stores what belongs to the others.

    Raises:
        ValueError: There are several videos.
    """
    if len(video.frame_counts) != 1:
        raise ValueError(f"costs are measured of one video at a time, got {len(video.frame_counts)}")
    last = model.read_videos(video).last
    pruned = [(model.readers[name].prune(state.reader), state.reducer) for name, state in last.items()]
    stored = [leaf for leaf in tree_leaves(pruned) if isinstance(leaf, Tensor)]
    return Cost(int(model.read(last).mask.sum()), sum(tensor.numel() * tensor.element_size() for tensor in stored))


def costs_by_length(checkpoint: Path, shards: Sequence[str], *, progress: bool = True) -> dict[str, dict[str, Any]]:
    """Measure the costs of held-out videos.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        progress: Whether to show a progress bar.

    Returns:
        By length, in their natural order: ``visual_tokens`` and ``state_bytes``, means over the videos, and ``videos``.
    """
    found: defaultdict[str, list[Cost]] = defaultdict(list)
    for model, videos, lengths in held_out_videos(checkpoint, shards, "tokens and bytes", progress=progress):
        for length, video in zip(lengths, single_videos(videos), strict=True):
            found[length].append(cost_of_video(model, video))
    return {
        length: {
            "visual_tokens": statistics.fmean(cost.visual_tokens for cost in found[length]),
            "state_bytes": statistics.fmean(cost.state_bytes for cost in found[length]),
            "videos": len(found[length]),
        }
        for length in sorted(found, key=length_order)
    }


def most_by_length(run: Run, lengths: Sequence[int]) -> dict[str, Cost]:
    """What videos cost at most with an arm that is not trained.

    Costs depend on training only where a gate decides which segments are stored; here it admits all.

    Args:
        run: The arm; any seed.
        lengths: Lengths of videos, in units of the longest training video.

    Returns:
        By length, such as ``2x``.
    """
    settings = read_config([ROOT / config for config in training_configs(run)], {"model": VideoLanguageModule})
    module = build_module(settings["model"])
    module.configure_model()
    model = module.built.eval()
    for reader in model.readers.values():
        if isinstance(reader, RecurrentMemoryBridge) and reader.update is not None:
            admit_everything(reader)
    return {f"{times}x": cost_of_video(model, _noise(model, times * LONGEST_TRAINING_FRAMES)) for times in lengths}


def _noise(model: VideoLanguageModel, num_frames: int) -> PackedVideos:
    """A video of random features."""
    frame = model.encoder.dummy_frames("cpu")
    frames = torch.randn(num_frames, *frame.shape[1:], generator=torch.Generator().manual_seed(0))
    untiled = torch.zeros(1, 2, dtype=torch.int64)
    return PackedVideos(frames, torch.tensor([num_frames]), 500 * torch.arange(num_frames), untiled)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the costs of one checkpoint and write them as JSON.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    measure_checkpoint(costs_by_length, "benchmarks.memory_study.costs", __doc__ or "", arguments)


if __name__ == "__main__":
    run_and_exit(main)
