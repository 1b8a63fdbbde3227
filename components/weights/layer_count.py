"""Determines how many layers a part must have, to detect checkpoints whose last layers are missing."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from components.weights.original_names import PartName, PartNames, layers_of

_BRIDGE_LAYERS = re.compile(r"rmt_r_transformer(\d+)x")  # how the original reads `mm_projector_type`


class LayerCount(NamedTuple):
    """Number of layers that a part must have, and the source of this number."""

    num_layers: int
    known_from: str


def read_layer_counts(source: Path) -> dict[PartName, int]:
    """Read numbers of layers from a checkpoint's ``config.json``.

    Args:
        source: The original checkpoint: a folder, or a file in a folder with ``config.json``.

    Returns:
        Number of layers of every part for which the file has it. The original's never has those of the encoders.
    """
    config = _read_config(source if source.is_dir() else source.parent)
    layer_counts: dict[PartName, int] = {}
    language_model = _num_layers_in(config.get("text_config", config))
    if language_model is not None:
        layer_counts["language_model"] = language_model
    if match := _BRIDGE_LAYERS.match(str(config.get("mm_projector_type"))):
        layer_counts["bridge"] = int(match[1])
    return layer_counts


def read_layer_count(folder: Path) -> int | None:
    """Read the number of layers from the ``config.json`` of one part's folder; None if it is not there."""
    return _num_layers_in(_read_config(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config


def _num_layers_in(config: Mapping[str, Any]) -> int | None:
    stated = config.get("num_hidden_layers")
    return stated if isinstance(stated, int) else None


def layer_count_of(part: PartName, rules: PartNames, tensors: Mapping[str, Tensor], stated: int | None) -> LayerCount:
    """Determine how many layers a part must have.

    Args:
        part: The part.
        rules: Its names.
        tensors: Its tensors under original names, without prefix; only the width is read from them.
        stated: The number in a config or option; None takes that of the published model with the same width.

    Raises:
        ValueError: There is no stated number, and no published model has this width.
    """
    if stated is not None:
        return LayerCount(stated, "stated")
    width = tensors[rules.width_from].shape[-1] if rules.width_from in tensors else None
    if width is None or width not in rules.published_layers:
        sized = f"and {rules.width_from} missing" if width is None else f"for width {width}"
        raise ValueError(
            f"{part}: unknown number of layers {sized}; layers {sorted(layers_of(tensors))} are there, but the last "
            f"may be missing. Give the number that it was trained with: --num-layers {part}=N"
        )
    return LayerCount(rules.published_layers[width], f"published for its width {width}")


def layer_count_problems(part: PartName, rules: PartNames, names: Collection[str], count: LayerCount) -> list[str]:
    """Describe which complete layers are missing or superfluous, in at most one line.

    Args:
        part: The part.
        rules: Its names.
        names: Original names in the checkpoint, without prefix.
        count: The expected number of layers.
    """
    present, expected = layers_of(names), layers_of(rules.names(count.num_layers))
    missing, beyond = sorted(expected - present), sorted(present - expected)
    if not missing and not beyond:
        return []
    found = f"missing layers {missing}" if missing else "no layer missing"
    surplus = f", beyond them {beyond}" if beyond else ""
    return [
        f"{part}: {found} of the {count.num_layers} that are {count.known_from}{surplus}. Fetch the checkpoint's files "
        f"again, or, if the part was trained with another number of layers, give it: --num-layers {part}=N"
    ]
