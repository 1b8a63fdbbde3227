"""Flash-VStream (LLaVA form): clustering, the summary, the memory of a video, streaming, other ways to shorten."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.parity.baselines.published_forms.bounded_frames import Rule, bounded_frames
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.bridges.layers.attention_update import AttentionUpdate
from components.merging.weighted_kmeans import Clusters, Draws, nearest, weighted_kmeans
from components.pooling.patch_pooling import GridPooling

NUM_KEYS = 3
RULES: dict[str, tuple[Rule, bool]] = {
    "merge_feature": ("merge", False),
    "k_merge_feature": ("merge", True),
    "drop_feature": ("drop", False),
    "k_drop_feature": ("drop", True),
}


class LongMemory(NamedTuple):
    """Clusters of one video, and its key frames as the published code finds them."""

    centroids: Tensor  # [K, P, D]
    weights: Tensor  # [K]
    heaviest: Tensor  # [3] numbers of clusters
    keys: Tensor  # [3] numbers of frames
    refills: int  # random numbers that were used


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if case.raises is not None:
        return _refused_there(case)
    if "chunks" in case.options:
        return _stream(case)
    if "video_sample_type" in case.options:
        return _memory(case)
    if "fn" in case.options:
        return _shortened(case)
    if "q_w" in case.inputs:
        memory = _summary(case, case.inputs["feat"], case.options["K"], case.options["update_ratio"])
        return [case.output_check("memory", memory)]
    return _clustering(case)


def _refused_there(case: RecordedCase) -> Sequence[Check]:
    """The published pooling needs sides that divide; ours gives a grid of any side."""
    side = case.options.get("compress_long_memory_size")
    if side is None:
        raise DeclinedError(f"the original refuses this, and we have no such function: {case.raises}")
    return [exact_check("patches of a pooled frame", _pooled(case.inputs["feat"], side).shape[1], side**2)]


def _shortened(case: RecordedCase) -> Sequence[Check]:
    if case.options["fn"] not in RULES:
        raise DeclinedError(f"there is no part of {case.options['fn']} here")
    rule, all_pairs = RULES[case.options["fn"]]
    frames, drawn = case.inputs["feat"], case.outputs_json.get("refill") or None
    left = bounded_frames(frames.flatten(1), case.options["K"], rule=rule, all_pairs=all_pairs, coins=drawn)
    checks = [case.output_check("feat", left.frames.view(-1, *frames.shape[1:]))]
    if "sim" in case.outputs:
        checks.append(case.output_check("sim", left.similarity))
    if "step_indices_last" in case.outputs_json:
        checks.append(exact_check("members", left.members, case.outputs_json["step_indices_last"]))
    return checks


def _clustering(case: RecordedCase) -> Sequence[Check]:
    frames, num_clusters = case.inputs["feat"], case.options["K"]
    weights = case.inputs.get("weights", torch.ones(len(frames)))
    clusters = _clusters(frames, weights, num_clusters, case.outputs_json.get("init_perm"), case.outputs_json)
    count = min(len(frames), num_clusters)
    checks = [
        case.output_check("centroids", clusters.centroids[0, :count].view(-1, *frames.shape[1:])),
        case.output_check("weights", clusters.weights[0, :count]),
    ]
    members = [(clusters.labels[0] == number).nonzero()[:, 0].tolist() for number in range(count)]
    return [*checks, exact_check("members", [members], case.outputs_json["step_indices"])]


def _memory(case: RecordedCase) -> Sequence[Check]:
    options, frames = case.options, case.inputs["feat"]
    _check_type(options)
    past = frames[: max(0, len(frames) - options["video_current_memory_length"])]
    small = _pooled(past, options["compress_long_memory_size"])
    long = _long(small, options["video_long_memory_length"], case.outputs_json.get("init_perm"), case.outputs_json)
    vectors = _pooled(past, options["compress_Turing_memory_size"])
    ratio = options["compress_Turing_update_ratio"]
    summary = _summary(case, vectors, options["video_Turing_memory_length"], ratio)
    shown = (summary, long.centroids, frames[long.keys], frames[len(past) :])
    checks = [case.output_check("memory", torch.cat([part.flatten(0, 1) for part in shown]))]
    named = {"cluster_weights": long.weights, "top3_clusters": long.heaviest}
    return [*checks, *(case.output_check(name, ours) for name, ours in named.items() if name in case.outputs)]


def _stream(case: RecordedCase) -> Sequence[Check]:
    """Chunk by chunk; the first one is stored as it is."""
    options, checks, seen = case.options, list[Check](), 0
    _check_type(options)
    starts: Iterator[list[int]] = iter(case.outputs_json.get("init_perm") or [])
    frames = _pooled(case.inputs["feat"], options["compress_size"])
    long, summary, refill = frames[:0], frames[:0], case.outputs_json.get("refill") or []
    for number, chunk in enumerate(frames.split_with_sizes(options["chunks"])):
        small = _pooled(chunk, options["compress_long_memory_size"])
        vectors = _pooled(chunk, options["compress_Turing_memory_size"])
        seen += len(chunk)
        current = chunk[-options["video_current_memory_length"] :]
        if number == 0:
            long, summary = small, vectors
        else:
            joined, limit = torch.cat([long, small]), options["video_long_memory_length"]
            found = _long(joined, limit, next(starts) if len(joined) > limit else None, {"refill": refill})
            refill = refill[found.refills :]
            ratio = options["compress_Turing_update_ratio"]
            joined = torch.cat([summary, vectors])
            summary = _summary(case, joined, options["video_Turing_memory_length"], ratio)
            long, current = found.centroids, torch.cat([frames[:seen][found.keys], current])
        named = {f"cur{number}": current, f"long{number}": long, f"abstract{number}": summary}
        checks += [case.output_check(name, ours) for name, ours in named.items() if name in case.outputs]
    return checks


def _check_type(options: dict[str, Any]) -> None:
    if options["video_sample_type"] != "weighted_kmeans":
        raise DeclinedError(f"there is no memory of the type {options['video_sample_type']} here")


def _long(small: Tensor, limit: int, start: list[int] | None, drawn: dict[str, Any]) -> LongMemory:
    """Clusters of frames ``[T, P, D]``; key frames are looked up by the numbers of the largest clusters."""
    if not len(small) or not limit:
        none = torch.zeros(0, dtype=torch.int64)
        return LongMemory(small[:0], torch.zeros(0), none, none, 0)
    clusters = _clusters(small, torch.ones(len(small)), limit, start, drawn)
    count = min(len(small), limit)
    weights = clusters.weights[0, :count]
    heaviest = weights.argsort(descending=True, stable=True)[:NUM_KEYS]
    flat = small.flatten(1)
    keys = nearest(flat[heaviest][None], flat[None], torch.ones(1, len(flat), dtype=torch.bool))[0]
    centroids = clusters.centroids[0, :count].view(-1, *small.shape[1:])
    return LongMemory(centroids, weights, heaviest, keys, int(clusters.refills))


def _clusters(frames: Tensor, weights: Tensor, limit: int, start: list[int] | None, drawn: dict[str, Any]) -> Clusters:
    draws = None
    if start is not None:
        refill = torch.tensor(drawn.get("refill") or [], dtype=torch.int64)
        draws = Draws(torch.tensor(start[:limit])[None], refill[None])
    return weighted_kmeans(frames.flatten(1)[None], weights[None], limit, draws=draws, as_published=True)


def _summary(case: RecordedCase, frames: Tensor, limit: int, ratio: float) -> Tensor:
    """The summary of frames ``[T, P, D]``: the first ``limit``, updated by the others in groups of ``limit``."""
    if not len(frames) or not limit:
        return frames[:0]
    weights = {"query.weight": "q_w", "query.bias": "q_b", "key.weight": "k_w", "key.bias": "k_b"}
    update = AttentionUpdate(frames.shape[2], hidden=len(case.inputs["q_w"]), update_ratio=ratio)
    update.load_state_dict({ours: case.inputs[theirs].float() for ours, theirs in weights.items()})
    first, *groups = (group.flatten(0, 1)[None] for group in frames.split_with_sizes(_sizes(len(frames), limit)))
    memory = first
    for group in groups:
        memory = update(memory, group, torch.ones_like(group[..., 0], dtype=torch.bool))
    return memory[0].view(-1, *frames.shape[1:])


def _sizes(total: int, each: int) -> list[int]:
    return [min(each, total - first) for first in range(0, total, each)]


def _pooled(frames: Tensor, side: int) -> Tensor:
    pooled: Tensor = GridPooling(frames.shape[2], grid=side)(frames)
    return pooled
