"""Sweeps over noise: features of three tasks and two lengths, and the YAML files that compare arms on them."""

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from apps.quickstart.haystack_questions import OPTIONS, TASKS, conversations
from apps.quickstart.needles import Needle
from apps.quickstart.tokenizer import build_language_model_folder
from benchmarks.ablation.sweep_file import Sweep, read_sweep
from tests.fixtures_data import write_shard

NEEDLE = Needle("star", "blue", 0, 40, 0, 0, 0.0)
ARMS = {
    "both": {"configs": ["configs/ablation/replacing_memory.yaml"]},
    "mean_pooling": {"configs": ["configs/ablation/mean_pooling.yaml"]},
    "grid_memory": {
        "configs": ["configs/ablation/grid_memory.yaml", "configs/ablation/grid_memory_budget.yaml"],
    },
}


def write_noise(folder: Path) -> Path:
    """Write features that are noise: a training shard of each task and part, two lengths of held-out videos."""
    torch.manual_seed(0)
    features = folder / "features"
    features.mkdir(parents=True)
    names = [f"train-{task}{part}" for task in TASKS for part in ("", "-one-segment")]
    names += [f"eval-{task}-{length}" for task in TASKS for length in ("1x", "2x")]
    for name in names:
        task: Any = name.split("-")[1]
        num_frames = 8 if name.endswith("2x") else 4
        samples = []
        for number in range(len(OPTIONS["count"])):
            needles = {"needle": [NEEDLE], "order": [NEEDLE] * 2, "count": [NEEDLE] * number}[task]
            meta = {"length": name.split("-")[2] if name.startswith("eval") else "train", "num_frames": num_frames}
            key = f"{name}-{number}"
            record = {"source": "noise", "meta": meta, "conversations": conversations(task, needles, num_frames, key)}
            tensors = {"features": torch.randn(num_frames, 10, 384), "frame_ms": torch.arange(num_frames) * 500}
            samples.append((key, record, save(tensors), "safetensors"))
        write_shard(features / f"{name}-000000.tar", samples)
    (features / "features.json").write_text("{}")
    shards = sorted(features.glob("*.tar"))
    build_language_model_folder(shards, folder / "language_model", num_layers=1, width=32, num_heads=2)
    return folder


def sweep_content(folder: Path, **changes: Any) -> dict[str, Any]:
    """What the YAML file of a small sweep says; its data and runs are in ``folder``."""
    return {
        "heading": "A small sweep",
        "task": "three_tasks",
        "data": str(folder),
        "runs": str(folder / "runs"),
        "configs": ["configs/base.yaml", "configs/quickstart_pixels.yaml", "configs/quickstart.yaml"],
        "set": {"trainer.max_steps": 2, "data.order.curriculum": [], "data.loading.batch_size": 4},
        "arms": ARMS,
        "reference": "both",
        "jobs": 1,
        **changes,
    }


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Write the YAML file of a small sweep."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep_content(folder, **changes), sort_keys=False))
    return path


def small_sweep(folder: Path, **changes: Any) -> Sweep:
    """A small sweep, read back."""
    return read_sweep(write_sweep(folder, **changes))
