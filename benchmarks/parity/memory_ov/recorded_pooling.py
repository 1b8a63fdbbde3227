"""Compares the pooling of patches with recordings: ``pool.safetensors``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import CaseResult, Check, run_case
from benchmarks.parity.memory_ov.tolerance import close_check
from components.interfaces import PatchPooling
from components.pooling.patch_pooling import GridPooling, WindowPooling
from components.positions import patch_grid_side


def pooling_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``pool.safetensors``."""
    tensors = load_file(folder / "pool.safetensors")
    for name, theirs in tensors.items():
        if name.startswith("out."):
            yield run_case(f"pooling {name.removeprefix('out.')}", _compare, name, tensors["in"], theirs)


def _compare(name: str, patches: Tensor, theirs: Tensor) -> Sequence[Check]:
    dim = patches.shape[2]
    side, pooled_side = patch_grid_side(patches.shape[1]), patch_grid_side(theirs.shape[1])
    stride = side // pooled_side
    poolings: dict[str, PatchPooling] = {
        "out.bilinear": GridPooling(dim, grid=pooled_side, reduction="bilinear"),
        "out.average": WindowPooling(dim, stride=max(1, stride)),
        "out.max": WindowPooling(dim, stride=max(1, stride), reduction="max"),
    }
    if name not in poolings:
        raise ValueError(f"the output {name!r} is not one that this command can compare")
    return [close_check(name, poolings[name](patches), theirs)]
