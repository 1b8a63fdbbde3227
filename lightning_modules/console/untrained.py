"""Tells which parts of a model have random weights where no checkpoint was given."""

from collections.abc import Mapping
from typing import Any

PARTS = ("encoder", "bridge", "language_model")


def untrained_parts(model: Mapping[str, Any]) -> list[str]:
    """The parts that begin with random weights, as the config has them.

    Args:
        model: ``model`` of a run's config.

    Returns:
        Their names. A part is pretrained if its ``weights`` say so or, where it has no such setting, a path does.
    """
    return [name for name in PARTS if model.get(name) is not None and _is_random(model[name])]


def _is_random(part: Mapping[str, Any]) -> bool:
    settings = part.get("init_args") or {}
    if "weights" in settings:
        return settings["weights"] in (None, "random")
    return not any(name == "path" or name.endswith("_path") for name in settings) and not _needs_none(part)


def _needs_none(part: Mapping[str, Any]) -> bool:
    """An encoder that reads cached features has no weights."""
    return ".encoders." in str(part.get("class_path"))


def warning_of(parts: list[str], command: str, option: str = "--ckpt_path") -> str:
    """What to print before such a model is evaluated.

    Args:
        parts: Names of the parts.
        command: What runs, such as ``validate``.
        option: The command's option that names a checkpoint.
    """
    return (
        f"WARNING: no {option} was given, so {command} runs with random weights of {' and '.join(parts)}: the answers "
        f"mean nothing. Give {option} CHECKPOINT"
    )
