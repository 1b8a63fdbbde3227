"""FastVID: segments, and the tokens that are left of a video, in the forms for two language models."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, exact_check
from components.reducers.anchor_merge import AnchorMerge
from components.segmenters.dynamic_cuts import DynamicCuts

_GRID_SIDE = 13  # the form for LLaVA-Video knows this size alone
_SIDE_WITH_NEWLINE = _GRID_SIDE + 1


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    options, inputs = case.options, case.inputs
    if "hidden" not in inputs:
        return [exact_check("segment_sizes", _segment_sizes(case), case.outputs_json["segment_sizes"])]
    is_video_form = "N" not in options
    num_frames = len(inputs["global"])
    num_cells = _GRID_SIDE**2 if is_video_form else options["N"]
    part = AnchorMerge(
        inputs["hidden"].shape[2],
        ratio=options["ratio"],
        target_share=options["d"],
        anchor_step=options["p"],
        target_weight=options["beta"],
        budget="segment" if is_video_form else "each_frame",
    )
    sizes = _segment_sizes(case)
    if case.raises is not None:  # fewer frames than segments: here each is a segment of its own
        return [exact_check("segments", len(sizes), min(num_frames, options["c"]))]
    index = _token_index(num_frames, num_cells, is_video_form) + options["start"]
    hidden = inputs["hidden"].clone()
    keeps = torch.ones(hidden.shape[1], dtype=torch.bool)
    keeps[options["start"] : int(index.max()) + 1] = False
    attention = inputs["attn"].view(num_frames, num_cells)
    noise = _noise_of_anchors(case, part, sizes, num_cells, is_video_form)
    for frames in torch.arange(num_frames).split(sizes):
        own = index[frames]
        mask = torch.ones(1, len(frames), dtype=torch.bool)
        grid = inputs["hidden"][0, own].unsqueeze(0)
        recorded = next(noise)
        tokens, chosen = part.merged(grid, attention[frames].unsqueeze(0), mask, lambda _, drawn=recorded: drawn)
        hidden[0, own] = tokens[0]
        keeps[own[chosen[0]]] = True
    if is_video_form:
        _keep_newlines(keeps, options["start"], num_frames)
    named = {"hidden": hidden[:, keeps], "keep": keeps.nonzero().squeeze(1)}
    checks = [case.output_check(name, named[name]) for name in named if name in case.outputs]
    return [exact_check("segment_sizes", sizes, case.outputs_json["segment_sizes"]), *checks]


def _segment_sizes(case: RecordedCase) -> list[int]:
    frames = case.inputs["global"]
    index = DynamicCuts(case.options["c"], case.options["tau"]).segment(frames, torch.tensor([len(frames)]))
    return index.bincount().tolist()


def _token_index(num_frames: int, num_cells: int, with_newlines: bool) -> Tensor:
    """Position of every patch among the visual tokens, ``[T, N]``."""
    if not with_newlines:
        return torch.arange(num_frames * num_cells).view(num_frames, num_cells)
    rows = torch.arange(num_frames * _GRID_SIDE * _SIDE_WITH_NEWLINE).view(num_frames, _GRID_SIDE, _SIDE_WITH_NEWLINE)
    return rows[:, :, :-1].flatten(1)


def _keep_newlines(keeps: Tensor, start: int, num_frames: int) -> None:
    """Keep the newline of every row that keeps a token."""
    rows = keeps[start : start + num_frames * _GRID_SIDE * _SIDE_WITH_NEWLINE].view(-1, _SIDE_WITH_NEWLINE)
    rows[:, -1] = rows[:, :-1].any(dim=1)


def _noise_of_anchors(
    case: RecordedCase, part: AnchorMerge, sizes: Sequence[int], num_cells: int, is_drawn: bool
) -> Iterator[Tensor]:
    """The random numbers ``[A, N]`` of the anchors of each segment, the last anchor first."""
    generator = torch.Generator().manual_seed(case.seed)
    attention, first = case.inputs["attn"].view(-1, num_cells), 0
    for size in sizes:
        salient = part.budget_of(size, num_cells).salient
        of_anchors = []
        for frame in range(size - 1, -1, -part.anchor_step):
            order = attention[first + frame].argsort(descending=True, stable=True)
            rest = order[salient[frame] :].sort().values
            drawn = torch.rand(len(rest), generator=generator) if is_drawn else case.outputs["noise.0"][first + frame]
            of_anchors.append(torch.zeros(num_cells).scatter(0, rest, drawn))
        yield torch.stack(of_anchors)
        first += size
