"""Flash-VStream (Qwen2-VL form): ordered clustering, half resolution, and the memory of clusters and details."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.parity.baselines.published_forms.qwen_frames import grid_positions, half_resolution
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.bridges.cluster_and_detail_memory import ClusterAndDetailMemory, largest_clusters
from components.merging.weighted_kmeans import Draws, nearest, ordered_by_time, weighted_kmeans

KMEANS = {"kmeans_ordered", "fast_kmeans_ordered"}


class OrderedFrames(NamedTuple):
    """Clusters of one video in the order of time."""

    frames: Tensor  # [K, P, D]
    weights: Tensor  # [K]
    times: Tensor  # [K]
    members: list[list[int]]


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if case.raises is not None:
        return [_refused(case)]
    if "patches" in case.inputs:
        halved = half_resolution(case.inputs["patches"], _grid(case.inputs["thw"]))
        size = case.inputs["thw"] // torch.tensor([1, 2, 2])
        return [case.output_check("patches", halved), case.output_check("thw", size)]
    if "feat" in case.inputs:
        found = _clusters(case.inputs["feat"], case.options["K"], case.outputs_json)
        named = {"feat": found.frames, "weights": found.weights, "timestamps": found.times}
        checks = [case.output_check(name, ours) for name, ours in named.items() if name in case.outputs]
        if len(case.inputs["feat"]) > case.options["K"]:
            checks.append(exact_check("members", found.members, case.outputs_json["step_indices"]))
        return checks
    return _memory(case)


def _refused(case: RecordedCase) -> Check:
    try:
        if "patches" in case.inputs:
            half_resolution(case.inputs["patches"], _grid(case.inputs["thw"]))
        else:
            length = case.options["flash_memory_temporal_length"] // 2
            ClusterAndDetailMemory(4, 4, num_clusters=length, num_details=length)
    except ValueError as error:
        return exact_check("refused", "must be" in str(error) or "divisible by 4" in str(error), True)
    raise DeclinedError(f"the original refuses this, and our memory has no such setting: {case.raises}")


def _memory(case: RecordedCase) -> Sequence[Check]:
    time, height, width = _grid(case.inputs["thw"])
    _, small_height, small_width = _grid(case.inputs["small_thw"])
    frames = _frames(case.inputs["x"], time)
    small = _frames(case.inputs["small_x"], time)
    found = _context(case, small)
    numbers = _details(case.options, small, found)
    details = frames[numbers]
    tokens = torch.cat([details.flatten(0, 1), found.frames.flatten(0, 1)])
    checks = [case.output_check("tokens", tokens)]
    if "position_ids" not in case.outputs:
        return checks
    of_details = grid_positions(numbers, height // 2, width // 2)
    of_clusters = grid_positions(found.times.round().long(), small_height // 2, small_width // 2)
    positions = torch.cat([of_details, of_clusters + of_details.shape[1]], dim=1)
    is_visual = case.inputs["visual_position_ids"][0] >= 0
    ours = case.inputs["position_ids"].clone()
    first = ours[0, 0, is_visual][0]
    ours[:, 0, is_visual] = first + positions
    return [*checks, case.output_check("position_ids", ours)]


def _context(case: RecordedCase, small: Tensor) -> OrderedFrames:
    """The clusters, or samples instead of them."""
    limit, method = case.options["flash_memory_temporal_length"] // 2, case.options["flash_memory_temporal_method"]
    count = len(small)
    if count <= limit or method == "sample" or limit == 0:
        numbers = torch.arange(count) if count <= limit else torch.linspace(0, count - 1, limit).long()
        return OrderedFrames(small[numbers], torch.ones(len(numbers)), numbers.float(), [])
    if method not in KMEANS:
        raise DeclinedError(f"there is no memory that makes clusters by {method} here")
    return _clusters(small, limit, case.outputs_json)


def _details(options: dict[str, Any], small: Tensor, found: OrderedFrames) -> Tensor:
    """Numbers of the large frames, as published: in the order of their clusters' sizes."""
    limit, method = options["flash_memory_spatial_length"] // 2, options["flash_memory_spatial_method"]
    if len(small) <= limit:
        return torch.arange(len(small))
    if method == "sample":
        return torch.linspace(0, len(small) - 1, limit).round().long()
    chosen = largest_clusters(found.weights[None], limit)[0]
    if method == "nearest":
        return found.times[chosen].round().long()
    centroids, candidates = found.frames[chosen].flatten(1), small.flatten(1)
    if method == "klarge_retrieve_cos":  # the frame that is least similar, by an accident
        one, other = (each / each.norm(dim=1, keepdim=True) for each in (centroids, candidates))
        least: Tensor = (one @ other.T).argmin(dim=1)
        return least
    return nearest(centroids[None], candidates[None], torch.ones(1, len(small), dtype=torch.bool))[0]


def _clusters(frames: Tensor, limit: int, drawn: dict[str, Any]) -> OrderedFrames:
    """Clusters that start at distinct frames; where these are fewer, the first frames fill up, in front."""
    count, points = len(frames), frames.flatten(1)
    if count <= limit:
        members = [[number] for number in range(count)]
        return OrderedFrames(frames, torch.ones(count), torch.arange(count).float(), members)
    distinct, which = torch.unique(points, dim=0, return_inverse=True)
    first = torch.stack([(which == number).nonzero()[0, 0] for number in range(len(distinct))])
    is_few = len(distinct) < limit
    start = first if is_few else first[torch.tensor(drawn["init_perm"])[:limit]]
    refill = torch.tensor(drawn.get("refill") or [], dtype=torch.int64)
    ones = torch.ones(1, count)
    clusters = weighted_kmeans(
        points[None], ones, len(start), draws=Draws(start[None], refill[None]), as_published=True
    )
    clusters, times = ordered_by_time(clusters, torch.arange(count).float()[None], ones)
    members = [(clusters.labels[0] == number).nonzero()[:, 0].tolist() for number in range(len(start))]
    centroids, weights = clusters.centroids[0].view(-1, *frames.shape[1:]), clusters.weights[0]
    if not is_few:
        return OrderedFrames(centroids, weights, times[0], members)
    missing = limit - len(distinct)
    filled = torch.arange(missing).float()
    in_front = [[number] for number in range(missing)]
    return OrderedFrames(
        torch.cat([frames[:missing], centroids]), torch.ones(limit), torch.cat([filled, times[0]]), in_front + members
    )


def _frames(tokens: Tensor, number: int) -> Tensor:
    """The tokens of ``number`` frames, ``[T, P, D]``."""
    return tokens.view(number, -1, tokens.shape[1])


def _grid(size: Tensor) -> tuple[int, int, int]:
    time, height, width = size.tolist()
    return time, height, width
