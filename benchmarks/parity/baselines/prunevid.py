"""PruneVid: scenes of frames, and the tokens that are left of a video."""

from collections.abc import Sequence
from itertools import groupby

import torch

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.baselines.recorded_noise import RecordedNoise
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.reducers.static_and_moving import StaticAndMoving
from components.segmenters.scene_clusters import SceneClusters, longest_runs

_NEIGHBOURS_OF_TOKENS = 7  # whatever the option says, which is for frames


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    return _refined(case) if "labels" in case.inputs else _merged(case)


def _refined(case: RecordedCase) -> Sequence[Check]:
    rows = [longest_runs(row) for row in case.inputs["labels"].tolist()]
    lengths = [_lengths(row) for row in rows]
    most = max(map(len, lengths))
    padded = torch.tensor([[*row, *[0] * (most - len(row))] for row in lengths])
    named = {"refined": torch.tensor(rows), "lengths": padded}
    return [case.output_check(name, named[name]) for name in case.outputs]


def _lengths(labels: list[int]) -> list[int]:
    return [len(list(members)) for _, members in groupby(labels)]


def _merged(case: RecordedCase) -> Sequence[Check]:
    options, frames = case.options, case.inputs["frames"]
    noise = RecordedNoise(case)
    segmenter = SceneClusters(options["temporal_segment_ratio"], options["k"])
    reducer = StaticAndMoving(
        frames.shape[3],
        threshold=options["tau"],
        cluster_ratio=options["cluster_ratio"],
        num_neighbours=_NEIGHBOURS_OF_TOKENS,
    )
    count = torch.tensor([frames.shape[1]])
    with_noise = noise if noise.num_left else None
    windows = _lengths(longest_runs(segmenter.labels(frames.mean(dim=2), count, with_noise)[0].tolist()))
    sizes: dict[str, list[int]] = {"static_sizes": [], "dynamic_sizes": [], "window_sizes": windows}
    tokens = []
    for window in frames.split(windows, dim=1):
        mask = torch.ones(window.shape[:2], dtype=torch.bool)
        for name, group in zip(sizes, reducer.static_and_moving(window, mask, with_noise), strict=False):
            tokens.append(group.tokens[group.mask])
            sizes[name].append(len(tokens[-1]))
    joined = torch.cat(tokens).unsqueeze(0)
    if case.raises is not None:  # too few frames or tokens for the neighbours: here all there are count
        return [exact_check("finite tokens", bool(joined.isfinite().all()) and len(joined[0]) > 0, True)]
    if 1 in windows:
        raise DeclinedError("a window of one frame is divided by zero there; here it has no static cells")
    recorded = case.outputs_json or {}
    checks = [exact_check(name, sizes[name], recorded[name]) for name in sizes if name in recorded]
    return [*checks, case.output_check("tokens", joined), exact_check("random numbers left", noise.num_left, 0)]
