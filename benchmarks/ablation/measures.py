"""Measures what a trained arm costs: tokens, bytes, frames, seconds and memory by length of the video.

python -m benchmarks.ablation.measures --checkpoint FILE --data SHARDS --out FILE.json
"""

import argparse
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.ablation.held_out import HeldOutVideo, held_out_videos, write_measured
from benchmarks.ablation.rank import ranks_by_length
from benchmarks.ablation.runs import Run
from benchmarks.ablation.tasks import TASKS
from benchmarks.ablation.training import run_logged, side_by_side
from command_errors import run_and_exit
from components.model import VideoLanguageModel, text_of
from lightning_modules.evaluation.report import length_order

VIDEOS_OF_A_LENGTH = 20


class Cost(NamedTuple):
    """What one question about a video costs."""

    frames: int  # that are encoded
    visual_tokens: int  # that the language model sees, words of the visual prompt included
    state_bytes: int  # of all readers and reducers after the last segment and ``prune``
    seconds: float  # to read the video and answer


@torch.no_grad()
def cost_of_video(model: VideoLanguageModel, video: HeldOutVideo, max_new_tokens: int = 3) -> Cost:
    """Read one video, answer its question, and count.

    Args:
        model: A model in evaluation mode.
        video: The video.
        max_new_tokens: Of the answer.

    Raises:
        ValueError: The batch has several videos; in a batch, a state also stores what belongs to the others.
    """
    batch = video.batch
    if len(batch.frame_counts) != 1:
        raise ValueError(f"costs are measured of one video at a time, got {len(batch.frame_counts)}")
    encoded: list[int] = []
    hook = model.encoder.register_forward_hook(lambda _module, inputs, _output: encoded.append(len(inputs[0])))
    begin = _now()
    model.generate(batch, max_new_tokens)
    seconds = _now() - begin
    hook.remove()
    text = text_of(batch)
    read = model.read_videos(model.packed_videos(batch), lambda _: (), model.asked(text))
    pruned = [(model.readers[name].prune(state.reader), state.reducer) for name, state in read.last.items()]
    # A part of a larger tensor is counted alone: ``prune`` may give views.
    stored = [leaf for leaf in tree_leaves(pruned) if isinstance(leaf, Tensor)]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in stored)
    visual = model.read(read.last, text, read.pictures)
    return Cost(sum(encoded), int(visual.mask.sum()), num_bytes, seconds)


def measures_of(checkpoint: Path, shards: Sequence[str], *, progress: bool = True) -> dict[str, Any]:
    """Measure a trained arm on held-out videos.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        progress: Whether to show a progress bar.

    Returns:
        ``by_length``: of each length, in their natural order, means of ``Cost``'s fields over ``videos`` videos, the
        median for seconds; ``peak_mib``: the largest memory of this process, on a GPU that of torch.
    """
    found: defaultdict[str, list[Cost]] = defaultdict(list)
    for model, video in held_out_videos(checkpoint, shards, "costs", most=VIDEOS_OF_A_LENGTH, progress=progress):
        if not found:
            cost_of_video(model, video)  # the first call of a process is slower
        found[video.length].append(cost_of_video(model, video))
    by_length = {
        length: {
            **{
                name: statistics.fmean(getattr(cost, name) for cost in found[length])
                for name in ("frames", "visual_tokens", "state_bytes")
            },
            "seconds": statistics.median(cost.seconds for cost in found[length]),
            "videos": len(found[length]),
        }
        for length in sorted(found, key=length_order)
    }
    return {"by_length": by_length, "peak_mib": _peak_mib()}


def measure_runs(runs: Sequence[Run]) -> list[Run]:
    """Measure all finished runs, one after the other, each in a process of its own with one thread.

    Args:
        runs: Runs of one sweep; those that are not finished, or were measured before, are passed over.

    Returns:
        The runs that failed.
    """
    done = [run for run in runs if run.is_evaluated]
    return side_by_side(_measure, [run for run in done if not run.measures.exists()], len(done), jobs=1)


def _measure(run: Run) -> None:
    data = str(run.sweep.data / "features" / TASKS[run.sweep.task].measured)
    command = ["-m", "benchmarks.ablation.measures", "--checkpoint", str(run.checkpoint), "--data", data]
    with run.log.open("a", encoding="utf-8") as log:
        run_logged([*command, "--out", str(run.measures)], log)


def _now() -> float:
    """Time in seconds, when a GPU has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one checkpoint.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation.measures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint that training wrote")
    parser.add_argument("--data", nargs="+", required=True, help="shards, folders or glob patterns")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    measured = measures_of(options.checkpoint, options.data)
    measured["rank"] = ranks_by_length(options.checkpoint, options.data)
    write_measured(measured, options.out)


if __name__ == "__main__":
    run_and_exit(main)
