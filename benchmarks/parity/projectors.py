"""Compares the original's other projectors with recordings: ``other_projectors.json``.

Recurrent projectors are our bridge with other settings; those without memory are made of our parts.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.parity.bridge import POOL_GRID, build_bridge, decline_fused, pooled_to, projected, segmenter_of, walk
from benchmarks.parity.comparison import (
    CaseResult,
    Check,
    every_nth,
    exact_check,
    load_float32,
    output_check,
    run_case,
    stored_input,
)
from benchmarks.parity.memoryless import compare_mlp_transformer, compare_spatial_pool, compare_transformer
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.interfaces import FrameFeatures, FrameSelection
from components.selection.all_frames import AllFrames
from components.selection.linspace_frames import LinspaceFrames


class _Settings(NamedTuple):
    """A recurrent projector of the original as settings of our parts."""

    bridge: dict[str, Any]
    k: int
    frame_selection: FrameSelection
    cut_token: int  # token of every frame from which the cuts are computed
    pooled: bool = True  # whether patches are averaged to 12 x 12 before
    memory: str = ""  # recorded tensor that replaces the initial memory of the weights


_RETENTION_MEMORY = "retent.read_memory_emb"
_RECURRENT = {
    "RMTTransformerProjector": _Settings({"retrieval": False}, 3, LinspaceFrames(4), 0),
    "RMTTransformerProjector of retent_transformer_projector.py": _Settings(
        {"retrieval": False}, 3, AllFrames(), 1, False, _RETENTION_MEMORY
    ),
    "RMTRTransformerProjector of rmt_r_transformer_cap_projector.py": _Settings(
        {}, 7, LinspaceFrames(4), 1, False, _RETENTION_MEMORY
    ),
}


def projector_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``other_projectors.json``."""
    recorded = json.loads((folder / "other_projectors.json").read_text())
    tensors = load_float32(folder / "other_projectors.safetensors")
    kind = ""
    for name, case in recorded["cases"].items():
        kind = kind if case.get("cls", "same") == "same" else case["cls"]
        yield run_case(f"other projector {name}", _compare, folder, name, kind, recorded, tensors)


def _compare(
    folder: Path, name: str, kind: str, recorded: dict[str, Any], tensors: dict[str, Tensor]
) -> Sequence[Check]:
    case = recorded["cases"][name]
    config = case.get("config", recorded["config"])
    weights = load_float32(folder / recorded["weights"])
    outputs = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    if kind == "TransformerRetriever":
        return _compare_retriever(outputs, weights, config)
    features = stored_input(load_float32(folder / recorded["features_from"]), "features", {})
    if kind == "TransformerProjector":
        return compare_transformer(_sliced(features, case["input"]), outputs, weights, config)
    if kind == "MLPTransformerProjector":
        return compare_mlp_transformer(_sliced(features, case["input"]), outputs, config)
    if kind == "SpatialPool":
        mode = case.get("mode", name.rpartition(".")[2])
        return compare_spatial_pool(mode, _sliced(features, case["input"]), outputs, case)
    if kind not in _RECURRENT:
        raise ValueError(f"{kind} is not one that this command can compare")
    settings = _RECURRENT[kind]
    if settings.memory:
        weights["projector.read_memory_emb"] = tensors[settings.memory]
    bridge = build_bridge(weights, config, **settings.bridge)
    return _compare_recurrent(bridge, settings, case, _sliced(features, case["input"]), outputs)


@torch.no_grad()
def _compare_retriever(outputs: dict[str, Tensor], weights: dict[str, Tensor], config: dict[str, Any]) -> list[Check]:
    retrieval = build_bridge(weights, config).retrieval
    assert retrieval is not None
    cache = outputs["cache"]
    ours = retrieval(outputs["memory"], cache, torch.ones(cache.shape[:2], dtype=torch.bool))
    return [output_check("out", ours, outputs["out"])]


@torch.no_grad()
def _compare_recurrent(
    bridge: VideoLLaMBBridge, settings: _Settings, case: dict[str, Any], stored: Tensor, outputs: dict[str, Tensor]
) -> Sequence[Check]:
    num_videos, num_frames = stored.shape[:2]  # of [V, T, tokens, D]
    decline_fused(num_videos, num_frames)
    packed = stored.flatten(0, 1)
    # Of an image the original reads every token as a patch; of a video's frame all but the first.
    patches = packed if num_frames == 1 else packed[:, 1:]
    features = FrameFeatures(packed[:, settings.cut_token], patches)
    walked = walk(
        bridge,
        pooled_to(POOL_GRID, features) if settings.pooled else features,
        num_videos,
        segmenter_of(case, settings.k),
        settings.frame_selection,
    )
    checks = []
    for key, found in (("boundaries", walked.boundaries), ("frame_indices", walked.frame_indices)):
        if case.get(key) is not None:
            checks.append(exact_check(key, found, case[key]))
    for key, theirs in outputs.items():
        name, step = every_nth(key)
        quantity, _, index = name.partition(".")
        state = walked.states[int(index) if index.isdigit() else -1]
        ours = state.memory if quantity == "memory" else projected(bridge, state)
        checks.append(output_check(key, ours[:, ::step], theirs))
    return checks


def _sliced(features: Tensor, description: str) -> Tensor:
    """The recorded input from its description, such as ``features[:, :1, 1:] (a remark)``."""
    match = re.match(r"features(?:\[([\d:, ]+)\])?", description)
    if match is None:
        raise ValueError(f"its input {description!r} is not understood")
    if match[1] is None:
        return features
    index: list[int | slice] = []
    for part in match[1].split(","):
        bounds = [int(bound) if bound else None for bound in part.strip().split(":")]
        index.append(slice(*bounds) if ":" in part else int(part))
    return features[tuple(index)]
