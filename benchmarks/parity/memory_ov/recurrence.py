"""Compares the grid memory with recordings: ``memory_depth*.safetensors``, segment by segment."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.bridge.original_grid_memory import run_segments
from benchmarks.parity.comparison import CaseResult, Check, exact_check, run_case
from benchmarks.parity.memory_ov.grid_memory_walk import Walk, walk
from benchmarks.parity.memory_ov.original_weights import load_memory, memory_of_shapes, of_transformer
from benchmarks.parity.memory_ov.recurrence_gradients import compare_gradients
from benchmarks.parity.memory_ov.tolerance import close_check
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.bridges.layers.cross_attention import NORM_EPS

_NO_FRAME_SCORES = (
    "nothing reads the original's scores of frames, so GridMemory computes none and stores no attention weights; "
    "benchmarks/bridge/original_grid_memory.py computes them, and is compared above"
)
_OUTPUT = re.compile(r"(memory|updated_query|frame_scores)\.(\d+)")


class Recording(NamedTuple):
    """Recordings of one depth: weights, and outputs of several sequences of segments."""

    tensors: dict[str, Tensor]
    sequences: dict[str, list[Tensor]]  # segments [F, N, D] of each sequence
    meta: dict[str, Any]  # of the depth, by sequence
    sizes: dict[str, Any]  # of all depths

    def build(self) -> GridMemory:
        """Build our memory with the recorded weights.

        Raises:
            ValueError: Its normalisations are not those of ours.
        """
        if self.sizes["ln_eps"] != NORM_EPS:
            raise ValueError(f"our normalisations have eps {NORM_EPS}; these recordings have {self.sizes['ln_eps']}")
        state = of_transformer(self.tensors)
        options = GridMemoryOptions(frame_positions=False, type_embedding=False)
        reader = memory_of_shapes(
            state, num_heads=self.sizes["heads"], cache_limit=self.sizes["cache_limit"], options=options
        )
        load_memory(reader, state)
        return reader

    def outputs(self, sequence: str) -> dict[tuple[str, int], Tensor]:
        """Recorded outputs of a sequence by name and segment.

        Raises:
            ValueError: There is one that this command does not know.
        """
        found = {}
        for name, tensor in self.tensors.items():
            own, _, output = name.partition(".")
            if own != sequence or output == "cache_cat":
                continue
            match = _OUTPUT.fullmatch(output)
            if match is None:
                raise ValueError(f"the output {name!r} is not one that this command can compare")
            found[match[1], int(match[2])] = tensor
        return found


def recurrence_cases(folder: Path, meta: dict[str, Any]) -> Iterator[CaseResult]:
    """Run the cases of every depth.

    Args:
        folder: Has the files.
        meta: What ``meta.json`` says of them.
    """
    inputs = load_file(folder / "memory_inputs.safetensors")
    sequences = {
        name: [inputs[f"{name}.segment.{number:02d}"] for number in range(len(lengths))]
        for name, lengths in meta["sequences"].items()
    }
    for depth in sorted(key for key in meta if re.fullmatch(r"depth\d+", key)):
        recording = Recording(load_file(folder / f"memory_{depth}.safetensors"), sequences, meta[depth], meta)
        for sequence in meta[depth]:
            yield run_case(f"memory {depth} {sequence}", _compare_alone, recording, sequence)
            yield run_case(f"memory {depth} {sequence}, gradients", _compare_gradients, recording, sequence)
            yield run_case(f"memory {depth} {sequence}, original form", _compare_original_form, recording, sequence)
        yield run_case(f"memory {depth}, all sequences in one batch", _compare_batch, recording)
        scores = [name for name in recording.tensors if ".frame_scores." in name]
        if scores:
            yield CaseResult(f"memory {depth}, {len(scores)} frame scores", (), declined=_NO_FRAME_SCORES)


@torch.no_grad()
def _compare_alone(recording: Recording, sequence: str) -> Sequence[Check]:
    walked = walk(recording.build(), [recording.sequences[sequence]])
    checks = list(_compare_outputs(recording, sequence, walked, 0))
    written = list(range(len(walked.states)))
    for number, state in enumerate(walked.states):
        cached = [position for memory in state.memories for position in written if memory is walked.written(position)]
        theirs = recording.meta[sequence]["cache_after_segment"][number]
        checks.append(exact_check(f"cache after segment {number}", cached, theirs))
    return checks


@torch.no_grad()
def _compare_batch(recording: Recording) -> Sequence[Check]:
    """All sequences as videos of one batch, in which shorter segments and videos are padded."""
    names = list(recording.meta)
    walked = walk(recording.build(), [recording.sequences[name] for name in names])
    return [check for video, name in enumerate(names) for check in _compare_outputs(recording, name, walked, video)]


def _compare_outputs(recording: Recording, sequence: str, walked: Walk, video: int) -> Iterator[Check]:
    for (kind, number), theirs in recording.outputs(sequence).items():
        if kind == "frame_scores":
            continue
        ours = walked.written(number) if kind == "memory" else walked.updated_queries[number]
        assert ours is not None
        yield close_check(f"{sequence}.{kind}.{number}", ours[video].view(theirs.shape), theirs)
    cache = walked.cache(video).view(-1, *next(iter(recording.sequences.values()))[0].shape[1:])
    yield exact_check(f"{sequence} size of the cache", list(cache.shape), recording.meta[sequence]["cache_cat_shape"])
    if f"{sequence}.cache_cat" in recording.tensors:
        yield close_check(f"{sequence}.cache_cat", cache, recording.tensors[f"{sequence}.cache_cat"])


def _compare_gradients(recording: Recording, sequence: str) -> Sequence[Check]:
    return compare_gradients(recording.build(), recording.sequences[sequence], recording.meta[sequence])


@torch.no_grad()
def _compare_original_form(recording: Recording, sequence: str) -> Sequence[Check]:
    steps = run_segments(recording.build(), recording.sequences[sequence])
    checks = []
    for (kind, number), theirs in recording.outputs(sequence).items():
        ours = getattr(steps[number], kind)
        checks.append(close_check(f"{sequence}.{kind}.{number}", ours.view(theirs.shape), theirs))
    return checks
