"""Reads the weights in the folder of a model, which ``python -m lightning_modules.export`` writes.

A folder contains ``model.safetensors`` (or several such files and their index), with parameters named as in
``VideoLanguageModel``; a description, ``export.json``; and the run's ``config.yaml``. The weights of a language model
that trained are in the folder ``language_model`` inside it. ``components.pretrained`` opens the complete model.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from components.checkpoints.earlier_names import current_name
from components.checkpoints.file_hashes import refuse_changed_files
from components.checkpoints.json_file import read_json
from components.checkpoints.run_checkpoint import EXPORT_ABOUT, RunCheckpoint
from components.checkpoints.weight_files import WeightFiles
from components.checkpoints.weight_fingerprint import read_fingerprints

ABOUT = EXPORT_ABOUT
PREFIX = "model."
"""Prefix of a parameter's name in a training run's module; names in an export do not have it."""


class ExportedWeights:
    """The weights of a model's folder, under the names that parameters have in a training run.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        left_out: See ``RunCheckpoint``.
        fingerprints: See ``RunCheckpoint``.
        tokenizer: See ``RunCheckpoint``.
        has_averages: Whether some of the weights are running averages.

    Raises:
        FileNotFoundError: There is no export at ``path``.
        ValueError: Its files and their index disagree, or a file was changed.
    """

    def __init__(self, path: Path) -> None:
        self._in_folders: dict[str, tuple[WeightFiles, str]] = {}  # parameter -> files of a part, its name there
        if not (path / ABOUT).is_file():
            raise FileNotFoundError(f"{path} is no export: it has no {ABOUT}")
        about = read_json(path / ABOUT)
        if not isinstance(about, dict) or not {"left_out", "averaged"} <= about.keys():
            raise ValueError(f"{path / ABOUT} is damaged or was edited: copy the folder again")
        self.path = path
        self.left_out = frozenset(map(current_name, about["left_out"]))
        self.fingerprints = {current_name(name): value for name, value in read_fingerprints(about).items()}
        self.tokenizer: dict[str, str] | None = about.get("tokenizer")
        refuse_changed_files(path, about.get("hashes", {}))
        self.has_averages: bool = about["averaged"]
        self._files = WeightFiles(path)
        self._name_in_file = {PREFIX + current_name(name): name for name in self._files}
        for folder, names in about.get("in_folder", {}).items():
            files = WeightFiles(path / folder)
            self._in_folders |= {PREFIX + name: (files, inner) for name, inner in names.items()}

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the stored parameters and buffers."""
        return frozenset(self._name_in_file.keys() | self._in_folders.keys())

    def outside_folders(self) -> "ExportedWeights":
        """The same without what parts read from the folders inside this one: those count as left out."""
        rest = copy.copy(self)
        rest.left_out = self.left_out | self._in_folders.keys()
        rest._in_folders = {}
        return rest

    def shape(self, parameter: str) -> torch.Size:
        """Shape of a parameter or buffer; its values are not read."""
        return self.weight(parameter).shape

    def weight(self, parameter: str, *, averaged: bool = False) -> Tensor:
        """Value of a parameter or buffer. ``averaged`` has no effect: the export has either averages or weights."""
        if parameter in self._in_folders:
            files, name = self._in_folders[parameter]
            return files[name]
        return self._files[self._name_in_file[parameter]]


def open_weights(path: Path) -> RunCheckpoint | ExportedWeights:
    """Open a checkpoint or an export; see ``RunCheckpoint`` for errors."""
    return ExportedWeights(path) if (path / ABOUT).is_file() else RunCheckpoint(path)
