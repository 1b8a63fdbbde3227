"""Compares the fuser of the memory and the types of visual tokens with recordings: ``fuser.safetensors``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import CaseResult, Check, run_case
from benchmarks.parity.memory_ov.tolerance import close_check
from components.bridges.fusers import MlpFuser
from components.interfaces import SegmentInput
from components.readers.fine_frames import FineFrames
from components.type_embedding import TypeEmbedding
from components.weights.memory_ov_names import TYPE_ROWS, TYPE_TABLE

_USUAL_INPUT = ("memory_depth2.safetensors", "a.cache_cat")


def fuser_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case of ``fuser.safetensors``."""
    tensors = load_file(folder / "fuser.safetensors")
    for name in tensors:
        if name.startswith("out."):
            yield run_case(f"fuser and types, {name.removeprefix('out.')}", _compare, folder, name, tensors)


@torch.no_grad()
def _compare(folder: Path, name: str, tensors: dict[str, Tensor]) -> Sequence[Check]:
    theirs = tensors[name]
    if name == "out.frames_typed":
        return [close_check(name, _typed_frames(tensors), theirs)]
    fused = _fused(folder, tensors)
    first = re.fullmatch(r"out\.memory_typed\.first(\d+)", name)
    if first is not None:
        return [close_check(name, _type("memory", tensors)(fused)[: int(first[1])], theirs)]
    if name != "out.fused":
        raise ValueError(f"the output {name!r} is not one that this command can compare")
    return [close_check(name, fused, theirs)]


def _fused(folder: Path, tensors: dict[str, Tensor]) -> Tensor:
    dim = tensors[TYPE_TABLE].shape[1]
    fuser = MlpFuser(dim)
    modules = {"memory_fuser.0": "expand", "memory_fuser.2": "contract"}
    kinds = ("weight", "bias")
    fuser.load_state_dict(
        {f"{ours}.{kind}": tensors[f"{own}.{kind}"] for own, ours in modules.items() for kind in kinds}
    )
    memories = _input(folder, tensors["out.fused"].shape)
    return fuser(memories.view(1, -1, dim), None).view(memories.shape)


def _input(folder: Path, shape: torch.Size) -> Tensor:
    """The recorded cache that the fuser read: that of depth 2, or the only one of the shape.

    Raises:
        ValueError: There is none, or several.
    """
    caches = {
        (path.name, name): tensor
        for path in sorted(folder.glob("memory_depth*.safetensors"))
        for name, tensor in load_file(path).items()
        if name.endswith(".cache_cat") and tensor.shape == shape
    }
    if _USUAL_INPUT in caches:
        return caches[_USUAL_INPUT]
    if len(caches) != 1:
        raise ValueError(f"the fuser's input is one cache of shape {list(shape)}, but {len(caches)} are recorded")
    return next(iter(caches.values()))


def _type(stream: str, tensors: dict[str, Tensor]) -> TypeEmbedding:
    table = tensors[TYPE_TABLE]
    embedding = TypeEmbedding(table.shape[1])
    embedding.load_state_dict({"vector": table[TYPE_ROWS[stream]]})
    return embedding


def _typed_frames(tensors: dict[str, Tensor]) -> Tensor:
    """The recorded frames as ``FineFrames`` shows them."""
    frames = tensors["in.frames"]
    num_frames, _, dim = frames.shape
    reader = FineFrames(dim, dim, num_frames=num_frames, capacity=num_frames, projection="none", type_embedding=True)
    reader.type_embedding = _type("frames", tensors)
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    segment = SegmentInput.from_grid(frames[None], mask, torch.zeros(1, num_frames, dtype=torch.int64))
    return reader.read(reader(segment, None)).tokens.view(frames.shape)
