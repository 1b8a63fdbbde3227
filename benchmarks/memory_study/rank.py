"""Measures how many directions a trained bridge's memory uses: ``python -m benchmarks.memory_study.rank --help``."""

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import evaluate
from command_errors import run_and_exit
from components.checkpoints.exported_weights import open_weights
from components.streams import MEMORY_STREAM
from datamodules.shards.shard_reader import open_shards
from lightning_modules.evaluation.report import length_order
from lightning_modules.monitoring.effective_rank import effective_rank
from lightning_modules.trained_model import load_weights, stored_config
from lightning_modules.video_language import VideoLanguageModule


@torch.no_grad()
def ranks_by_length(checkpoint: Path, shards: Sequence[str], *, progress: bool = True) -> dict[str, dict[str, Any]]:
    """Measure the memory's rank after the last segment of held-out videos.

    Args:
        checkpoint: Checkpoint of a training run.
        shards: Shards, folders or glob patterns of videos or features, with conversations.
        progress: Whether to show a progress bar.

    Returns:
        By length, in their natural order: ``mean`` over the videos, ``videos``, and ``num_memory``, the largest rank
        possible. Empty if the bridge has no memory tokens.
    """
    with tempfile.TemporaryDirectory() as scratch:
        weights = open_weights(checkpoint)
        cli = evaluate.build(stored_config(weights.path), Path(scratch) / "predictions.jsonl", None, None)
        module: VideoLanguageModule = cli.model
        load_weights(module, weights)
        module.eval()
        reader = open_shards(shards, cli.datamodule.loading.cache)
        loader = evaluate.make_loader(cli.datamodule, reader, range(len(reader)), Path(scratch) / "skipped.jsonl")
        found: defaultdict[str, list[float]] = defaultdict(list)
        num_memory = 0
        for batch in tqdm(loader, desc="rank of the memory", unit="batch", disable=not progress):
            memory = _last_memory(module, batch)
            if memory is None:
                return {}
            num_memory = memory.shape[1]
            lengths = {int(v): q.meta["length"] for v, q in zip(batch.video_index[:, 0], batch.questions, strict=True)}
            for video, rank in enumerate(effective_rank(memory).tolist()):
                found[lengths[video]].append(rank)
    return {
        length: {"mean": statistics.fmean(found[length]), "videos": len(found[length]), "num_memory": num_memory}
        for length in sorted(found, key=length_order)
    }


def _last_memory(module: VideoLanguageModule, batch: Any) -> Tensor | None:
    """Memory tokens after every video's last segment, ``[V, M, D]``."""
    model = module.built
    states = model.read_videos(model.packed_videos(batch)).states
    memory: Tensor | None = model.bridge.diagnostics(states[-1][MEMORY_STREAM].reader).memory
    return memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rank of one checkpoint and write it as JSON.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_study.rank", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint that training wrote")
    parser.add_argument("--data", nargs="+", required=True, help="shards, folders or glob patterns")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    ranks = ranks_by_length(options.checkpoint, options.data)
    unfinished = options.out.with_name(f".{options.out.name}.writing")
    unfinished.write_text(json.dumps(ranks, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, options.out)
    print(json.dumps(ranks, indent=2))


if __name__ == "__main__":
    run_and_exit(main)
