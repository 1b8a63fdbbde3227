"""Compares what the number of a frame adds to its patches with recordings: ``temporal_encoding.safetensors``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import CaseResult, Check, run_case
from benchmarks.parity.memory_ov.tolerance import close_check
from components.interfaces import SegmentInput
from components.positions import interleaved_sinusoid
from components.readers.fine_frames import FineFrames

_LEARNED = "the original's model adds the fixed sinusoids; we have no learned table"
_ANY_INDEX = (
    "the original raises {errors} beyond its table of {max_frames} frames; we compute the sinusoid of any frame, "
    "because videos may be of any length"
)


def frame_position_cases(folder: Path, meta: dict[str, Any]) -> Iterator[CaseResult]:
    """Run every case of ``temporal_encoding.safetensors``.

    Args:
        folder: Has the file.
        meta: What ``meta.json`` says of it.
    """
    tensors = load_file(folder / "temporal_encoding.safetensors")
    for name, theirs in tensors.items():
        if name.startswith("sin."):
            case = name.removeprefix("sin.")
            yield run_case(f"temporal encoding {case}", _compare, case, theirs, tensors, meta["max_frames"])
    learned = [name for name in tensors if name.startswith("learn.out")]
    if learned:
        yield CaseResult(f"temporal encoding {', '.join(learned)}", (), declined=_LEARNED)
    errors = ", ".join(sorted(set(meta.get("errors", {}).values())))
    if errors:
        reason = _ANY_INDEX.format(errors=errors, max_frames=meta["max_frames"])
        yield CaseResult(f"temporal encoding {', '.join(meta['errors'])}", (), declined=reason)


def _compare(case: str, theirs: Tensor, tensors: dict[str, Tensor], max_frames: int) -> Sequence[Check]:
    rows = re.fullmatch(r"frame_embed\.(first|last)(\d+)", case)
    if rows is not None:
        number = int(rows[2])
        first = 0 if rows[1] == "first" else max_frames - number
        return [close_check(case, interleaved_sinusoid(torch.arange(first, first + number), theirs.shape[1]), theirs)]
    output = re.fullmatch(r"out(\d)_(idx|default|bf16)", case)
    if output is None:
        raise ValueError(f"the output {case!r} is not one that this command can compare")
    patches = tensors[f"in.x{output[1]}"].to(theirs.dtype)  # [T, N, D] or [V, T, N, D]
    numbers = torch.arange(patches.shape[-3]) if output[2] == "default" else tensors["in.idx"]
    return [close_check(case, _shown(patches, numbers), theirs)]


def _shown(patches: Tensor, numbers: Tensor) -> Tensor:
    """Patches of frames with these numbers as ``FineFrames`` shows them."""
    videos = patches.view(-1, *patches.shape[-3:])
    num_frames, num_cells, dim = videos.shape[1:]
    reader = FineFrames(
        dim, dim, num_frames=num_frames, capacity=num_frames, projection="none", frame_positions=True
    ).to(patches.dtype)
    mask = torch.ones(videos.shape[:2], dtype=torch.bool)
    number = numbers.expand(mask.shape)
    segment = SegmentInput(videos.flatten(1, 2), mask, number, number, num_cells)
    return reader.read(reader(segment, None)).tokens.view(patches.shape)
