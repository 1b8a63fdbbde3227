"""Opens the weights that ``python -m lightning_modules.export`` writes.

The folder holds plain safetensors (one ``model.safetensors``, or several files and their index) with the parameters as
``VideoLanguageModel`` names them, ``export.json`` about them, and the run's ``config.yaml``.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from components.checkpoints.file_hashes import refuse_changed_files
from components.checkpoints.run_checkpoint import EXPORT_ABOUT, RunCheckpoint
from components.checkpoints.weight_files import WeightFiles
from components.checkpoints.weight_fingerprint import read_fingerprints

ABOUT = EXPORT_ABOUT
PREFIX = "model."
"""What stands before a parameter's name in a training run's module, and not in an export."""


class ExportedWeights:
    """An export, with the names that the parameters have in a training run.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        left_out: Parameters that are not in it because they did not train.
        fingerprints: See ``RunCheckpoint``.
        tokenizer: See ``RunCheckpoint``.
        has_averages: Whether some of the weights are running averages.

    Raises:
        FileNotFoundError: There is no export.
        ValueError: Its files and their index disagree, or a file was changed.
    """

    def __init__(self, path: Path) -> None:
        if not (path / ABOUT).is_file():
            raise FileNotFoundError(f"{path} is no export: it has no {ABOUT}")
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        self.path = path
        self.left_out = frozenset[str](about["left_out"])
        self.fingerprints = read_fingerprints(about)
        self.tokenizer: dict[str, str] | None = about.get("tokenizer")
        refuse_changed_files(path, about.get("hashes", {}))
        self.has_averages: bool = about["averaged"]
        self._files = WeightFiles(path)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters and buffers whose values it has."""
        return frozenset(PREFIX + name for name in self._files)

    def shape(self, parameter: str) -> torch.Size:
        """Shape of a parameter or buffer; nothing of it is read."""
        return self.weight(parameter).shape

    def weight(self, parameter: str, *, averaged: bool = False) -> Tensor:
        """Value of a parameter or buffer; what is averaged was decided by the export."""
        return self._files[parameter.removeprefix(PREFIX)]


def open_weights(path: Path) -> RunCheckpoint | ExportedWeights:
    """Open a checkpoint or an export; see ``RunCheckpoint`` for what is raised."""
    return ExportedWeights(path) if (path / ABOUT).is_file() else RunCheckpoint(path)
