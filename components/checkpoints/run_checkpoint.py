"""Defines and reads the checkpoint folders of training runs. Code in a checkpoint is never executed.

A folder ``NAME.ckpt`` contains

- ``index.json``: format, version, number of optimizer steps, size and content hash of every file, the file of every
  tensor, the names and fingerprints of the parameters that are not stored because they did not train, and the
  fingerprint of the tokenizer;
- ``tensors-RRRRR-of-WWWWW.safetensors``, one per rank: complete (unsharded) tensors, named ``model/<parameter>`` and
  ``optimizer/<state>/<parameter>``;
- ``state.pt``: everything else (loops, callbacks, schedules, position in the data, groups and step counts of the
  optimizer);
- ``config.yaml``: the config of the run, where the run had one.

``components.checkpoints.saving`` writes such a folder.
"""

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.checkpoints.earlier_names import current_name
from components.checkpoints.file_hashes import refuse_changed_files
from components.checkpoints.weight_fingerprint import read_fingerprints

FORMAT = "membridge checkpoint"
VERSION = 1
INDEX = "index.json"
STATE = "state.pt"
CONFIG = "config.yaml"
WEIGHT = "model/"
OPTIMIZER = "optimizer/"
AVERAGE = "average"
"""Name of the optimizer state that is a running average of the weights."""
EXPORT_ABOUT = "export.json"
"""Description of an export; a checkpoint has no such file."""
REPLACED = ".{}.replaced"
"""Temporary name of a folder while a new one replaces it."""


def state_name(state: str, parameter: str) -> str:
    """Name of an optimizer state's tensor, such as ``optimizer/exp_avg/model.bridge.gate``."""
    return f"{OPTIMIZER}{state}/{parameter}"


