"""Compares gradients of the grid memory with recordings: their norms, and the loss that they are of."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.parity.comparison import Check
from benchmarks.parity.memory_ov.grid_memory_walk import walk
from benchmarks.parity.memory_ov.original_weights import TRANSFORMER
from benchmarks.parity.memory_ov.tolerance import TOLERANCE, relative_check
from components.bridges.grid_memory import GridMemory
from components.weights.memory_ov_names import memory_names

_KEY_BIAS = "k_proj.bias"


def compare_gradients(reader: GridMemory, segments: Sequence[Tensor], recorded: dict[str, Any]) -> Sequence[Check]:
    """Compare loss and gradients of one sequence of segments.

    Args:
        reader: Has the recorded weights.
        segments: Patches of every segment, ``[F, N, D]`` each.
        recorded: The loss, the mean of the cache's cubes, and the norms of its gradients; null where there is none.
    """
    reader.zero_grad()
    loss = walk(reader, [segments]).cache(0).pow(3).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    checks = [relative_check("loss", loss.item(), recorded["loss_mean_cube"], 1.0)]
    norms: dict[str, float | None] = recorded["grad_norms"]
    names = memory_names(len(reader.layers))
    for name, norm in norms.items():
        gradient = reader.get_parameter(names[TRANSFORMER + name]).grad
        ours = 0.0 if gradient is None else gradient.norm().item()
        if norm is None:
            checks.append(Check(f"no gradient for {name}", ours, 0.0))
        else:
            checks.append(relative_check(f"norm of {name}", ours, norm, _scale(name, norm, norms), TOLERANCE))
    return checks


def _scale(name: str, norm: float, norms: dict[str, float | None]) -> float:
    """What an error is relative to: of a key's bias, the gradient of the key's weight.

    A softmax does not change if all its scores are shifted. So the true gradient of a key's bias is zero, and the
    recorded one is a rounding error.
    """
    if not name.endswith(_KEY_BIAS):
        return norm
    return norms[f"{name.removesuffix('bias')}weight"] or norm
