"""Reads tensors from weight files of any project (safetensors, torch.save). Code in a file is never executed."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.checkpoints.json_file import read_json

_INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FILE_NAMES = ("model.safetensors", "pytorch_model.bin", "mm_projector.bin")


class WeightFiles(Mapping[str, Tensor]):
    """The tensors of a weight file or a folder of weight files, by name. A tensor is read when it is accessed.

    Pickled files are opened with ``weights_only=True``, which unpickles only tensors.

    Args:
        source: A ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file, or a folder with (the first found, in this
            order) a sharded checkpoint and its index, ``model.safetensors``, ``pytorch_model.bin`` or
            ``mm_projector.bin``.

    Raises:
        FileNotFoundError: There is no such file, no checkpoint in the folder, or a shard is missing.
        ValueError: A file contains something other than named tensors, or index and shards disagree.
    """

    def __init__(self, source: Path) -> None:
        self._shards: dict[Path, _Shard] = {}
        self._shard_of: dict[str, _Shard] = {}
        expected = _shards_of(source)
        for path in expected:
            self._shards[path] = _open(path)
            for name in self._shards[path].names():
                if name in self._shard_of:
                    raise ValueError(
                        f"{name} is in {path} and in another shard of {source}; fetch the checkpoint again"
                    )
                self._shard_of[name] = self._shards[path]
        for path, names in expected.items():
            held = set(self._shards[path].names())
            if names is not None and names != held:
                raise ValueError(
                    f"{path} does not hold what the checkpoint's index says: missing {sorted(names - held)[:5]}, not "
                    f"in the index {sorted(held - names)[:5]}. Fetch the checkpoint again"
                )

    def __getitem__(self, name: str) -> Tensor:
        return self._shard_of[name].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


class _Shard:
    """One open file; tensors are read on access."""

    def __init__(self, names: list[str], read: Any) -> None:
        self._names = names
        self._read = read

    def names(self) -> list[str]:
        return self._names

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._read(name)
        return tensor


def _open(path: Path) -> _Shard:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint file {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            opened = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not what safetensors writes, or is damaged ({error}): a download that broke off, or the "
                "few lines of text that Git LFS leaves in a file's place. Fetch it again"
            ) from error
        return _Shard(list(opened.keys()), opened.get_tensor)
    loaded = load_pickled_tensors(path)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} is no state dict: expected a flat dict of tensors. Save the model's state dict alone")
    return _Shard([str(name) for name in loaded], loaded.__getitem__)


def load_pickled_tensors(path: Path) -> Any:
    """Open a file that ``torch.save`` wrote. Only tensors and plain containers are unpickled.

    Args:
        path: The file. Its tensors are memory-mapped, and read when they are used.

    Raises:
        ValueError: The file contains anything else (unpickling it could execute code), or is damaged.
    """
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    if not is_zip and not is_pickle:
        raise ValueError(
            f"{path} is not what torch.save writes, or is damaged: a download that broke off, or the few lines of text "
            "that Git LFS leaves in a file's place. Fetch it again"
        )
    try:
        # Only the zip format can be memory-mapped; files from before torch 1.6 are read completely.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and is not opened, because unpickling it could run code. Save its state "
            "dict alone, preferably as safetensors"
        ) from error


def _shards_of(source: Path) -> dict[Path, set[str] | None]:
    """The files of a checkpoint. Where there is an index, with the names of the tensors that each must contain."""
    if source.is_file():
        return {source: None}
    for name in _INDEX_NAMES:
        if (source / name).is_file():
            return _read_index(source / name)
    for name in _FILE_NAMES:
        if (source / name).is_file():
            return {source / name: None}
    wanted = ", ".join((*_INDEX_NAMES, *_FILE_NAMES))
    raise FileNotFoundError(f"no checkpoint at {source}: expected a checkpoint file, or a folder with one of {wanted}")


def _read_index(index: Path) -> dict[Path, set[str] | None]:
    shards: dict[Path, set[str] | None] = {}
    for name, file_name in read_json(index)["weight_map"].items():
        if Path(file_name).name != file_name:
            raise ValueError(f"{index} names {file_name!r} for {name}: shards must be in the folder of their index")
        names = shards.setdefault(index.parent / file_name, set())
        assert names is not None
        names.add(name)
    return shards
