"""Chat-UniVi: one clustering of tokens, and the tokens of a video or of pictures."""

from collections.abc import Sequence

import torch

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.baselines.recorded_noise import RecordedNoise
from benchmarks.parity.comparison import Check, exact_check
from components.merging.density_peaks import cluster_means, density_peaks, memberships
from components.reducers.event_clusters import EventClusters, joined_levels

_SMOOTHING = 1e-6


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    return _one_clustering(case) if "K" in case.options else _project(case)


def _one_clustering(case: RecordedCase) -> Sequence[Check]:
    tokens, count = case.inputs["x"], case.options["K"]
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    most = min(count, tokens.shape[1])
    noise = RecordedNoise(case)
    of_rows = torch.full((len(tokens),), count)
    neighbours = torch.full_like(of_rows, case.options["k"])
    peaks = density_peaks(tokens, mask, of_rows, neighbours, most=most, noise=noise if noise.num_left else None)
    members = memberships(peaks, mask)
    if case.raises is not None:  # too few tokens: here there are fewer clusters or neighbours then
        return [exact_check("clusters with members", bool(members.any(dim=2).all()), True)]
    sizes = members.sum(dim=2).gather(1, peaks.labels).unsqueeze(2)
    named = {
        "idx_cluster": peaks.labels,
        "merged": cluster_means(tokens, members, _SMOOTHING),
        "agg_weight": 1.0 / (sizes + _SMOOTHING),
    }
    return [case.output_check(name, named[name]) for name in case.outputs if name in named]


def _project(case: RecordedCase) -> Sequence[Check]:
    frames, options = case.inputs["x"], case.options
    *levels, rate = options["clusters"]
    counts = [int(level) for level in levels]
    part = EventClusters(frames.shape[2], num_clusters=counts, event_rate=rate, as_published=True)
    noise = RecordedNoise(case)
    if options["type"] == "image":
        found = part.frame_levels(frames, torch.ones(len(frames), dtype=torch.bool), noise)
    else:
        found = part.event_levels(frames.unsqueeze(0), torch.ones(1, len(frames), dtype=torch.bool), noise)
    joined = joined_levels(found)
    if case.raises is not None:  # too few tokens: here there are fewer clusters then
        return [exact_check("finite tokens", bool(joined.tokens[joined.mask].isfinite().all()), True)]
    tokens = joined.tokens if options["type"] == "image" else joined.tokens[joined.mask].unsqueeze(0)
    return [case.output_check("tokens", tokens), exact_check("random numbers left", noise.num_left, 0)]
