"""MovieChat: the short memory, the long memory, the second path and the positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.published_forms.moviechat_long_buffer import merge_unlike_frames
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, exact_check
from components.bridges.short_and_long_memory import expanded_positions
from components.merging.frame_sequences import FrameSequence, merge_frames

SHORT_LENGTH = 18
FRAMES_READ = 16  # of a fragment; the published code leaves the others out
FRAMES_LEFT = 2


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if "n_position" in case.options:
        positions = case.inputs["pos"].float()[: case.options["n_position"]]
        return [case.output_check("expanded", expanded_positions(positions))]
    if "clips" in case.options:
        return _fragments(case)
    if "sliding_window_length" in case.options:
        return _windows(case)
    return _second_path(case)


def _fragments(case: RecordedCase) -> Sequence[Check]:
    short_length = case.options.get("short_memory_length", SHORT_LENGTH)
    limit = case.options.get("short_memory_merge", FRAMES_LEFT)
    read = case.options.get("n_frame", FRAMES_READ)
    frames = case.inputs["frames"]
    long, lengths = frames[:0], []
    short = frames[:0]
    for clip in frames.split_with_sizes(case.options["clips"]):
        short = clip[:read][-short_length:]
        long = torch.cat([long, _merged(short, limit)])
        lengths.append(len(long))
    named = {"long_memory": long, "temp_short_memory": short}
    checks = [_check(case, name, ours) for name, ours in named.items() if name in case.outputs]
    return [*checks, exact_check("long_len_after_clip", lengths, case.outputs_json["long_len_after_clip"])]


def _windows(case: RecordedCase) -> Sequence[Check]:
    """The form of LLaVA-OneVision, which never empties its short memory."""
    frames, window = case.inputs["frames"], case.options["sliding_window_length"]
    long, short, lengths, new = frames[:0], frames[:0], [], 0
    for first in range(0, len(frames), window):
        clip = frames[first : first + window]
        short = torch.cat([short, clip])[-case.options["short_memory_length"] :]
        new += len(clip)
        if new == FRAMES_READ:
            short, new = _merged(short, case.options["merge_frame_length"]), 0
            long = torch.cat([long, short])
        lengths.append(len(long))
    checks = [_check(case, "long_memory", long)] if "long_memory" in case.outputs else []
    return [*checks, exact_check("long_len_after_window", lengths, case.outputs_json["long_len_after_window"])]


def _second_path(case: RecordedCase) -> Sequence[Check]:
    frames, limit = case.inputs["frames"], case.options["long_memory_length"]
    if case.raises is not None:
        try:
            merge_unlike_frames(frames[None], limit)
        except ValueError as error:
            return [exact_check("refused", "needs more than" in str(error), True)]
        return [exact_check("refused", False, True)]
    long = merge_unlike_frames(frames[None], limit)[0]
    placed = long + case.inputs["pos"].float()[: len(long), None]
    checks = [case.output_check("long_memory", long)]
    return [*checks, case.output_check("qformer_input", placed.flatten(0, 1)[None])]


def _check(case: RecordedCase, name: str, ours: Tensor) -> Check:
    """Compare frames; nothing may be recorded in any shape."""
    theirs = case.outputs[name]
    return case.output_check(name, ours if ours.numel() or theirs.numel() else ours.view(theirs.shape))


def _merged(frames: Tensor, limit: int) -> Tensor:
    if not len(frames):
        return frames
    mask = torch.ones(1, len(frames), dtype=torch.bool)
    return merge_frames(FrameSequence.of_frames(frames[None], mask), limit, as_published=True).tokens[0]
