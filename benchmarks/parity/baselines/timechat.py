"""TimeChat-Online: which visual tokens are dropped, by their features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.interfaces import SegmentInput
from components.reducers.temporal_token_drop import TemporalTokenDrop


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare which tokens of a sequence stay; words and positions go along with them."""
    options = case.options
    if options.get("method") != "feature":
        raise DeclinedError("it compares pixels, which are gone when a reducer reads patches")
    frames, rows, columns = options["grid"]
    absolute = options.get("absolute") is not False
    settings = {"threshold": options["threshold"]} if absolute else {"ratio": options["threshold"]}
    checks: list[Check] = []
    kept_hidden = []
    ids, hidden = case.inputs["input_ids"].flatten(0, 1), case.inputs["hidden"]
    for row, (tokens, states) in enumerate(zip(ids, hidden, strict=True)):
        is_visual = _visual(tokens, frames * rows * columns)
        grid = states[is_visual].unflatten(0, (frames, rows * columns))
        mask = torch.ones(1, frames, dtype=torch.bool)
        segment = SegmentInput.from_grid(grid[None], mask, torch.zeros(1, frames).long())
        reduced, _ = TemporalTokenDrop(grid.shape[2], **settings)(segment, None)
        places = reduced.token_groups[0] * rows * columns + reduced.token_cells[0]
        stays = ~is_visual
        stays[is_visual.nonzero().flatten()[places[reduced.token_mask[0]]]] = True
        kept_hidden.append(states[stays])
        if "position_ids" in case.outputs:
            theirs = case.outputs["position_ids"][:, row]
            ours = case.inputs["position_ids"][:, row][:, stays]
            checks.append(exact_check(f"position_ids {row}", ours.tolist() == theirs.tolist(), True))
    return [*checks, case.output_check("hidden", torch.stack(kept_hidden))]


def _visual(ids: Tensor, number: int) -> Tensor:
    """The run of equal ids that is as long as the video."""
    _, run, counts = ids.unique_consecutive(return_inverse=True, return_counts=True)
    return run == int((counts == number).nonzero()[0])
