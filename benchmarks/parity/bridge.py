"""The recurrent memory bridge against its recordings: ``bridge.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import (
    GRADIENT_TOLERANCE,
    MOST_CUTS,
    TIE_MARGIN,
    CaseResult,
    Check,
    DeclinedError,
    exact_check,
    load_float32,
    output_check,
    relative_error,
    run_case,
    stored_input,
)
from components.bridges.videollamb import VideoLLaMBBridge, VideoLLaMBState
from components.gather import FrameSelection, LinspaceFrames, group_frames, num_segments_of, segment_inputs
from components.interfaces import FrameFeatures, Segmenter, SegmenterStream
from components.pooling import pool_patches
from components.segmenters.depth import adjacent_similarity, depth_scores
from components.segmenters.scene_tiling import SceneTilling
from components.weights.conversion import Allowances, import_checkpoint
from components.weights.original_names import bridge_names, num_layers_of, unused_bridge_names

_PUBLISHED = {"mm_layer_norm_eps": 1e-12, "mm_hidden_act": "gelu"}
_NOT_OUTPUTS = ("features", "features_int8", "read_memories_in")


class Walk(NamedTuple):
    """A bridge's way through some videos of equal length."""

    frame_indices: list[list[int]]  # frames read of each segment of the first video
    boundaries: list[int]  # last frame of each segment of the first video
    states: list[VideoLLaMBState]  # after each segment


def bridge_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case and gradient of ``bridge.json``."""
    recorded = json.loads((folder / "bridge.json").read_text())
    for name, case in recorded["cases"].items():
        yield run_case(name, _compare_case, folder, name, case, recorded["configs"][case["weights"]])
    for name, gradients in recorded.get("gradients", {}).items():
        yield run_case(name, _compare_gradients, folder, name, gradients, recorded)


def build_bridge(weights: dict[str, Tensor], config: dict[str, Any], **options: Any) -> VideoLLaMBBridge:
    """Build a bridge of a recorded configuration and load original weights into it, strictly.

    Raises:
        DeclinedError: The configuration has what the published bridge fixes otherwise.
    """
    differing = {key: config[key] for key, value in _PUBLISHED.items() if config.get(key, value) != value}
    if differing:
        raise DeclinedError(f"the published bridge fixes {_PUBLISHED}; this case has {differing}")
    has_retrieval = options.get("retrieval", True)
    if not has_retrieval:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("retrieval.")}
    num_layers = config.get("depth") or num_layers_of(weights)
    bridge = VideoLLaMBBridge(
        config["mm_hidden_size"],
        config["hidden_size"],
        num_memory=weights["projector.read_memory_emb"].shape[0],
        num_layers=num_layers,
        num_heads=config["mm_num_attention_heads"],
        mlp_width=config["mm_intermediate_size"],
        **options,
    )
    allowed = Allowances(missing=() if has_retrieval else ("*.retrieval.*",))
    imported = import_checkpoint(weights, ["bridge"], allowed, num_layers={"bridge": num_layers})
    bridge.load_state_dict(imported.parts["bridge"].tensors)
    return bridge.eval()


def walk(
    bridge: VideoLLaMBBridge,
    features: FrameFeatures,
    num_videos: int,
    segmenter: Segmenter,
    frame_selection: FrameSelection,
    start: VideoLLaMBState | None = None,
) -> Walk:
    """Cut videos of equal length and walk a bridge through them, as the model does."""
    num_frames = features.cls.shape[0] // num_videos
    counts = torch.full((num_videos,), num_frames)
    segment_index = segmenter.segment(features.cls, counts)
    segments = group_frames(segment_index, counts, num_segments_of(segment_index, counts), frame_selection)
    frame_ms = torch.arange(num_frames).repeat(num_videos)
    states: list[VideoLLaMBState] = []
    for segment in segment_inputs(features, frame_ms, segments):
        states.append(bridge(segment, states[-1] if states else start))
    first = segment_index[:num_frames]
    boundaries = [*(first[1:] != first[:-1]).nonzero()[:, 0].tolist(), num_frames - 1]
    chosen = [row[mask].tolist() for row, mask in zip(segments.frame_index[0], segments.frame_mask[0], strict=True)]
    return Walk(chosen, boundaries, states)


def projected(bridge: VideoLLaMBBridge, state: VideoLLaMBState) -> Tensor:
    """What the language model gets after a segment, ``[V, P, E]``; the videos' segments are of equal length."""
    visual = bridge.read(state)
    return visual.tokens[visual.mask].view(visual.mask.shape[0], -1, visual.tokens.shape[2])


def _features(tensors: dict[str, Tensor], case: dict[str, Any]) -> FrameFeatures:
    stored = stored_input(tensors, "features", case)  # [V, T, 1 + N, D]
    num_videos, num_frames = stored.shape[:2]
    if num_videos > 1 and num_frames > 1:
        raise DeclinedError(
            f"the original joins the {num_videos} videos of a batch in time and cuts them as one; here "
            "videos stay apart"
        )
    packed = stored.flatten(0, 1)
    return FrameFeatures(packed[:, 0], packed[:, 1:])


def _walk_case(
    bridge: VideoLLaMBBridge, tensors: dict[str, Tensor], case: dict[str, Any], config: dict[str, Any]
) -> Walk:
    features = _features(tensors, case)
    num_videos = case["features_shape"][0]
    start = None
    if case.get("read_memories") is not None:
        memory = tensors["read_memories_in"].float()
        # Only a two-dimensional memory gets the learned one added.
        memory = (memory + bridge.initial_memory).expand(num_videos, -1, -1) if memory.ndim == 2 else memory
        start = bridge.start(memory)
    segmenter = _RecordedCuts(case["boundaries"]) if _is_tied(case) else _segmenter(case, config)
    return walk(bridge, features, num_videos, segmenter, LinspaceFrames(config["max_frames_per_segment"]), start)


