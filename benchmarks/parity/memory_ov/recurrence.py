"""Compares the grid memory with recordings: ``memory_depth*.safetensors``, segment by segment."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.bridge.original_grid_memory import run_segments
from benchmarks.parity.comparison import CaseResult, Check, every_nth, exact_check, nth_vectors, run_case
from benchmarks.parity.memory_ov.grid_memory_walk import Walk, walk
from benchmarks.parity.memory_ov.original_weights import load_memory, memory_of_shapes, of_transformer
from benchmarks.parity.memory_ov.recurrence_gradients import compare_gradients
from benchmarks.parity.memory_ov.tolerance import close_check, fused_tolerance, with_explicit_attention
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.bridges.layers.cross_attention import NORM_EPS

_NO_FRAME_SCORES = (
    "nothing reads the original's scores of frames, so GridMemory computes none and stores no attention weights; "
    "benchmarks/bridge/original_grid_memory.py computes them, and is compared above"
)
_OUTPUT = re.compile(r"(memory|updated_query|frame_scores)\.(\d+)")


class RecordedOutput(NamedTuple):
    """One output of a segment."""

    kind: str  # memory, updated_query or frame_scores
    segment: int
    step: int  # the first of every so many vectors is recorded
    tensor: Tensor


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

    def outputs(self, sequence: str) -> list[RecordedOutput]:
        """Recorded outputs of a sequence.

        Raises:
            ValueError: There is none, or one that this command does not know.
        """
        found = []
        for name, tensor in self.tensors.items():
            own, _, output = name.partition(".")
            if own != sequence or output == "cache_cat":
                continue
            output, step = every_nth(output)
            match = _OUTPUT.fullmatch(output)
            if match is None:
                raise ValueError(f"the output {name!r} is not one that this command can compare")
            found.append(RecordedOutput(match[1], int(match[2]), step, tensor))
        if not found:
            raise ValueError(f"the recording has no output of sequence {sequence}, so there is nothing to compare")
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
            for name, compare in (("", _compare_alone), (", gradients", _compare_gradients)):
                case = f"memory {depth} {sequence}{name}"
                yield run_case(case, with_explicit_attention, compare, recording, sequence)
            yield run_case(f"memory {depth} {sequence}, original form", _compare_original_form, recording, sequence)
        batch = f"memory {depth}, all sequences in one batch"
        yield run_case(batch, with_explicit_attention, _compare_batch, recording)
        yield run_case(f"{batch}, fused attention", _compare_fused, recording)
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


@torch.no_grad()
def _compare_fused(recording: Recording) -> Sequence[Check]:
    """The same batch with fused attention, as models run it; see ``fused_tolerance``."""
    names = list(recording.meta)
    walked = walk(recording.build(), [recording.sequences[name] for name in names])
    exact = with_explicit_attention(
        walk, recording.build().double(), [[each.double() for each in recording.sequences[name]] for name in names]
    )
    checks = []
    for video, name in enumerate(names):
        outputs = zip(_outputs(recording, name, walked, video), _outputs(recording, name, exact, video), strict=True)
        for (what, ours, theirs), (_, in_float64, _) in outputs:
            checks.append(close_check(what, ours, theirs, fused_tolerance(in_float64, theirs)))
    return checks


def _compare_outputs(recording: Recording, sequence: str, walked: Walk, video: int) -> Iterator[Check]:
    for what, ours, theirs in _outputs(recording, sequence, walked, video):
        yield close_check(what, ours, theirs)
    theirs = recording.meta[sequence]["cache_cat_shape"]
    shape = [*walked.cache(video).shape]
    yield exact_check(f"{sequence} size of the cache", shape, [theirs[0] * theirs[1], theirs[2]])


def _outputs(recording: Recording, sequence: str, walked: Walk, video: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, our tensor and the recorded one of all outputs of a sequence that ours has."""
    for kind, number, step, theirs in recording.outputs(sequence):
        if kind != "frame_scores":
            ours = walked.written(number) if kind == "memory" else walked.updated_queries[number]
            assert ours is not None
            yield f"{sequence}.{kind}.{number}", nth_vectors(ours[video], step, theirs), theirs
    cache = recording.tensors.get(f"{sequence}.cache_cat")
    if cache is not None:
        yield f"{sequence}.cache_cat", walked.cache(video).view(cache.shape), cache


def _compare_gradients(recording: Recording, sequence: str) -> Sequence[Check]:
    return compare_gradients(recording.build(), recording.sequences[sequence], recording.meta[sequence])


@torch.no_grad()
def _compare_original_form(recording: Recording, sequence: str) -> Sequence[Check]:
    steps = run_segments(recording.build(), recording.sequences[sequence])
    checks = []
    for kind, number, step, theirs in recording.outputs(sequence):
        ours = nth_vectors(getattr(steps[number], kind), step, theirs)
        checks.append(close_check(f"{sequence}.{kind}.{number}", ours, theirs))
    return checks
