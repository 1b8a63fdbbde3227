"""Tells how many layers a part has, so that one whose last layers are missing does not pass for a shallower one."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from components.weights.original_names import PartName, PartNames, layers_of

_BRIDGE_DEPTH = re.compile(r"rmt_r_transformer(\d+)x")  # how the original reads `mm_projector_type`


class Depth(NamedTuple):
    """Number of layers that a part must have, and how that is known."""

    num_layers: int
    known_from: str


def read_depths(source: Path) -> dict[PartName, int]:
    """Read the depths that a checkpoint's ``config.json`` states.

    Args:
        source: The original checkpoint, a folder or a file; what lies beside a file counts.

    Returns:
        Number of layers of those parts of which it says so. Of the encoders the original's never does.
    """
    config = _read_config(source if source.is_dir() else source.parent)
    depths: dict[PartName, int] = {}
    language_model = _num_layers_in(config.get("text_config", config))
    if language_model is not None:
        depths["language_model"] = language_model
    if match := _BRIDGE_DEPTH.match(str(config.get("mm_projector_type"))):
        depths["bridge"] = int(match[1])
    return depths


def read_depth(folder: Path) -> int | None:
    """Read the depth that the ``config.json`` of one part's folder states, if there is one and it does."""
    return _num_layers_in(_read_config(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config


def _num_layers_in(config: Mapping[str, Any]) -> int | None:
    stated = config.get("num_hidden_layers")
    return stated if isinstance(stated, int) else None


def depth_of(part: PartName, rules: PartNames, tensors: Mapping[str, Tensor], stated: int | None) -> Depth:
    """Tell how many layers a part must have.

    Args:
        part: The part.
        rules: Its names.
        tensors: Its tensors under original names, without prefix; only the width is read from them.
        stated: What was said about it; None knows the published models by their width, and no others.

    Raises:
        ValueError: Nothing was said, and the width is not that of a published model.
    """
    if stated is not None:
        return Depth(stated, "stated")
    width = tensors[rules.width_from].shape[-1] if rules.width_from in tensors else None
    if width is None or width not in rules.published_layers:
        sized = f"and {rules.width_from} missing" if width is None else f"for width {width}"
        raise ValueError(
            f"{part}: unknown number of layers {sized}; layers {sorted(layers_of(tensors))} are there, but the last "
            f"may be missing. Say how many it was trained with: --num-layers {part}=N"
        )
    return Depth(rules.published_layers[width], f"published for its width {width}")


def depth_problems(part: PartName, rules: PartNames, names: Collection[str], depth: Depth) -> list[str]:
    """Say which whole layers are missing or too many, in at most one line.

    Args:
        part: The part.
        rules: Its names.
        names: Original names that are there, without prefix.
        depth: The layers that it must have.
    """
    present, expected = layers_of(names), layers_of(rules.names(depth.num_layers))
    missing, beyond = sorted(expected - present), sorted(present - expected)
    if not missing and not beyond:
        return []
    found = f"missing layers {missing}" if missing else "no layer missing"
    surplus = f", beyond them {beyond}" if beyond else ""
    return [
        f"{part}: {found} of the {depth.num_layers} that are {depth.known_from}{surplus}. Fetch the checkpoint's files "
        f"again, or, if the part was trained with another number of layers, say so: --num-layers {part}=N"
    ]
