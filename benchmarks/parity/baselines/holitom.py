"""HoliTom: windows of static patches, and what is left of each."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.merging.density_peaks import Noise
from components.reducers.static_merge import StaticMerge, WindowTokens, static_cells
from components.segmenters.static_segments import StaticWindows, static_windows


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if "hidden" in case.inputs:
        raise DeclinedError("it merges inside the language model, where there is no part yet")
    options = case.options
    if "sim" in case.inputs:
        windows = static_windows(case.inputs["sim"] > options["tau"], options["max_window"])
        return _windows(case, windows)
    if case.raises is not None:  # clusters among the moving patches do not run there
        return [exact_check("finite", bool(torch.cat(list(_tokens(case, None))).isfinite().all()), True)]
    drawn = iter([case.outputs[name] for name in sorted(case.outputs, key=_number) if name.startswith("noise")])

    def noise(mask: Tensor) -> Tensor:
        if not bool(mask.any()):
            return torch.zeros(mask.shape)  # the original makes no call for nothing
        return torch.zeros(mask.shape).masked_scatter(mask, next(drawn).float())

    return [*_windows(case, _found(case)), case.output_check("tokens", torch.cat(list(_tokens(case, noise))))]


def _number(name: str) -> int:
    return int(name.rpartition(".")[2]) if name.startswith("noise") else -1


def _windows(case: RecordedCase, found: StaticWindows) -> list[Check]:
    ends = torch.tensor(found.lengths).cumsum(0).tolist()
    ours = [[end - length, end - 1] for end, length in zip(ends, found.lengths, strict=True)]
    checks = [exact_check("windows", ours, case.outputs_json["windows"])]
    return [*checks, exact_check("saved", float(found.saved), case.outputs_json["total_reduced"])]


def _found(case: RecordedCase) -> StaticWindows:
    frames = case.inputs["feat"]
    similarity = torch.nn.functional.cosine_similarity(frames[:-1], frames[1:], dim=2)
    return static_windows(similarity > case.options["tau"], case.options["max_window"])


def _tokens(case: RecordedCase, noise: Noise | None) -> Iterator[Tensor]:
    """What is left, window by window, in the recorded layout."""
    options, frames, saliency = case.options, case.inputs["feat"], case.inputs["attn"]
    found = _found(case)
    total = frames.shape[0] * frames.shape[1]
    ratio = min(options["retain_ratio"] / (1 - found.saved / total), 1.0)
    part = StaticMerge(
        frames.shape[2],
        ratio=options["retain_ratio"],
        threshold=options["tau"],
        centre=options["Beta"],
        neighbours=options["K"],
        merged=options["D"],
    )
    first = 0
    for length in found.lengths:
        grid, salient = (each[None, first : first + length] for each in (frames, saliency))
        first += length
        mask = torch.ones(1, length, dtype=torch.bool)
        static = static_cells(grid, mask, options["tau"])
        left = part.window_tokens(grid, mask, salient, static, torch.tensor([ratio], dtype=torch.float64), noise)
        newline = case.inputs.get("image_newline") if options["newline"] == "grid" else None
        yield _laid_out(left) if newline is None else _with_newlines(left, newline)


def _laid_out(left: WindowTokens) -> Tensor:
    """Static tokens, then of every frame the salient and the merged ones."""
    shown = [left.static[0][left.static_mask[0]]]
    for frame, salient, merged in zip(left.moving[0], left.salient_mask[0], left.merged_mask[0], strict=True):
        shown += [frame[salient], frame[merged]]
    return torch.cat(shown)


def _with_newlines(left: WindowTokens, newline: Tensor) -> Tensor:
    """All tokens of a frame by their cells, static ones in the first, with a newline after every row that has one."""
    shown = []
    for number, frame in enumerate(left.moving[0]):
        mask, tokens = left.salient_mask[0, number] | left.merged_mask[0, number], frame
        if number == 0:
            mask = mask | left.static_mask[0]
            tokens = torch.where(left.static_mask[0][:, None], left.static[0], frame)
        side = round(len(mask) ** 0.5)
        for row, is_left in zip(tokens.unflatten(0, (side, side)), mask.unflatten(0, (side, side)), strict=True):
            if bool(is_left.any()):
                shown += [row[is_left], newline[None]]
    return torch.cat(shown)
