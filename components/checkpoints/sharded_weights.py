"""Writes tensors as one safetensors file, or as several with an index where they are large."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from components.checkpoints.safetensors_writer import SafetensorsWriter, TensorSpec

LARGEST_FILE = 5_000_000_000
"""Largest size of a file of weights, in bytes."""


def write_weights(
    target: Path, specs: Mapping[str, TensorSpec], value_of: Callable[[str], Tensor], largest_file: int = LARGEST_FILE
) -> int:
    """Write ``model.safetensors``, or several numbered files and ``model.safetensors.index.json``.

    Args:
        target: Existing folder.
        specs: Dtype and shape of every tensor by its name.
        value_of: The value of a tensor, in any dtype; one is in memory at a time.
        largest_file: Largest size of a file, in bytes; a larger tensor has a file of its own.

    Returns:
        Bytes of all tensors.
    """
    shards = list(_shards(specs, largest_file))
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(names) > 1 else ["model.safetensors"]
    with tqdm(total=len(specs), desc="weights", unit="tensor", dynamic_ncols=True, disable=None) as bar:
        for file_name, shard in zip(names, shards, strict=True):
            file = SafetensorsWriter(target / file_name, {name: specs[name] for name in shard})
            for name in shard:
                file.add(name, value_of(name).to(specs[name].dtype))
                bar.update()
            file.close()
    total = sum(map(_size, specs.values()))
    if len(names) > 1:
        files = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return total


def _shards(specs: Mapping[str, TensorSpec], largest_file: int) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, spec in specs.items():
        if shard and size + _size(spec) > largest_file:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += _size(spec)
    yield shard


def _size(spec: TensorSpec) -> int:
    return spec.shape.numel() * spec.dtype.itemsize
