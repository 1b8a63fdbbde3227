"""Compares the recurrent memory bridge with recordings of the original: ``bridge.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import (
    MOST_CUTS,
    TIE_MARGIN,
    CaseResult,
    Check,
    DeclinedError,
    every_nth,
    exact_check,
    load_float32,
    output_check,
    run_case,
    stored_input,
)
from components.bridges.videollamb_bridge import VideoLLaMBBridge, VideoLLaMBState
from components.interfaces import FrameFeatures, FrameSelection, Segmenter
from components.patches import reduced_patches
from components.pooling.patch_pooling import GridPooling
from components.segmenters.depth import adjacent_similarity, depth_scores
from components.segmenters.scene_tilling import SceneTilling
from components.selection.gather import group_frames, num_segments_of, segment_inputs
from components.selection.linspace_frames import LinspaceFrames
from components.weights.conversion import Allowances, import_checkpoint
from components.weights.original_names import num_layers_of

_PUBLISHED = {"mm_layer_norm_eps": 1e-12, "mm_hidden_act": "gelu"}
# Fixed values of the published bridge, which a configuration may omit.
POOL_GRID, _K, _MAX_FRAMES = 12, 3, 8
_GIVEN_MEMORY = "read_memories_in"
_CLS, _READ_PATCHES = "features_cls", "features_patches"
_INPUTS = ("features", _CLS, _READ_PATCHES, _GIVEN_MEMORY)


class Walk(NamedTuple):
    """States and outputs of a bridge after each segment of videos of equal length."""

    frame_indices: list[list[int]]  # frames read of each segment of the first video
    boundaries: list[int]  # last frame of each segment of the first video
    states: list[VideoLLaMBState]  # after each segment


def bridge_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``bridge.json``."""
    recorded = json.loads((folder / "bridge.json").read_text())
    for name in recorded["cases"]:
        yield run_case(name, _compare_case, folder, name, recorded)


def build_bridge(weights: dict[str, Tensor], config: dict[str, Any], **options: Any) -> VideoLLaMBBridge:
    """Build a bridge of a recorded configuration and load original weights into it, strictly.

    Raises:
        ValueError: The configuration has a value that differs from the published bridge's fixed one.
    """
    differing = {key: config[key] for key, value in _PUBLISHED.items() if config.get(key, value) != value}
    if differing:
        raise ValueError(f"the published bridge fixes {_PUBLISHED}; this case has {differing}")
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
    """Cut videos of equal length into segments and run a bridge over them, as the model does."""
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


def pooled_to(grid: int, features: FrameFeatures) -> FrameFeatures:
    """Average the patches of every frame to a grid of that side, as the published model does before its bridge."""
    pooling = GridPooling(features.patches.shape[-1], grid=grid)
    return reduced_patches(features, None, pooling, features.patches.dtype)


def decline_fused(num_videos: int, num_frames: int) -> None:
    """Decline cases that the original does not handle properly.

    Raises:
        DeclinedError: There are several videos of several frames.
    """
    if num_videos > 1 and num_frames > 1:
        raise DeclinedError(
            f"the original joins the {num_videos} videos of a batch in time and cuts them as one; here "
            "videos stay apart"
        )


def _stored_features(tensors: dict[str, Tensor], case: dict[str, Any]) -> Tensor:
    """The recorded features, ``[V, T, 1 + N, D]``.

    Some recordings have the patches of those frames only that the original read (``frame_indices``). The patches of
    other frames are zero here, so reading one of them gives other outputs than recorded.
    """
    if f"{_READ_PATCHES}_int8" not in tensors:
        return stored_input(tensors, "features", case)
    read = sorted({frame for segment in case["frame_indices"] for frame in segment})
    features = torch.zeros(case["features_shape"])
    features[:, :, 0] = stored_input(tensors, _CLS, case | {f"{_CLS}_scale": case["features_scale"]})
    patches = case | {f"{_READ_PATCHES}_scale": case["features_scale"]}
    features[:, read, 1:] = stored_input(tensors, _READ_PATCHES, patches)
    return features


def _features(tensors: dict[str, Tensor], case: dict[str, Any]) -> FrameFeatures:
    stored = _stored_features(tensors, case)
    decline_fused(*stored.shape[:2])
    packed = stored.flatten(0, 1)
    return FrameFeatures(packed[:, 0], packed[:, 1:])


