"""Writes a safetensors file one tensor at a time, so that only one has to be in memory."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.checkpoints.file_hashes import ContentHash

_PIECE = 2**20  # bytes that are hashed and then written; few enough to stay in the CPU's cache
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorSpec(NamedTuple):
    """Dtype and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: torch.Size


class SafetensorsWriter:
    """Writes the tensors of a safetensors file in a declared order.

    The header of the format describes all tensors, so their dtypes and shapes are declared before the first is written.

    Args:
        path: File to write.
        specs: Dtype and shape of every tensor by name, in the order in which they will be added.

    Raises:
        TypeError: The format does not support a tensor's dtype.

    Source: https://github.com/huggingface/safetensors, "Format".
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self._specs = dict(specs)
        self._waiting = list(specs)[::-1]
        self._hash = ContentHash()
        self._file = path.open("wb")
        header = _header(self._specs)
        self._write(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor.

        Args:
            name: Its name.
            tensor: Its value, on any device.

        Raises:
            ValueError: The tensor is not the next in the declared order, or has another dtype or shape than declared.
        """
        expected = self._waiting.pop() if self._waiting else None
        spec = TensorSpec(tensor.dtype, tensor.shape)
        if name != expected or spec != self._specs[name]:
            raise ValueError(f"got {name} ({spec}), expected {expected} ({self._specs.get(expected or '')})")
        values = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        self._write(values.numpy().data)

    def close(self) -> str:
        """Close the file, after its content is on disk (fsync).

        Returns:
            Hash of the file's content, see ``components.checkpoints.file_hashes``.

        Raises:
            ValueError: Declared tensors were not added.
        """
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        if self._waiting:
            raise ValueError(f"the file ends without {self._waiting[::-1][:5]}")
        return self._hash.hexdigest()

    def _write(self, content: bytes | memoryview) -> None:
        content = memoryview(content)
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            self._hash.update(piece)
            self._file.write(piece)


def _header(specs: Mapping[str, TensorSpec]) -> bytes:
    entries, end = {}, 0
    for name, (dtype, shape) in specs.items():
        if dtype not in _DTYPES:
            raise TypeError(f"{name} has dtype {dtype}; safetensors files are written for {list(_DTYPES)}")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8)  # aligns the first tensor to 8 bytes
