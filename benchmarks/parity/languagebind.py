"""Compares LanguageBind's vision transformers with recordings of the original: ``languagebind.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from benchmarks.parity.comparison import (
    CaseResult,
    Check,
    DeclinedError,
    every_nth,
    load_float32,
    output_check,
    run_case,
    stored_input,
)
from components.encoders.languagebind_transformer import WINDOW_FRAMES, FrameWindows
from components.encoders.languagebind_weights import build_vision_transformer, parse_vision_config
from components.weights.lora import merge_adapters

_WEIGHTS = "languagebind_video_weights.safetensors"


def languagebind_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``languagebind.json``."""
    recorded = json.loads((folder / "languagebind.json").read_text())
    tensors = load_file(folder / "languagebind.safetensors")
    for name in recorded["cases"]:
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        yield run_case(f"languagebind {name}", _compare, folder, name, recorded, own)


@torch.no_grad()
def _compare(folder: Path, name: str, recorded: dict[str, Any], tensors: dict[str, Tensor]) -> Sequence[Check]:
    case = recorded["cases"][name]
    config = parse_vision_config(case.get("vision_config", recorded["vision_config"]), name)
    weights = load_float32(folder / case.get("weights", _WEIGHTS))
    adapters = {key.removeprefix("weights."): value.float() for key, value in tensors.items() if "lora_" in key}
    if adapters:
        weights = merge_adapters(weights | adapters, {**recorded.get(name, {}), **case}["lora_alpha"])
    pixels = stored_input(tensors, "pixel", case)
    temporal = len(case["hidden_states_shape"]) == 4
    if temporal:
        _decline_shared_windows(pixels)
        num_videos, _, num_frames = pixels.shape[:3]
        frames = pixels.transpose(1, 2).flatten(0, 1)  # [F, 3, H, W]
        windows = FrameWindows.of_lengths([WINDOW_FRAMES] * (len(frames) // WINDOW_FRAMES), frames.device)
    else:
        weights = {name: value for name, value in weights.items() if "temporal" not in name}
        num_videos, num_frames, frames, windows = len(pixels), 1, pixels, None
    transformer = build_vision_transformer(config, weights, -1, temporal, torch.float32, "the recording")
    states = list(transformer.eval().hidden_states(frames, windows))
    ours = {f"hidden_states.{index}": state for index, state in enumerate(states)}
    if temporal:
        ours = {key: state.view(num_videos, num_frames, *state.shape[1:]) for key, state in ours.items()}
    # VideoLLaMB does not read it, so our part does not compute it.
    norm = (weights["post_layernorm.weight"], weights["post_layernorm.bias"], config.layer_norm_eps)
    cls = functional.layer_norm(states[-1][:, 0], (config.hidden_size,), *norm)
    ours["pooler_output"] = cls.view(num_videos, num_frames, -1).mean(dim=1)
    outputs = {key: value for key, value in tensors.items() if not key.startswith(("pixel", "weights."))}
    halves = case.get("half_precision_keys") or ()
    checks = []
    for key, theirs in outputs.items():
        name, step = every_nth(key)
        checks.append(output_check(key, ours[name] if step == 1 else ours[name][..., ::step, :], theirs, halves))
    return checks


def _decline_shared_windows(pixels: Tensor) -> None:
    if pixels.ndim == 4:
        raise DeclinedError("the original takes a batch of images for the frames of one video; here they stay apart")
    num_videos, _, num_frames = pixels.shape[:3]
    if num_videos > 1 and num_frames % WINDOW_FRAMES:
        raise DeclinedError(
            f"the original lets windows of {WINDOW_FRAMES} frames span the {num_videos} videos of {num_frames} frames; "
            "here a window never holds frames of two videos"
        )
