"""Recordings of the Memory-Augmented VLM code: its memories, and a ``GridMemory`` with the recorded weights."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import every_nth
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.interfaces import SegmentInput
from components.weights.memory_ov_names import memory_names

FOLDER = Path(__file__).parents[2] / "goldens" / "memory_augmented_vlm"
META: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text(encoding="utf-8"))["memory"]
DEPTH = 2
"""Layers of the recorded memory."""
CASES = list(META["depth2"])
_NAMES = memory_names(DEPTH)


def our_name(original: str) -> str:
    """Our name of a weight."""
    return _NAMES[f"recurrent_memory_transformer.{original}"]


def recorded(file: str) -> dict[str, Tensor]:
    """Tensors of a recording by name."""
    return load_file(FOLDER / f"{file}.safetensors")


class RecordedOutput(NamedTuple):
    """One output of a segment; of its vectors ``[vectors, D]`` the first of every ``step`` is recorded."""

    kind: str  # memory or updated_query
    segment: int
    step: int
    vectors: Tensor


def recorded_outputs(sequence: str) -> list[RecordedOutput]:
    """The recorded outputs of one sequence of segments."""
    outputs = []
    for name, tensor in recorded("memory_depth2").items():
        of, *rest = name.split(".")
        if of == sequence:
            kind, number = rest
            number, step = every_nth(number)
            outputs.append(RecordedOutput(kind, int(number), step, tensor.flatten(0, -2)))
    return outputs


def recorded_memory(**options: Any) -> GridMemory:
    """The memory with the recorded weights, without fuser, positions and type: what was recorded has none of them."""
    reader = GridMemory(
        META["hidden"],
        META["hidden"],
        num_cells=META["patches"],
        num_memory=META["memory_tokens"],
        depth=DEPTH,
        num_heads=META["heads"],
        cache_limit=META["cache_limit"],
        fuser=None,
        options=GridMemoryOptions(frame_positions=False, type_embedding=False, **options),
    )
    stored = recorded("memory_depth2")
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
