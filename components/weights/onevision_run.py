"""Reads the parts of a trained LLaVA-OneVision or Memory-Augmented VLM from the checkpoint of a training run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from components.checkpoints.exported_weights import ExportedWeights, open_weights
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.weights.conversion import Allowances, refuse_differences
from components.weights.lora import is_adapter
from components.weights.onevision_names import PARTS, PartName
from components.weights.trained_parts import merge_trained_adapters, refuse_other_frozen_parts

PREFIXES: Mapping[PartName, str] = {
    "vision_encoder": "model.encoder.vision_model.",
    "projector": "model.projector.",
    "newline": "model.newline.",
    "memory": "model.memory.",
    "frames": "model.frames.",
    "language_model": "model.language_model.model.",
}
"""Beginning of a part's names in a checkpoint, where its readers are called ``memory`` and ``frames``."""


def parts_of_run(
    checkpoint: Path,
    folder: Path | None,
    frozen: Mapping[PartName, Mapping[str, Tensor]],
    alpha: float | None,
    allowed: Allowances,
) -> dict[PartName, Mapping[str, Tensor]]:
    """Collect the parts of a run: what trained from its checkpoint, the rest from the folder that it started from.

    Args:
        checkpoint: A ``.ckpt`` folder, or a model's folder.
        folder: Folder of imported parts that training started from; None without one.
        frozen: The parts in it.
        alpha: ``alpha`` of the run's LoRA settings, if it trained adapters.
        allowed: Names of the checkpoint's parameters that may be unknown.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint has tensors of no part of this model, a weight that did not train is not in the
            folder or has another value there, or see ``merge_trained_adapters``.
    """
    opened = open_weights(checkpoint)
    trained = _stored_parts(opened, allowed)
    parts: dict[PartName, Mapping[str, Tensor]] = {}
    for part in PARTS:
        if part == "language_model" and any(map(is_adapter, trained[part])):
            path = None if folder is None else folder / part
            parts[part] = merge_trained_adapters(checkpoint, trained[part], path, alpha)
        elif trained[part]:
            names = {name.removeprefix(PREFIXES[part]) for name in opened.left_out if name.startswith(PREFIXES[part])}
            known = frozen.get(part, {})
            parts[part] = {name: known[name] for name in names & known.keys()} | trained[part]
        elif part in frozen:
            parts[part] = frozen[part]
    refuse_other_frozen_parts(opened.fingerprints, checkpoint, frozen, PREFIXES)
    return parts


def _stored_parts(opened: RunCheckpoint | ExportedWeights, allowed: Allowances) -> dict[PartName, dict[str, Tensor]]:
    """What a checkpoint stores of every part, by our names; tensors are read when they are used."""
    parts: dict[PartName, dict[str, Tensor]] = {part: {} for part in PARTS}
    unknown = []
    for name in sorted(opened.parameters):
        part = next((part for part in PARTS if name.startswith(PREFIXES[part])), None)
        if part is None:
            unknown.append(name)
        else:
            parts[part][name.removeprefix(PREFIXES[part])] = opened.weight(name)
    refuse_differences([], unknown, allowed)
    return parts
