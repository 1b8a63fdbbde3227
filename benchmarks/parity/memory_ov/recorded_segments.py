"""Compares segments and chosen frames with recordings: ``segments.json``."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import TIE_MARGIN, CaseResult, Check, exact_check, largest_error, run_case
from benchmarks.parity.memory_ov.frame_choice import frame_choice_cases
from benchmarks.parity.memory_ov.tolerance import close_check
from components.segmenters.depth import adjacent_similarity, depth_scores
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling

_DEFAULT_ALPHA = 0.5  # of the original's ``segment``
_LEFTOVER_FIRST = (
    "the original's uniform_segment puts the shorter segment first, and its model does not call it; FixedLength puts "
    "the shorter segment last, as the function that the model calls does, because a streamed video has no known end"
)
_UNCALLED = (
    "the original's model does not call adjusted_segment, whose rules we do not have: it merges candidates by distance "
    "and takes a gap's index as a frame's"
)
_ONE_FRAME = "the original returns boundary 0 for a video of one frame, which ends no frame; here it is one segment"
_Boundaries = dict[str, list[int] | str]


def segment_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``segments.json``."""
    recorded = json.loads((folder / "segments.json").read_text())
    for function, boundaries in recorded.get("segments", {}).items():
        if function in ("uniform_segment", "uniform_segment_variant"):
            yield from _fixed_length_cases(function, boundaries)
        elif function == "segment":
            yield from _scene_tilling_cases(folder, boundaries)
        elif function == "adjusted_segment":
            yield _declined(function, boundaries, _UNCALLED)
        else:
            yield CaseResult(function, (), broken="this function is not one that this command can compare")
    yield from frame_choice_cases(recorded)


def _declined(name: str, cases: Any, reason: str) -> CaseResult:
    return CaseResult(f"{name} ({len(cases)} cases)", (), declined=reason)


def _fixed_length_cases(function: str, boundaries: _Boundaries) -> Iterator[CaseResult]:
    """Compare with ``FixedLength`` where the leftover's position is the same."""
    leftover_first = []
    compared = []
    for name in boundaries:
        num_frames, width = _numbers(r"T(\d+)_d(\d+)", name)
        has_leftover = num_frames > width and num_frames % width
        (leftover_first if function == "uniform_segment" and has_leftover else compared).append(name)
    if compared:
        yield run_case(f"{function} ({len(compared)} cases)", _compare_fixed_lengths, boundaries, compared)
    if leftover_first:
        yield _declined(f"{function} with a shorter segment", leftover_first, _LEFTOVER_FIRST)


def _compare_fixed_lengths(boundaries: _Boundaries, names: Sequence[str]) -> Sequence[Check]:
    checks = []
    for name in names:
        num_frames, width = _numbers(r"T(\d+)_d(\d+)", name)
        index = FixedLength(width).segment(torch.zeros(num_frames, 1), torch.tensor([num_frames]))
        starts = [0, *((index[1:] != index[:-1]).nonzero()[:, 0] + 1).tolist()]
        checks.append(exact_check(name, [*starts, num_frames], boundaries[name]))
    return checks


def _scene_tilling_cases(folder: Path, boundaries: _Boundaries) -> Iterator[CaseResult]:
    """Compare with the depth scores and cuts of ``SceneTilling``, one case for each length."""
    tensors = load_file(folder / "segment_features.safetensors")
    by_length: dict[int, _Boundaries] = {}
    for name, found in boundaries.items():
        num_frames, _ = _split_variant(name)
        by_length.setdefault(num_frames, {})[name] = found
    for num_frames, own in by_length.items():
        errors = {name: found for name, found in own.items() if isinstance(found, str)}
        cuts = {name: found for name, found in own.items() if not isinstance(found, str)}
        if num_frames == 1:
            yield _declined(f"segment T{num_frames}", own, _ONE_FRAME)
            continue
        if errors:
            kinds = ", ".join(sorted(set(errors.values())))
            reason = f"the original raises {kinds}; SceneTilling cuts such a video at the gaps that it has"
            yield _declined(f"segment {', '.join(errors)}", errors, reason)
        if cuts:
            yield run_case(f"segment T{num_frames}", _compare_scenes, num_frames, cuts, tensors)


def _compare_scenes(num_frames: int, cuts: _Boundaries, tensors: dict[str, Tensor]) -> Sequence[Check]:
    similarity = adjacent_similarity(tensors[f"features.T{num_frames}"])
    similarity[0] = similarity[1]  # as the original does; ours reads the first similarity itself
    depth = depth_scores(similarity)
    checks = [close_check("depth scores", depth, tensors[f"segment_depth.T{num_frames}"])]
    for name, theirs in cuts.items():
        _, variant = _split_variant(name)
        cut = _segmenter(variant).cuts(depth[None])[0].nonzero()[:, 0].tolist()
        ours = [*cut, num_frames]
        checks.append(exact_check(name, theirs if _are_as_deep(depth, ours, theirs) else ours, theirs))
    return checks


def _are_as_deep(depth: Tensor, ours: list[int], theirs: list[int] | str) -> bool:
    """Whether other cuts than ours are a choice among gaps of equal depth, of which ours takes the first."""
    if isinstance(theirs, str) or len(ours) != len(theirs) or ours[-1] != theirs[-1]:
        return False
    chosen = [depth[cuts[:-1]].sort().values for cuts in (ours, theirs)]
    return largest_error(*chosen) <= TIE_MARGIN


def _segmenter(variant: str) -> SceneTilling:
    if variant.startswith("k"):
        return SceneTilling(k=int(variant.removeprefix("k")))
    return SceneTilling(alpha=_DEFAULT_ALPHA if variant == "default" else float(variant.removeprefix("alpha")))


def _split_variant(name: str) -> tuple[int, str]:
    """Number of frames and variant of a case such as ``T20_alpha1.5``."""
    length, _, variant = name.partition("_")
    return int(length.removeprefix("T")), variant


def _numbers(pattern: str, name: str) -> tuple[int, ...]:
    match = re.fullmatch(pattern, name)
    if match is None:
        raise ValueError(f"the case {name!r} is not one that this command can compare")
    return tuple(map(int, match.groups()))
