"""Begins a run with the weights of another one: the second of two stages that hand over."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

_log = logging.getLogger(__name__)


def read_weights(checkpoint: Path) -> dict[str, Any]:
    """Weights of a checkpoint by their name in the module; what was frozen is not in it.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    if not checkpoint.exists():
        raise FileNotFoundError(f"model.initial_weights: there is no checkpoint {checkpoint} (seen from {Path.cwd()})")
    weights: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return weights


def load_initial_weights(module: LightningModule, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into a module; optimizer, schedule and data begin anew.

    Args:
        module: Its parts are built. What the checkpoint does not have, for it was frozen there, stays as it is.
        checkpoint: Of a run with the same parts.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint has tensors that no part knows: the parts are not those that were trained.
    """
    weights = read_weights(checkpoint)
    unknown = sorted(set(weights) - set(module.state_dict()))
    if unknown:
        raise ValueError(
            f"model.initial_weights: {checkpoint} does not fit the configured model: unknown {unknown[:5]} "
            f"({len(unknown)} in all). Configure the parts as in the run that wrote it"
        )
    module.load_state_dict(weights, strict=False)
    _log.info("began with %d tensors of %s", len(weights), checkpoint)
