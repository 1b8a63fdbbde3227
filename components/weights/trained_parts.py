"""Reads the trained parts from the checkpoint of a training run, for the export to the original format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from torch import Tensor

from components.checkpoints.run_checkpoint import CONFIG, RunCheckpoint
from components.checkpoints.weight_files import WeightFiles
from components.checkpoints.weight_fingerprint import fingerprint_of_tensor, is_same, plain_name
from components.weights.conversion import NOTHING_ALLOWED, Allowances, refuse_differences
from components.weights.lora import is_adapter, merge_adapters
from components.weights.original_names import PartName

_PREFIXES: Mapping[PartName, str] = {
    "bridge": "model.bridge.",
    "language_model": "model.language_model.model.",
    "video_encoder": "model.encoder.video_transformer.",
    "image_encoder": "model.encoder.image_transformer.",
}
"""Prefix of a part's names in a checkpoint."""
PartT = TypeVar("PartT", bound=str)
"""Name of a part, of any model."""
_CAN_TRAIN: Sequence[PartName] = ("bridge", "language_model")  # the encoders are always frozen


def parts_of_run(
    checkpoint: Path,
    frozen: Mapping[PartName, Mapping[str, Tensor]],
    language_model: Path | None,
    alpha: float | None,
    allowed: Allowances = NOTHING_ALLOWED,
) -> dict[PartName, Mapping[str, Tensor]]:
    """Collect all parts of a training run: trained parts from its checkpoint, the others from their initial weights.

    Args:
        checkpoint: The run's checkpoint.
        frozen: State dicts of the parts before training, under our names; may be empty.
        language_model: Folder of the language model before training.
        alpha: ``alpha`` of the run's LoRA settings, if it trained adapters.
        allowed: Names of the checkpoint's parameters that may be unknown.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: See ``read_trained_parts`` and ``merge_trained_adapters``; or the frozen parts are not those of the
            run.
    """
    trained = read_trained_parts(checkpoint, allowed)
    refuse_other_frozen_parts(RunCheckpoint(checkpoint).fingerprints, checkpoint, frozen, _PREFIXES)
    if "language_model" in trained:
        merged = merge_trained_adapters(checkpoint, trained["language_model"], language_model, alpha)
        trained["language_model"] = merged
    return {**frozen, **trained}


def read_trained_parts(checkpoint: Path, allowed: Allowances = NOTHING_ALLOWED) -> dict[PartName, dict[str, Tensor]]:
    """Read the weights in a checkpoint of a training run.

    Args:
        checkpoint: A ``.ckpt`` folder. It does not contain frozen weights, such as those that LoRA adapters belong to.
        allowed: Names of its parameters that may be unknown.

    Returns:
        State dicts of the stored parts, under our names.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is not a checkpoint (see ``RunCheckpoint``), or has tensors of unknown parts that are not
            allowed.
    """
    opened = RunCheckpoint(checkpoint)
    parts: dict[PartName, dict[str, Tensor]] = {}
    unknown = []
    for name in sorted(opened.parameters):
        part = next((part for part in _CAN_TRAIN if name.startswith(_PREFIXES[part])), None)
        if part is None:
            unknown.append(name)
        else:
            parts.setdefault(part, {})[name.removeprefix(_PREFIXES[part])] = opened.weight(name)
    refuse_differences([], unknown, allowed)
    return parts


def merge_trained_adapters(
    checkpoint: Path, trained: dict[str, Tensor], frozen: Path | None, alpha: float | None
) -> dict[str, Tensor]:
    """Merge a language model's trained adapters into its frozen weights.

    Args:
        checkpoint: The run's checkpoint.
        trained: The language model's tensors in the checkpoint; returned unchanged if there are no adapters.
        frozen: Folder of the language model before training.
        alpha: ``alpha`` of the run's LoRA settings.

    Returns:
        State dict of the complete language model; merged weights are float32.

    Raises:
        ValueError: There are adapters, but no folder or no ``alpha`` is given, or ``alpha`` is not that of the run.
    """
    if not any(is_adapter(name) for name in trained):
        return trained
    if frozen is None or alpha is None:
        raise ValueError(
            "the checkpoint has LoRA adapters. To merge them, give --frozen with the folder of parts that training "
            "started from and --lora-alpha with language_model.init_args.lora.alpha of the run's config.yaml"
        )
    own = _alpha_in(checkpoint)
    if own is not None and own != alpha:
        raise ValueError(
            f"the adapters were trained with alpha {own:g} ({checkpoint / CONFIG}), got --lora-alpha {alpha:g}"
        )
    weights = WeightFiles(frozen)
    return merge_adapters({name: weights[name] for name in weights} | trained, alpha)


def refuse_other_frozen_parts(
    fingerprints: Mapping[str, Any],
    checkpoint: Path,
    parts: Mapping[PartT, Mapping[str, Tensor]],
    prefixes: Mapping[PartT, str],
) -> None:
    """Check that weights which did not train are those that a checkpoint was trained with.

    Args:
        fingerprints: Fingerprints in the checkpoint, by parameter; checkpoints of older versions have none.
        checkpoint: The checkpoint, for messages.
        parts: State dicts of the parts before training, under our names.
        prefixes: Beginning of each part's names in a checkpoint.

    Raises:
        ValueError: A weight has another fingerprint.
    """
    stored = {plain_name(name): value for name, value in fingerprints.items()}
    for part, tensors in parts.items():
        for name in tensors:
            fingerprint = stored.get(prefixes[part] + name)
            if fingerprint is not None and not is_same(fingerprint, fingerprint_of_tensor(tensors[name])):
                raise ValueError(
                    f"{part}: {name} in the --frozen folder is not the weight that {checkpoint} was trained with. Name "
                    "the folder that training started from"
                )


def _alpha_in(checkpoint: Path) -> float | None:
    """``alpha`` of the adapters in the checkpoint's config; None if it is not there."""
    path = checkpoint / CONFIG
    settings: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in ("model", "language_model", "init_args", "lora", "alpha"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    return None if settings is None else float(settings)
