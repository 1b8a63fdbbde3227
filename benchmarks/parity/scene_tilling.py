"""Compares SceneTilling with recordings of the original: ``scene_tiling.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import (
    MOST_CUTS,
    CaseResult,
    Check,
    exact_check,
    output_check,
    run_case,
    stored_input,
)
from components.segmenters.depth import adjacent_similarity, depth_scores, left_rise
from components.segmenters.scene_tilling import SceneTilling


def scene_tilling_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``scene_tiling.json``."""
    recorded = json.loads((folder / "scene_tiling.json").read_text())
    tensors = load_file(folder / "scene_tiling.safetensors")
    for name, case in recorded["cases"].items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        yield run_case(f"scene_tiling {name}", _compare, own, case)


def _compare(tensors: dict[str, Tensor], case: dict[str, Any]) -> Sequence[Check]:
    similarity = adjacent_similarity(stored_input(tensors, "features", case))
    left, both = left_rise(similarity) if similarity.numel() else similarity, depth_scores(similarity)
    ours = {"sim_scores": similarity, "depth_scores": both, "left_depth_scores": left}
    checks = [output_check(key, ours[key], theirs) for key, theirs in tensors.items() if key in ours]
    for form, depth in (("segment", both), ("segment_left", left)):
        for option, theirs in case.get(form, {}).items():
            # If k exceeds the number of gaps, the original raises an error; ours cuts at every gap.
            if not isinstance(theirs, str):
                chosen = _boundaries(form, option, depth)
                is_tied = option in case.get(f"{form}_tied_options", ())
                compared = (len(chosen), sorted(chosen)) if is_tied else chosen
                expected = (len(theirs), compared[1]) if is_tied else theirs
                checks.append(exact_check(f"{form} {option}", compared, expected))
    return checks


def _boundaries(form: str, option: str, depth: Tensor) -> list[int]:
    """Last frame of every segment. The original's one-sided form has no maximum and omits the video's last frame."""
    kind, value = option.split("=")
    two_sided = form == "segment"
    if kind == "k":
        segmenter = SceneTilling(k=int(value))
    else:
        segmenter = SceneTilling(alpha=float(value), max_cuts=MOST_CUTS if two_sided else None)
    cuts: list[int] = segmenter.cuts(depth[None])[0].nonzero()[:, 0].tolist()
    last_frame = depth.shape[0]
    return [*cuts, last_frame] if two_sided or not cuts else cuts
