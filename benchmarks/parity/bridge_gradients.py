"""Compares gradients of the recurrent memory bridge with recordings of the original: ``bridge.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.bridge import open_recording, projected
from benchmarks.parity.comparison import (
    GRADIENT_TOLERANCE,
    HALF_PRECISION_TOLERANCE,
    CaseResult,
    Check,
    relative_error,
    run_case,
)
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.weights.original_names import bridge_names, unused_bridge_names

_KEY_BIAS = "k_proj.bias"


def gradient_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every gradient of ``bridge.json``."""
    recorded = json.loads((folder / "bridge.json").read_text())
    for name in recorded.get("gradients", {}):
        yield run_case(name, _compare, folder, name, recorded)


def _compare(folder: Path, name: str, recorded: dict[str, Any]) -> Sequence[Check]:
    gradients = recorded["gradients"][name]
    if gradients["loss"] != "sum(last_hidden_states**2)":
        raise ValueError(f"the loss {gradients['loss']!r} is not one that this command can compare")
    recording = open_recording(folder, _case_name(name, gradients, recorded["cases"]), recorded)
    bridge = recording.build(folder)
    loss = projected(bridge, recording.walk(bridge).states[-1]).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    checks = [
        Check("loss", abs(loss.item() / gradients["loss_value"] - 1), GRADIENT_TOLERANCE),
        *_compare_norms(bridge, gradients),
    ]
    halves = gradients.get("half_precision_keys") or ()
    for key, theirs in load_file(folder / gradients.get("file", f"{name}.safetensors")).items():
        is_half = key in halves or theirs.dtype == torch.float16
        error = _tensor_error(bridge, key.removeprefix("grad."), theirs)
        tolerance = HALF_PRECISION_TOLERANCE if is_half else GRADIENT_TOLERANCE
        checks.append(Check(key, error, tolerance, theirs.numel()))
    return checks


def _case_name(name: str, gradients: dict[str, Any], cases: dict[str, Any]) -> str:
    """Case of a gradient: the one it names, or the one with the longest name that its own begins with."""
    if "case" in gradients:
        return str(gradients["case"])
    candidates = [case for case in cases if name.startswith(case)]
    if not candidates:
        raise ValueError(f"no case is named like the gradient {name}, so its features are unknown")
    return max(candidates, key=len)


def _gradient(bridge: VideoLLaMBBridge, original_name: str) -> Tensor:
    """Gradient of the parameter with an original name.

    Zero for parameters that we do not have because nothing reads them, and for those that this case does not use, such
    as the learned memory if another one is given.
    """
    num_layers = len(bridge.layers)
    if original_name in unused_bridge_names(num_layers):
        return torch.zeros(())
    parameter = bridge.get_parameter(bridge_names(num_layers)[original_name])
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _tensor_error(bridge: VideoLLaMBBridge, name: str, theirs: Tensor) -> float:
    ours = _gradient(bridge, name)
    scale = _gradient(bridge, _weight_of(name)).norm().item() if name.endswith(_KEY_BIAS) else 0.0
    if scale and ours.shape == theirs.shape:
        error: float = (ours.double() - theirs.double()).norm().item() / scale
        return error
    return relative_error(ours, theirs)


def _compare_norms(bridge: VideoLLaMBBridge, gradients: dict[str, Any]) -> Iterator[Check]:
    norms: dict[str, float | None] = gradients.get("grad_norms", {})
    for name in gradients.get("grad_is_none", []):
        yield Check(f"no gradient for {name}", _gradient(bridge, name).norm().item(), 0.0)
    for name, norm in norms.items():
        if norm is None:
            continue
        scale = (norms.get(_weight_of(name)) if name.endswith(_KEY_BIAS) else None) or norm
        error = abs(_gradient(bridge, name).norm().item() - norm)
        yield Check(f"norm of {name}", error / scale if scale else error, GRADIENT_TOLERANCE)


def _weight_of(key_bias: str) -> str:
    """The weight that belongs to a key's bias; the error of the bias is relative to this weight's gradient.

    A softmax does not change if all its scores are shifted. So the true gradient of a key's bias is zero, and the
    recorded one is a rounding error.
    """
    return key_bias.removesuffix("bias") + "weight"
