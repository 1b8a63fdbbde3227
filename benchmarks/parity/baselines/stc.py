"""STC: the tokens that its pruner keeps of every chunk, and its memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError
from components.interfaces import SegmentInput
from components.reducers.novelty_pruner import NoveltyPruner, NoveltyState


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare the chunks of a stream; the newlines after the kept tokens of a frame are put in here."""
    if "feat" not in case.inputs:
        raise DeclinedError("its cacher reuses layers inside the encoder, and encoders here run whole")
    options, features = case.options, case.inputs["feat"]
    num_cells, kept_cells = options["tokens_per_frame"], options["token_per_frame"]
    pruner = NoveltyPruner(features.shape[2], rate=kept_cells / num_cells, as_published=True)
    state: NoveltyState | None = None
    before = torch.zeros(pruner.num_channels)
    checks, memories, first = [], [], 0
    for number, length in enumerate(options["chunks"]):
        grid = features[first : first + length]
        mask = torch.ones(1, length, dtype=torch.bool)
        reduced, state = pruner(SegmentInput.from_grid(grid[None], mask, torch.zeros(1, length).long()), state)
        memories.append(state.total[0] - before)  # the recorded memory has the mean of every chunk
        before = state.total[0]
        if f"kept{number}" in case.outputs:
            checks.append(case.output_check(f"kept{number}", _shown(case, reduced, first, length)))
        first += length
    return [*checks, case.output_check("memory", torch.stack(memories))] if "memory" in case.outputs else checks


def _shown(case: RecordedCase, reduced: SegmentInput, first: int, length: int) -> Tensor:
    """The kept tokens of a chunk, in the recorded layout."""
    if "raw" not in case.inputs:
        return reduced.tokens[0]
    side = round(case.options["tokens_per_frame"] ** 0.5)
    raw = case.inputs["raw"].unflatten(0, (-1, side, side + 1))[first : first + length]  # the last column: newlines
    groups, cells = reduced.token_groups[0], reduced.token_cells[0]
    frames = []
    for frame in range(length):
        kept = raw[frame, :, :-1].flatten(0, 1)[cells[groups == frame]]
        frames += [kept, raw[frame, :, -1]]
    return torch.cat(frames)