def _segmenter(case: dict[str, Any], config: dict[str, Any]) -> SceneTilling:
    options = case.get("segment_kwargs") or {"k": config["k"]}
    return SceneTilling(**options) if "k" in options else SceneTilling(max_cuts=MOST_CUTS, **options)


def _is_tied(case: dict[str, Any]) -> bool:
    """Whether the original's cuts hang on the order in which its library sorts equal numbers."""
    return case.get("boundaries") is not None and case.get("topk_margin", 1.0) <= TIE_MARGIN


class _RecordedCuts(Segmenter):
    """Cuts where the recording did."""

    def __init__(self, boundaries: list[int]) -> None:
        self.boundaries = torch.tensor(boundaries)

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        return torch.bucketize(torch.arange(cls.shape[0]), self.boundaries)

    def stream(self) -> SegmenterStream:
        raise NotImplementedError("a recording is compared whole")


def _build_case(folder: Path, case: dict[str, Any], config: dict[str, Any]) -> VideoLLaMBBridge:
    grid = set(config["pool_grid"])
    if len(grid) != 1:
        raise DeclinedError(f"patches are pooled to a square grid; this case has {config['pool_grid']}")
    return build_bridge(load_float32(folder / case["weights"]), config, pool_grid=grid.pop())


@torch.no_grad()
def _compare_case(folder: Path, name: str, case: dict[str, Any], config: dict[str, Any]) -> Sequence[Check]:
    tensors = load_file(folder / case.get("file", f"{name}.safetensors"))
    _features(tensors, case)  # declines before any work
    bridge = _build_case(folder, case, config)
    walked = _walk_case(bridge, tensors, case, config)
    checks = [exact_check("number of segments", len(walked.states), case["num_segments"])]
    if case.get("boundaries") is not None:
        checks.append(exact_check("boundaries", walked.boundaries, case["boundaries"]))
        checks.append(exact_check("frames read", walked.frame_indices, case["frame_indices"]))
    for key, theirs in tensors.items():
        if key not in _NOT_OUTPUTS:
            ours = _output(key, bridge, walked, tensors, case)
            checks.append(output_check(key, ours, theirs, case.get("half_precision_keys", ())))
    return checks


def _output(
    key: str, bridge: VideoLLaMBBridge, walked: Walk, tensors: dict[str, Tensor], case: dict[str, Any]
) -> Tensor:
    """Our counterpart of a recorded tensor."""
    kind, _, index = key.partition(".")
    if index:
        state = walked.states[int(index)]
        per_segment = {
            "hidden": lambda: projected(bridge, state),
            "memory": lambda: state.memory,
            "retrieved": lambda: bridge.retrieve(state),
            "pre_proj": lambda: bridge.last_tokens(state),
        }
        return per_segment[kind]()
    features = _features(tensors, case)
    similarity = adjacent_similarity(features.cls)
    if kind == "pooled":
        assert bridge.pool_grid is not None
        return pool_patches(features.patches, bridge.pool_grid)
    return {"sim_scores": similarity, "depth_scores": depth_scores(similarity)}[kind]


def _compare_gradients(folder: Path, name: str, gradients: dict[str, Any], recorded: dict[str, Any]) -> Sequence[Check]:
    if gradients["loss"] != "sum(last_hidden_states**2)":
        raise DeclinedError(f"the loss {gradients['loss']!r} is not known here")
    case_name = gradients.get("case", name.removesuffix("_grad"))
    case = recorded["cases"][case_name]
    config = recorded["configs"][gradients["weights"]]
    tensors = load_file(folder / case.get("file", f"{case_name}.safetensors"))
    bridge = _build_case(folder, case, config)
    loss = projected(bridge, _walk_case(bridge, tensors, case, config).states[-1]).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    checks = [
        Check("loss", abs(loss.item() / gradients["loss_value"] - 1), GRADIENT_TOLERANCE),
        *_compare_norms(bridge, gradients),
    ]
    for key, theirs in load_file(folder / gradients.get("file", f"{name}.safetensors")).items():
        ours = _gradient(bridge, key.removeprefix("grad."))
        checks.append(Check(key, relative_error(ours, theirs), GRADIENT_TOLERANCE))
    return checks


def _gradient(bridge: VideoLLaMBBridge, original_name: str) -> Tensor:
    """Gradient of the parameter with an original name; zero for those that we drop because nothing reads them."""
    num_layers = len(bridge.layers)
    if original_name in unused_bridge_names(num_layers):
        return torch.zeros(())
    gradient = bridge.get_parameter(bridge_names(num_layers)[original_name]).grad
    assert gradient is not None, f"{original_name} has no gradient"
    return gradient


def _compare_norms(bridge: VideoLLaMBBridge, gradients: dict[str, Any]) -> Iterator[Check]:
    norms: dict[str, float | None] = gradients.get("grad_norms", {})
    for name in gradients.get("grad_is_none", []):
        yield Check(f"no gradient for {name}", _gradient(bridge, name).norm().item(), 0.0)
    for name, norm in norms.items():
        if norm is None:
            continue
        # A softmax does not see a shift of all its scores: the true gradient of a key's bias is zero and what was
        # recorded is rounding, so it is measured against the gradient of the key's weight.
        scale = norms[name.replace("bias", "weight")] if name.endswith("k_proj.bias") else norm
        error = abs(_gradient(bridge, name).norm().item() - norm)
        yield Check(f"norm of {name}", error / scale if scale else error, GRADIENT_TOLERANCE)
