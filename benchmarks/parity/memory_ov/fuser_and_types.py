"""Compares the fuser of the memory and the types of visual tokens with recordings: ``fuser.safetensors``."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import CaseResult, Check, every_nth, largest_error, nth_vectors, run_case
from benchmarks.parity.memory_ov.tolerance import close_check
from components.bridges.fusers import MlpFuser
from components.interfaces import SegmentInput
from components.readers.fine_frames import FineFrames
from components.type_embedding import TypeEmbedding
from components.weights.memory_ov_names import TYPE_ROWS, TYPE_TABLE

_KINDS = ("weight", "bias")


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
    ours = _fused(folder, tensors)
    output, step = every_nth(name)
    first = re.fullmatch(r"out\.memory_typed\.first(\d+)", output)
    if first is not None:
        ours = _type("memory", tensors)(ours)[: int(first[1])]
    elif output != "out.fused":
        raise ValueError(f"the output {name!r} is not one that this command can compare")
    return [close_check(name, nth_vectors(ours, step, theirs), theirs)]


def _fused(folder: Path, tensors: dict[str, Tensor]) -> Tensor:
    """Our fuser's output for the recorded cache that the original's fuser read.

    The recordings do not say which cache of several of the same size that is, so it is the one that fits best.

    Raises:
        ValueError: There is no cache of this size.
    """
    name, step = next((name, every_nth(name)[1]) for name in tensors if every_nth(name)[0] == "out.fused")
    theirs = tensors[name]
    dim = theirs.shape[-1]
    fuser = MlpFuser(dim)
    modules = {"memory_fuser.0": "expand", "memory_fuser.2": "contract"}
    weights = {f"{ours}.{kind}": tensors[f"{own}.{kind}"] for own, ours in modules.items() for kind in _KINDS}
    fuser.load_state_dict(weights)
    caches = [cache for cache in _recorded_caches(folder) if cache.view(-1, dim)[::step].numel() == theirs.numel()]
    if not caches:
        raise ValueError(f"no recorded cache has the size of the fuser's output {name}, {list(theirs.shape)}")
    outputs = [fuser(cache.view(1, -1, dim), None).view(cache.shape) for cache in caches]
    return min(outputs, key=lambda ours: largest_error(nth_vectors(ours, step, theirs), theirs))


def _recorded_caches(folder: Path) -> Iterator[Tensor]:
    """Memories in the cache after the last segment, of every depth and sequence of which they are all recorded."""
    meta = json.loads((folder / "meta.json").read_text())["memory"]
    for path in folder.glob("memory_depth*.safetensors"):
        tensors = load_file(path)
        for sequence, recorded in meta[path.stem.removeprefix("memory_")].items():
            names = [f"{sequence}.memory.{number:02d}" for number in recorded["cache_after_segment"][-1]]
            if f"{sequence}.cache_cat" in tensors:
                yield tensors[f"{sequence}.cache_cat"]
            elif tensors.keys() >= set(names):
                yield torch.cat([tensors[name] for name in names])


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
