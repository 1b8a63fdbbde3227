"""Bipartite merging: AIM, VideoChat-Flash and LongVLM; and what DyCoke drops."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.interfaces import SegmentInput
from components.merging.bipartite import MergedTokens, merge_similar, merged_to
from components.pooling.patch_pooling import Reduction, WindowPooling
from components.reducers.clip_merge import ClipMerge
from components.reducers.frame_merge import numbers_that_join
from components.reducers.pair_token_drop import tokens_of_pairs


def compare_aim(case: RecordedCase) -> Sequence[Check]:
    """Compare merged frames, in the order of the matching."""
    frames = case.inputs["x"]
    if "side" in case.options:
        frames = pooled(frames, case.options.get("mode", "bilinear"), case.options.get("stride", 2))
    joining = case.options.get("r", numbers_that_join(frames.shape[1], 2))
    merged = _rows(frames)
    after = _after(merged, joining, weighted=False)
    if case.raises is not None:  # a round in which no patch joins another is no error here
        left = frames.shape[1]
        for number in joining:
            left -= min(number, left // 2)
        return [exact_check("tokens", after.num_real.tolist(), [left] * len(frames))]
    return [case.output_check("tokens", _real(after))]


def compare_videochat_flash(case: RecordedCase) -> Sequence[Check]:
    """Compare merged clips, in the order of the matching."""
    options, tokens = case.options, case.inputs["x"]
    heads = options.get("heads", 1)
    if "target" in options:
        rows, wanted = tokens, options["target"]
    else:
        clip = options.get("local_num_frames", 4) if options.get("compress") else 1
        clip = len(tokens) if clip == -1 else clip
        if len(tokens) % clip:  # an error there
            return _shorter_last_clip(tokens, clip, tokens_a_frame=16)
        rows = tokens.reshape(-1, clip * tokens.shape[1], tokens.shape[2])
        wanted = 16 * clip if options.get("compress") else 64
    if case.raises is not None:  # as many tokens as wanted stay here
        left = min(wanted, rows.shape[1])
        return [exact_check("tokens", _halved(rows, wanted, heads).num_real.tolist(), [left] * len(rows))]
    return [case.output_check("tokens", _real(_halved(rows, wanted, heads)))]


def compare_longvlm(case: RecordedCase) -> Sequence[Check]:
    """Compare the merged tokens of all segments, in the order of the matching."""
    if "frames" not in case.inputs:
        raise DeclinedError("its global tokens are class tokens of several layers; encoders here give that of one")
    clip = case.options["clips"]
    if case.raises is not None:  # frames that fill no segment
        return _shorter_last_clip(case.inputs["frames"], clip, tokens=3)
    frames = case.inputs["frames"]
    rows = frames.reshape(-1, clip * frames.shape[1], frames.shape[2])
    merged = _after(_rows(rows), case.options["r"], weighted=True, heads=16)
    return [case.output_check("local", _real(merged).flatten(0, 1))]


def compare_dycoke(case: RecordedCase) -> Sequence[Check]:
    """Compare the kept tokens; the original orders those of a compared frame by similarity."""
    grid, drop = case.inputs["tokens"], case.options["k"]
    if case.raises is not None:  # four frames or fewer are no error here
        chosen = tokens_of_pairs(grid[None], torch.ones(1, len(grid), dtype=torch.bool), drop)
        return [exact_check("every frame keeps a token", bool(chosen.any(dim=2).all()), True)]
    chosen = tokens_of_pairs(grid[None], torch.ones(1, len(grid), dtype=torch.bool), drop, as_published=True)[0]
    kept = []
    for place, (frame, stays) in enumerate(zip(grid, chosen, strict=True)):
        tokens = frame[stays]
        if len(tokens) < len(frame):
            reference = grid[place - 1 if place % 2 else place - 2]
            similarity = functional.cosine_similarity(frame, reference, dim=1)
            tokens = tokens[similarity[stays].argsort(stable=True)]
        kept.append(tokens)
    return [case.output_check("tokens", torch.cat(kept))]


def pooled(frames: Tensor, mode: Reduction, stride: int = 2) -> Tensor:
    """Frames pooled by a stride: bilinear to a grid that is rounded up, or by windows."""
    made: Tensor = WindowPooling(frames.shape[2], stride=stride, reduction=mode)(frames)
    return made


def _shorter_last_clip(frames: Tensor, clip: int, **number: int) -> Sequence[Check]:
    """Check that the frames that fill no clip are merged as a shorter one."""
    rest, num_cells, dim = frames[len(frames) // clip * clip :], frames.shape[1], frames.shape[2]
    padded = functional.pad(rest, (0, 0, 0, 0, 0, clip - len(rest)))[None]
    mask = (torch.arange(clip) < len(rest))[None]
    segment = SegmentInput.from_grid(padded, mask, torch.zeros(1, clip).long())
    reduced, _ = ClipMerge(dim, **number)(segment, None)
    wanted = number.get("tokens") or number["tokens_a_frame"] * len(rest)
    return [exact_check("tokens of the rest", int(reduced.token_mask.sum()), min(wanted, num_cells * len(rest)))]


def _rows(tokens: Tensor) -> MergedTokens:
    return MergedTokens.of_tokens(tokens, torch.full((len(tokens),), tokens.shape[1]))


def _after(merged: MergedTokens, joining: Sequence[int], *, weighted: bool, heads: int = 1) -> MergedTokens:
    for number in joining:
        joins = torch.full_like(merged.num_real, number)
        merged = _shortened(merge_similar(merged, joins, heads=heads, weighted=weighted))
    return merged


def _halved(rows: Tensor, wanted: int, heads: int) -> MergedTokens:
    return merged_to(_rows(rows), torch.full((len(rows),), wanted), heads=heads)


def _shortened(merged: MergedTokens) -> MergedTokens:
    """Without padding."""
    most = int(merged.num_real.max())
    return MergedTokens(merged.tokens[:, :most], merged.sizes[:, :most], merged.place[:, :most], merged.num_real)


def _real(merged: MergedTokens) -> Tensor:
    return _shortened(merged).tokens
