"""Finds the parts of a model that have random weights without a checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any

_PARTS = ("encoder", "projector", "newline", "bridge")


def untrained_parts(model: Mapping[str, Any]) -> list[str]:
    """The parts that have random weights according to the config.

    Args:
        model: ``model`` of a run's config.

    Returns:
        Their names. A part is pretrained if its option ``weights`` says so or, without this option, if it has a path.
        Poolings and reducers are not among them, because most have no weights.
    """
    return [name for name, part in _parts_with_weights(model) if _is_random(part)]


def _parts_with_weights(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configured parts that usually have weights, by their names as parts of the model."""
    for name in _PARTS:
        if model.get(name) is not None:
            yield name, model[name]
    for name, settings in (model.get("readers") or {}).items():
        yield name, settings["reader"]
    if model.get("language_model") is not None:
        yield "language_model", model["language_model"]


def _is_random(part: Mapping[str, Any]) -> bool:
    settings = part.get("init_args") or {}
    if settings.get("projection") == "none" and not settings.get("type_embedding"):
        return False  # fine frames that are shown as they are
    if "weights" in settings:
        return settings["weights"] in (None, "random")
    return not any(name == "path" or name.endswith("_path") for name in settings) and not _needs_none(part)


def _needs_none(part: Mapping[str, Any]) -> bool:
    """Whether a part has no weights, as an encoder that reads cached features."""
    return ".encoders." in str(part.get("class_path"))


def warning_of(parts: list[str], command: str, option: str = "--ckpt_path") -> str:
    """The warning to print before a model with random weights is evaluated.

    Args:
        parts: Names of the parts.
        command: The command, such as ``validate``.
        option: The command's option for a checkpoint.
    """
    return (
        f"WARNING: no {option} was given, so {command} runs with random weights of {' and '.join(parts)}: the answers "
        f"mean nothing. Give {option} CHECKPOINT"
    )