class Recording(NamedTuple):
    """A case of the bridge: inputs and recorded outputs."""

    case: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def build(self, folder: Path) -> VideoLLaMBBridge:
        """Build the bridge with the case's weights."""
        return build_bridge(load_float32(folder / self.case["weights"]), self.config)

    def pooled(self) -> FrameFeatures:
        """The recorded features with the patches of every frame pooled.

        Raises:
            ValueError: They are not pooled to a square grid.
        """
        grid = set(self.config.get("pool_grid", [POOL_GRID]))
        if len(grid) != 1:
            raise ValueError(f"patches are pooled to a square grid; this case has {self.config['pool_grid']}")
        return pooled_to(grid.pop(), _features(self.tensors, self.case))

    def walk(self, bridge: VideoLLaMBBridge) -> Walk:
        """Run a bridge on the recorded features."""
        features = self.pooled()
        num_videos = _stored_features(self.tensors, self.case).shape[0]
        start = None
        if self.case.get("read_memories") is not None:
            memory = stored_input(self.tensors, _GIVEN_MEMORY, self.case)
            # Only a two-dimensional memory gets the learned one added.
            memory = memory + bridge.initial_memory if memory.ndim == 2 else memory
            start = bridge.start(memory.expand(num_videos, -1, -1))
        selection = LinspaceFrames(self.config.get("max_frames_per_segment", _MAX_FRAMES))
        return walk(bridge, features, num_videos, segmenter_of(self.case, self.config.get("k", _K)), selection, start)


def open_recording(folder: Path, name: str, recorded: dict[str, Any]) -> Recording:
    """Read one case of ``bridge.json``.

    Raises:
        DeclinedError: It has several videos.
    """
    case = recorded["cases"][name]
    tensors = load_file(folder / case.get("file", f"{name}.safetensors"))
    _features(tensors, case)  # declines before any work
    return Recording(case, recorded["configs"][case["weights"]], tensors)


def segmenter_of(case: dict[str, Any], k: int) -> Segmenter:
    """Segmenter of a case: SceneTilling, or the recorded cuts where the original chose between equal scores."""
    margins = [case.get("topk_margin"), case.get("threshold_margin")]  # null where nothing competes
    is_tied = any(margin is not None and margin <= TIE_MARGIN for margin in margins)
    if is_tied and case.get("boundaries") is not None:
        return _RecordedCuts(case["boundaries"])
    options = case.get("segment_kwargs") or {"k": k}
    if options.get("k") is not None:  # it wins over a threshold in the original
        return SceneTilling(k=options["k"])
    return SceneTilling(alpha=options["alpha"], max_cuts=MOST_CUTS)


class _RecordedCuts(Segmenter):
    """Cuts at the recorded positions."""

    def __init__(self, boundaries: list[int]) -> None:
        self.boundaries = torch.tensor(boundaries)

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        return torch.bucketize(torch.arange(cls.shape[0]), self.boundaries)


@torch.no_grad()
def _compare_case(folder: Path, name: str, recorded: dict[str, Any]) -> Sequence[Check]:
    recording = open_recording(folder, name, recorded)
    case, tensors = recording.case, recording.tensors
    bridge = recording.build(folder)
    walked = recording.walk(bridge)
    checks = []
    cuts = {"boundaries": walked.boundaries, "frame_indices": walked.frame_indices}  # null for images
    for key, found in {"num_segments": len(walked.states), **cuts}.items():
        if case.get(key) is not None:
            checks.append(exact_check(key, found, case[key]))
    outputs = {key: theirs for key, theirs in tensors.items() if key.removesuffix("_int8") not in _INPUTS}
    if not outputs:
        raise ValueError("the recording has no output, so there is nothing to compare")
    for key, theirs in outputs.items():
        quantity, step = every_nth(key)
        ours = _output(quantity, bridge, walked, recording)
        checks.append(
            output_check(key, ours if step == 1 else ours[:, ::step], theirs, case.get("half_precision_keys") or ())
        )
    return checks


def _output(key: str, bridge: VideoLLaMBBridge, walked: Walk, recording: Recording) -> Tensor:
    """Our tensor that corresponds to a recorded one."""
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
    features = _features(recording.tensors, recording.case)
    similarity = adjacent_similarity(features.cls)
    if kind == "pooled":
        return recording.pooled().patches
    return {"sim_scores": similarity, "depth_scores": depth_scores(similarity)}[kind]
