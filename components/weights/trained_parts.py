"""Reads the parts that a training run changed from the checkpoint that it wrote."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from components.weights.checkpoint_files import CheckpointFiles
from components.weights.conversion import NOTHING_ALLOWED, Allowances, refuse_differences
from components.weights.lora import merge_adapters
from components.weights.original_names import PartName
from components.weights.run_checkpoint import RunCheckpoint

_PREFIXES: Mapping[PartName, str] = {"bridge": "model.bridge.", "language_model": "model.language_model.model."}
"""Where the parts that can train stand in a checkpoint's state dict. The encoders are always frozen."""


def read_trained_parts(checkpoint: Path, allowed: Allowances = NOTHING_ALLOWED) -> dict[PartName, dict[str, Tensor]]:
    """Read the weights of a checkpoint that training wrote.

    Args:
        checkpoint: A ``.ckpt`` folder. Frozen parts are not in it; LoRA adapters are, without the weights beside them.
        allowed: Names of its parameters that may be unknown.

    Returns:
        State dicts of the parts it has, under our names.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is no checkpoint (see ``RunCheckpoint``), or has tensors of no known part that are not allowed.
    """
    opened = RunCheckpoint(checkpoint)
    parts: dict[PartName, dict[str, Tensor]] = {}
    unknown = []
    for name in sorted(opened.parameters):
        part = next((part for part, prefix in _PREFIXES.items() if name.startswith(prefix)), None)
        if part is None:
            unknown.append(name)
        else:
            parts.setdefault(part, {})[name.removeprefix(_PREFIXES[part])] = opened.weight(name)
    refuse_differences([], unknown, allowed)
    return parts


def merge_trained_adapters(trained: dict[str, Tensor], frozen: Path | None, alpha: float | None) -> dict[str, Tensor]:
    """Merge a language model's trained adapters into the weights that they were trained beside.

    Args:
        trained: What the checkpoint has of the language model; given back as it is where there are no adapters.
        frozen: Folder of the language model that training started from.
        alpha: ``alpha`` of the run's LoRA settings.

    Returns:
        The whole language model, merged weights in float32.

    Raises:
        ValueError: There are adapters, but no folder or no ``alpha``.
    """
    if not any(".lora_" in name for name in trained):
        return trained
    if frozen is None or alpha is None:
        raise ValueError(
            "the checkpoint has LoRA adapters. To merge them, give --frozen with the folder of parts that training "
            "started from and --lora-alpha with language_model.init_args.lora.alpha of the run's config.yaml"
        )
    weights = CheckpointFiles(frozen)
    return merge_adapters({name: weights[name] for name in weights} | trained, alpha)