class RunCheckpoint(Mapping[str, Tensor]):
    """A checkpoint of a training run. Tensors are memory-mapped: only those that are used are read from disk.

    Args:
        path: The folder, or a link to it.
        rank: Rank of this process, where several open the checkpoint together. They divide the hashing of the files.
        num_ranks: Number of processes that open it together.

    Attributes:
        path: The folder, links resolved.
        step: Optimizer steps that the run had done.
        left_out: Names of parameters that are not stored because they did not train.
        fingerprints: Fingerprints of these parameters; empty in checkpoints from before fingerprints existed.
        tokenizer: Hashes of the language model's tokenizer, see ``TokenizerFingerprint``; None if not stored.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: It is not a checkpoint of this project, it has another version, or a file is missing, truncated or
            changed.
    """

    def __init__(self, path: Path, *, rank: int = 0, num_ranks: int = 1) -> None:
        self.path = _find(path)
        index = _read_index(self.path)
        self.step: int = index["step"]
        self.left_out = frozenset(map(current_name, index["left_out"]))
        self.fingerprints = {current_name(name): value for name, value in read_fingerprints(index).items()}
        self.tokenizer: dict[str, str] | None = index.get("tokenizer")
        self._name_in_file: dict[str, str] = {_current_key(name): name for name in index["tensors"]}
        self._file_of: dict[str, str] = {_current_key(name): file for name, file in index["tensors"].items()}
        self._files: dict[str, Any] = {}
        _refuse_incomplete(self.path, index["files"])
        hashes = sorted(index.get("hashes", {}).items())
        refuse_changed_files(self.path, dict(hashes[rank::num_ranks]))

    def __getitem__(self, name: str) -> Tensor:
        file = self._opened(self._file_of[name])
        try:
            tensor: Tensor = file.get_tensor(self._name_in_file[name])
        except SafetensorError as error:
            raise ValueError(
                f"{self.path / self._file_of[name]} has no readable {name}, which {INDEX} says it has: {error}. "
                "Use another checkpoint"
            ) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the stored parameters and buffers."""
        return frozenset(name.removeprefix(WEIGHT) for name in self if name.startswith(WEIGHT))

    @property
    def has_averages(self) -> bool:
        """Whether running averages of some parameters are stored."""
        return any(name.startswith(state_name(AVERAGE, "")) for name in self)

    def shape(self, parameter: str) -> torch.Size:
        """Shape of a parameter or buffer; its values are not read."""
        name = WEIGHT + parameter
        file = self._opened(self._file_of[name])
        return torch.Size(file.get_slice(self._name_in_file[name]).get_shape())

    def weight(self, parameter: str, *, averaged: bool = False) -> Tensor:
        """Value of a parameter or buffer.

        Args:
            parameter: Its name.
            averaged: Return its running average instead, where one is stored.
        """
        average = state_name(AVERAGE, parameter)
        return self[average] if averaged and average in self else self[WEIGHT + parameter]

    def optimizer_states(self) -> dict[str, list[str]]:
        """Names of the optimizer's tensors, such as ``exp_avg``, by parameter."""
        found: dict[str, list[str]] = {}
        for name in self:
            if name.startswith(OPTIMIZER):
                state, parameter = name.removeprefix(OPTIMIZER).split("/", maxsplit=1)
                found.setdefault(parameter, []).append(state)
        return found

    def state(self) -> dict[str, Any]:
        """State of loops, callbacks and schedules: all that is not a tensor of the model or its optimizer.

        Raises:
            ValueError: The file is damaged, or contains more than plain values; unpickling those could execute code.
        """
        path = self.path / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(
                f"{path} is damaged, or holds more than plain values; it is not opened, because unpickling could run "
                f"code ({str(error).splitlines()[0]}). Use another checkpoint"
            ) from error
        for optimizer in state.get("optimizer_states", ()):
            optimizer["numbers"] = {current_name(name): each for name, each in optimizer["numbers"].items()}
        return state

    def _opened(self, file: str) -> Any:
        if file not in self._files:
            try:
                self._files[file] = safe_open(self.path / file, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{self.path / file} is damaged: {error}. Use another checkpoint") from error
        return self._files[file]


def _current_key(name: str) -> str:
    """Today's name of a stored tensor."""
    kind, _, parameter = name.rpartition("/")
    return f"{kind}/{current_name(parameter)}"


def _find(path: Path) -> Path:
    """Resolve links. If the process was killed while it replaced the folder, the previous one has a temporary name."""
    folder = Path(os.path.realpath(path))
    replaced = folder.with_name(REPLACED.format(folder.name))
    if folder.is_dir():
        return folder
    if replaced.is_dir():
        return replaced.resolve()
    if folder.exists():
        raise ValueError(
            f"{path} is a single file; training writes folders now, and the older files are no longer read. Train "
            "again, or continue with the version of the code that wrote it"
        )
    linked = f", where it points to {folder}" if path.is_symlink() else ""
    raise FileNotFoundError(f"there is no checkpoint {path} (seen from {Path.cwd()}{linked})")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint of this project: it has no {INDEX}{_what_it_is(folder)}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        known = index["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not of this project ({error!r}). Use another checkpoint") from error
    if not known:
        raise ValueError(f"{folder} is no checkpoint of this project: {path} names the format {index['format']!r}")
    if index["version"] != VERSION:
        raise ValueError(
            f"{folder} is a checkpoint of version {index['version']}, this code reads version {VERSION}; use the "
            "version of the code that wrote it"
        )
    strangers = [name for name in index["files"] if Path(name).name != name]
    strangers += [name for name in index["tensors"].values() if name not in index["files"]]
    if strangers:
        raise ValueError(f"{path} is damaged: it names the files {strangers[:3]}, which are not files of the folder")
    return dict(index)


def _what_it_is(folder: Path) -> str:
    """Explain, for an error message, what a folder contains instead of a checkpoint."""
    if (folder / EXPORT_ABOUT).is_file():
        return (
            ". It is an export: weights without the state of a run, so a run cannot be resumed from it. Start a new "
            f"run with --model.initial_weights={folder}, or evaluate it: python evaluate.py --checkpoint {folder}"
        )
    if (folder / "config.json").is_file():
        return ". It is a folder of one part: name it as that part's path, such as model.language_model.init_args.path"
    return ""


def _refuse_incomplete(folder: Path, sizes: Mapping[str, int]) -> None:
    found = {name: (folder / name).stat().st_size if (folder / name).is_file() else None for name in sizes}
    wrong = [f"{name} ({found[name]} bytes instead of {size})" for name, size in sizes.items() if found[name] != size]
    if wrong:
        raise ValueError(f"{folder} is incomplete: {', '.join(wrong[:3])}. Copy it again, or use another checkpoint")
