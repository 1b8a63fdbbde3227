"""Gives the weights of one part of a run under the name that the part has in another model."""

from pathlib import Path

import torch
from torch import Tensor

from components.checkpoints.restoring import SavedWeights


class RenamedPart:
    """Weights of a run whose part ``old`` is called ``new``, such as ``model.bridge`` and ``model.memory``.

    Args:
        weights: A checkpoint or an export.
        old: Name of the part there.
        new: Name of the part in the model that is loaded.

    Attributes:
        path: See ``RunCheckpoint``.
        left_out: See ``RunCheckpoint``.
        fingerprints: See ``RunCheckpoint``.
        tokenizer: See ``RunCheckpoint``.
        has_averages: See ``RunCheckpoint``.
    """

    def __init__(self, weights: SavedWeights, old: str, new: str) -> None:
        self._weights = weights
        self._old, self._new = f"{old}.", f"{new}."
        self.path: Path = weights.path
        self.left_out = frozenset(map(self._renamed, weights.left_out))
        self.fingerprints = {self._renamed(name): value for name, value in weights.fingerprints.items()}
        self.tokenizer = weights.tokenizer
        self.has_averages = weights.has_averages

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the stored parameters and buffers."""
        return frozenset(map(self._renamed, self._weights.parameters))

    def shape(self, parameter: str) -> torch.Size:
        """Shape of a parameter or buffer."""
        return self._weights.shape(self._stored(parameter))

    def weight(self, parameter: str, *, averaged: bool = False) -> Tensor:
        """Value of a parameter or buffer."""
        return self._weights.weight(self._stored(parameter), averaged=averaged)

    def _renamed(self, name: str) -> str:
        return self._new + name.removeprefix(self._old) if name.startswith(self._old) else name

    def _stored(self, name: str) -> str:
        return self._old + name.removeprefix(self._new) if name.startswith(self._new) else name
