"""Recordings of the Memory-Augmented VLM code: its memories, and a ``GridMemory`` with the recorded weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.interfaces import SegmentInput
from components.weights.memory_ov_names import memory_names

FOLDER = Path(__file__).parents[2] / "goldens" / "memory_augmented_vlm"
META: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text(encoding="utf-8"))["memory"]
CASES = [(depth, sequence) for depth in (1, 2) for sequence in META[f"depth{depth}"]]
_NAMES = memory_names(2)


def our_name(original: str) -> str:
    """Our name of a weight."""
    return _NAMES[f"recurrent_memory_transformer.{original}"]


def recorded(file: str) -> dict[str, Tensor]:
    """Tensors of a recording by name."""
    return load_file(FOLDER / f"{file}.safetensors")


def recorded_memory(depth: int, **options: Any) -> GridMemory:
    """The memory with the recorded weights, without fuser, positions and type: what was recorded has none of them."""
    reader = GridMemory(
        META["hidden"],
        META["hidden"],
        num_cells=META["patches"],
        num_memory=META["memory_tokens"],
        depth=depth,
        num_heads=META["heads"],
        cache_limit=META["cache_limit"],
        fuser=None,
        options=GridMemoryOptions(frame_positions=False, type_embedding=False, **options),
    )
    stored = recorded(f"memory_depth{depth}")
    weights = {our_name(name[6:]): tensor for name, tensor in stored.items() if name.startswith("state.")}
    reader.load_state_dict(weights)
    return reader


def recorded_segments(sequences: str) -> list[SegmentInput]:
    """The recorded segments of several videos, one letter a video; what is masked holds large numbers."""
    inputs = recorded("memory_inputs")
    lengths = [META["sequences"][name] for name in sequences]
    segments = []
    for step in range(max(map(len, lengths))):
        videos = [inputs.get(f"{name}.segment.{step:02d}", torch.zeros(0, 16, 64)) for name in sequences]
        longest = max(map(len, videos))
        patches, mask = torch.full((len(videos), longest, 16, 64), 1e3), torch.zeros(len(videos), longest).bool()
        for row, frames in enumerate(videos):
            patches[row, : len(frames)], mask[row, : len(frames)] = frames, True
        segments.append(SegmentInput.from_grid(patches, mask, torch.zeros(mask.shape, dtype=torch.int64)))
    return segments
