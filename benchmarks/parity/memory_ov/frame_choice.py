"""Compares the frames that are repeated or left out before encoding, and the fine frames, with recordings."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.parity.comparison import CaseResult, Check, exact_check, run_case
from components.interfaces import SegmentInput, WholeVideo
from components.readers.fine_frames import FineFrames
from components.selection.segment_multiples import SegmentMultiples

SEGMENT_FRAMES = 32
"""Frames of a segment, fixed in the original."""
FINE_FRAMES = 32
"""Most frames that the language model sees besides the memory, fixed in the original."""
CAPACITY = 1024
"""Frames that ``FineFrames`` stores: all of the longest video that the original takes, as the original does."""
_RAW_VIDEO = (
    "a loader of raw videos that the original's scripts do not use; it reads 0 frames of a video of 32 to 33 seconds. "
    "Here the data settings choose frames, at most so many or so many a second"
)


def frame_choice_cases(recorded: dict[str, Any]) -> Iterator[CaseResult]:
    """Run the cases of ``frame_indices`` and ``train_frame_sampling`` in ``segments.json``."""
    for num_frames, case in recorded.get("frame_indices", {}).items():
        yield run_case(f"frame_indices of {num_frames} frames", _compare, int(num_frames), case)
    sampled = recorded.get("train_frame_sampling", {})
    if sampled:
        yield CaseResult(f"train_frame_sampling ({len(sampled)} cases)", (), declined=_RAW_VIDEO)


def _compare(num_frames: int, case: dict[str, Any]) -> Sequence[Check]:
    resampled = SegmentMultiples(SEGMENT_FRAMES).frame_index(WholeVideo.of_length(num_frames)).tolist()
    positions = fine_positions(len(resampled))
    ours = {
        "kept": len(resampled),
        "resampled": resampled,
        "fine_position": positions,
        "fine_source_frame": [resampled[position] for position in positions],
    }
    return [exact_check(key, ours[key], theirs) for key, theirs in case.items()]


def fine_positions(num_frames: int) -> list[int]:
    """Positions of the frames of a video that ``FineFrames`` shows."""
    reader = FineFrames(1, 1, num_frames=FINE_FRAMES, capacity=CAPACITY, projection="none")
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    patches = torch.arange(float(num_frames)).view(1, num_frames, 1, 1)
    shown = reader.read(reader(SegmentInput.from_grid(patches, mask, torch.zeros(1, num_frames).long()), None))
    return [int(position) for position in shown.tokens[shown.mask][:, 0].tolist()]
