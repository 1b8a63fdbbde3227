"""The parity command on bridges of other sizes and inputs, recorded from our own bridge: equal by construction."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.parity.__main__ import compare_folder, describe
from benchmarks.parity.bridge import Walk, pooled_to, projected, walk
from benchmarks.parity.comparison import CaseResult
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.interfaces import FrameFeatures
from components.segmenters.scene_tilling import SceneTilling
from components.selection.linspace_frames import LinspaceFrames
from components.weights.original_names import bridge_names, unused_bridge_names


class Variant(NamedTuple):
    """Sizes of a recording, and what it was made with."""

    num_videos: int = 1
    num_frames: int = 24
    num_patches: int = 16
    dim: int = 24
    num_layers: int = 1
    given_memory: tuple[int, ...] | None = None
    segment_kwargs: dict[str, Any] | None = None


OUT_DIM = 18
CONFIG: dict[str, Any] = {
    "hidden_size": OUT_DIM,
    "mm_num_attention_heads": 4,
    "mm_intermediate_size": 20,
    "pool_grid": [3, 3],
    "k": 3,
    "max_frames_per_segment": 8,
}
VARIANTS = {
    "video": Variant(),
    "deep": Variant(num_layers=3, dim=32),
    "more_patches": Variant(num_patches=256, num_frames=8),
    "long_video": Variant(num_frames=64, num_patches=4),
    "matrix": Variant(given_memory=(4, 24)),
    "batch_of_matrices": Variant(given_memory=(1, 4, 24)),
    "more_memory_tokens": Variant(given_memory=(1, 7, 24)),
    "image": Variant(num_frames=1, num_patches=49),
    "images": Variant(num_frames=1, num_videos=3),
    "images_with_a_matrix": Variant(num_frames=1, num_videos=3, given_memory=(4, 24)),
    "images_with_matrices": Variant(num_frames=1, num_videos=3, given_memory=(3, 4, 24)),
    "threshold": Variant(segment_kwargs={"alpha": 0.5}),
    "threshold_overruled": Variant(segment_kwargs={"alpha": 0.5, "k": 2}),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def record(folder: Path, name: str) -> dict[str, Any]:
    """Write a variant and its gradients, as ``{name}`` and ``{name}_grad``; gives what the JSON file is to say."""
    variant, weights = VARIANTS[name], f"{name}_weights.safetensors"
    torch.manual_seed(0)
    bridge = VideoLLaMBBridge(
        variant.dim, OUT_DIM, num_memory=4, num_layers=variant.num_layers, num_heads=4, mlp_width=20
    ).eval()
    torch.nn.init.normal_(bridge.initial_memory)
    save_original_weights(bridge, folder / weights)
    shape = (variant.num_videos, variant.num_frames, 1 + variant.num_patches, variant.dim)
    inputs = {"features_int8": torch.randint(-60, 60, shape, dtype=torch.int8)}
    if variant.given_memory is not None:
        inputs["read_memories_in"] = torch.randn(variant.given_memory)
    walked = walk_variant(bridge, variant, inputs)
    outputs = {f"hidden.{index}": projected(bridge, state) for index, state in enumerate(walked.states)}
    outputs |= {f"memory.{index}": state.memory for index, state in enumerate(walked.states)}
    save_file(
        inputs | {key: each.detach().contiguous() for key, each in outputs.items()}, folder / f"{name}.safetensors"
    )
    is_image = variant.num_frames == 1
    case = {
        "weights": weights,
        "features_shape": list(shape),
        "read_memories": variant.given_memory,
        "num_segments": len(walked.states),
        "boundaries": None if is_image else walked.boundaries,
        "frame_indices": None if is_image else walked.frame_indices,
        "segment_kwargs": None if is_image else variant.segment_kwargs,
        "topk_margin": None,
        "half_precision_keys": None,
    }
    loss = projected(bridge, walked.states[-1]).square().sum()
    loss.backward()
    gradients = {"weights": weights, "loss": "sum(last_hidden_states**2)", "loss_value": loss.item()}
    gradients |= save_gradients(bridge, folder / f"{name}_grad.safetensors")
    config = CONFIG | {"mm_hidden_size": variant.dim}
    return {"configs": {weights: config}, "cases": {name: case}, "gradients": {f"{name}_grad": gradients}}


def walk_variant(bridge: VideoLLaMBBridge, variant: Variant, inputs: dict[str, Tensor]) -> Walk:
    packed = inputs["features_int8"].flatten(0, 1) / 32
    options = variant.segment_kwargs or {"k": 3}
    segmenter = SceneTilling(k=options["k"]) if "k" in options else SceneTilling(max_cuts=15, **options)
    start = None
    if variant.given_memory is not None:
        memory = inputs["read_memories_in"]
        memory = memory + bridge.initial_memory if memory.ndim == 2 else memory
        start = bridge.start(memory.expand(variant.num_videos, -1, -1))
    features = pooled_to(3, FrameFeatures(packed[:, 0], packed[:, 1:]))
    return walk(bridge, features, variant.num_videos, segmenter, LinspaceFrames(8), start)


def save_original_weights(bridge: VideoLLaMBBridge, path: Path) -> None:
    names = bridge_names(len(bridge.layers))
    weights = {theirs: bridge.get_parameter(ours).detach().clone() for theirs, ours in names.items()}
    unused = {name: torch.zeros_like(weights[twin]) for name, twin in unused_bridge_names(len(bridge.layers)).items()}
    save_file(weights | unused, path)


def save_gradients(bridge: VideoLLaMBBridge, path: Path) -> dict[str, Any]:
    """Write the gradients; what the original would list of them: one without influence is None there."""
    names = bridge_names(len(bridge.layers))
    found = {theirs: bridge.get_parameter(ours).grad for theirs, ours in names.items()}
    real: dict[str, Tensor] = {name: grad for name, grad in found.items() if grad is not None and grad.any()}
    save_file({f"grad.{name}": grad for name, grad in real.items()}, path)
    none = [*(found.keys() - real.keys()), *unused_bridge_names(len(bridge.layers))]
    norms = {name: real[name].norm().item() if name in real else None for name in [*found, *none]}
    return {"grad_is_none": none, "grad_norms": norms}


def results_of(folder: Path, recorded: dict[str, Any]) -> dict[str, CaseResult]:
    (folder / "bridge.json").write_text(json.dumps(recorded))
    return {result.name: result for result in compare_folder(folder)}


@every_variant
def test_recordings_of_other_sizes_and_inputs_are_compared(name: str, tmp_path: Path) -> None:
    results = results_of(tmp_path, record(tmp_path, name))
    assert results.keys() == {name, f"{name}_grad"}
    for result in results.values():
        assert result.checks, describe(result)
        assert not result.failed, describe(result)


@every_variant
def test_other_weights_than_recorded_fail_both(name: str, tmp_path: Path) -> None:
    recorded = record(tmp_path, name)
    path = tmp_path / f"{name}_weights.safetensors"
    weights = load_file(path)
    weights["projector.layers.0.mlp.0.weight"] *= 1.01
    save_file(weights, path)
    assert all(result.failed and result.checks for result in results_of(tmp_path, recorded).values())


def test_a_memory_that_is_given_leaves_the_learned_one_without_gradient(tmp_path: Path) -> None:
    recorded = record(tmp_path, "batch_of_matrices")
    assert "projector.read_memory_emb" in recorded["gradients"]["batch_of_matrices_grad"]["grad_is_none"]


@pytest.mark.parametrize("name", ["images", "images_with_a_matrix"])
def test_images_leave_the_retrieval_without_gradient(name: str, tmp_path: Path) -> None:
    missing = record(tmp_path, name)["gradients"][f"{name}_grad"]["grad_is_none"]
    assert sum(key.startswith("retrieval.") for key in missing) == 20


def test_a_gradient_where_the_recording_has_none_fails(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video")
    recorded["gradients"]["video_grad"]["grad_is_none"].append("projector.proj.0.weight")
    failed = [check.what for check in results_of(tmp_path, recorded)["video_grad"].checks if not check.passed]
    assert failed == ["no gradient for projector.proj.0.weight"]


def test_no_gradient_where_the_recording_has_one_fails(tmp_path: Path) -> None:
    recorded = record(tmp_path, "batch_of_matrices")
    recorded["gradients"]["batch_of_matrices_grad"]["grad_norms"]["projector.read_memory_emb"] = 0.5
    failed = [
        check.what for check in results_of(tmp_path, recorded)["batch_of_matrices_grad"].checks if not check.passed
    ]
    assert failed == ["norm of projector.read_memory_emb"]


def test_a_gradient_names_its_case_or_is_named_like_it(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video")
    gradients = recorded["gradients"].pop("video_grad") | {"file": "video_grad.safetensors"}
    recorded["gradients"] = {
        "of another name": gradients | {"case": "video"},
        "video, its gradients": gradients,
        "of nothing": gradients,
    }
    failed = {name for name, result in results_of(tmp_path, recorded).items() if result.failed}
    assert failed == {"of nothing"}


def test_gradients_that_were_rounded_get_the_wider_tolerance(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video")
    path = tmp_path / "video_grad.safetensors"
    stored = {name: grad.half() if "mlp" in name else grad for name, grad in load_file(path).items()}
    save_file({name: grad.contiguous() for name, grad in stored.items()}, path)
    result = results_of(tmp_path, recorded)["video_grad"]
    assert not result.failed, describe(result)


def test_a_case_without_its_configuration_fails_alone(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video")
    recorded["cases"]["lost"] = recorded["cases"]["video"] | {
        "weights": "other.safetensors",
        "file": "video.safetensors",
    }
    failed = {name for name, result in results_of(tmp_path, recorded).items() if result.failed}
    assert failed == {"lost"}


def test_what_the_published_bridge_fixes_otherwise_fails_with_the_reason(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video")
    recorded["configs"]["video_weights.safetensors"]["mm_hidden_act"] = "relu"
    result = results_of(tmp_path, recorded)["video"]
    assert result.failed
    assert "this case has {'mm_hidden_act': 'relu'}" in describe(result)
