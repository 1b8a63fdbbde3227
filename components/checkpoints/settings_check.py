"""Compares the config of a run with that of a checkpoint, for the settings that change what the weights compute."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.checkpoints.run_checkpoint import CONFIG
from components.old_class_paths import with_new_class_paths
from components.old_pooling_settings import with_model_pooling

_COMPARED = (("model",), ("data", "pixels"), ("data", "loading", "chat"))
_MAY_DIFFER = frozenset(
    {
        # How the model is trained, not what its weights compute.
        "optimization", "initial_weights", "loss_schedule", "stream_schedule", "update_penalty", "dropout", "freeze",
        # Precision, speed and memory, and how long an answer may be.
        "dtype", "attn", "gradient_checkpointing", "pack", "max_frames_per_call", "max_new_tokens",
        # Where weights come from; fingerprints of the weights are compared instead.
        "path", "video_path", "image_path", "weights", "gguf_file",
        # The encoder checks the size of every frame.
        "size",
    }
)  # fmt: skip
_log = logging.getLogger(__name__)


def differing_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings in which a run differs from a checkpoint.

    Learning rates, schedules, folders and other settings that do not change what trained weights compute are ignored.
    So is a setting that only one of the two configs has, because versions of the code differ in their options.

    Args:
        stored: The config in the checkpoint.
        now: The config of the run.

    Returns:
        One line each, such as ``model.language_model.init_args.lora.alpha: 8 in the checkpoint, 64 now``.
    """
    sections = [(".".join(each), _inside(stored, each), _inside(now, each)) for each in _COMPARED]
    return [
        f"{name}: {_shown(old)} in the checkpoint, {_shown(new)} now"
        for section, before, after in sections
        if before is not None and after is not None
        for name, old, new in _differences(section, before, after)
    ]


def refuse_other_settings(checkpoint: Path, run_config: str | None) -> None:
    """Check that a run has the same settings as the checkpoint that it resumes or evaluates.

    Raises:
        ValueError: Settings differ that change what the weights compute; all of them are named.
    """
    stored = config_in(checkpoint)
    if stored is None or run_config is None:
        return
    differing = differing_settings(stored, yaml.safe_load(run_config))
    if differing:
        raise ValueError(
            f"{checkpoint} was trained with other settings, and with these its weights compute something else: "
            f"{'; '.join(differing)}. Use the settings of its run. To train these weights further with other settings, "
            "start a new run with model.initial_weights; to evaluate with other settings, give them as "
            "`python evaluate.py --checkpoint CKPT --config FILE`"
        )


def warn_of_other_settings(checkpoint: Path, settings: Mapping[str, Any], part: str = "") -> None:
    """Log a warning with the settings that differ, where a checkpoint is used on purpose with another config.

    Args:
        checkpoint: The checkpoint or export.
        settings: The config that is used instead of the one in the checkpoint.
        part: The part that is loaded, such as ``model.bridge``; the complete model by default.
    """
    stored = config_in(checkpoint)
    differing = [] if stored is None else differing_settings(stored, settings)
    sections = (part, part.replace("model.", "model.readers.", 1))  # the settings of one of several readers
    differing = [line for line in differing if line.startswith(sections)]
    if differing:
        _log.warning("%s was trained with other settings: %s", checkpoint, "; ".join(differing))


def config_in(checkpoint: Path) -> dict[str, Any] | None:
    """The config in a checkpoint or an export; None if there is none.

    Raises:
        ValueError: See ``with_model_pooling``.
    """
    path = checkpoint / CONFIG
    if not path.is_file():
        return None
    read: dict[str, Any] = yaml.safe_load(with_new_class_paths(path.read_text(encoding="utf-8")))
    with_model_pooling(read, warn=False)
    return read


def _inside(settings: Any, section: tuple[str, ...]) -> Any:
    for key in section:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    old, new = _as_class(old, new), _as_class(new, old)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if "class_path" in old and "class_path" in new and _class_name(old) != _class_name(new):
            yield name, _class_name(old), _class_name(new)
            return  # different classes have different options
        for key in (key for key in old if key in new and key not in _MAY_DIFFER and key != "class_path"):
            yield from _differences(f"{name}.{key}", old[key], new[key])
    elif _value(old) != _value(new):
        yield name, old, new


def _as_class(value: Any, other: Any) -> Any:
    """Write a class that is named by a text alone as a mapping, if the other value is one."""
    is_class = isinstance(value, str) and isinstance(other, Mapping) and "class_path" in other
    return {"class_path": value} if is_class else value


def _class_name(settings: Mapping[str, Any]) -> str:
    """Name of a class without its module, which may have been renamed."""
    return str(settings["class_path"]).rpartition(".")[2]


def _value(value: Any) -> Any:
    """Convert numbers that are written as text: some YAML readers return 1e-5 as text, others as a number."""
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _value(each) for key, each in value.items()}
    try:
        return value if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return value


def _shown(value: Any) -> str:
    return "none" if value is None else str(dict(value)) if isinstance(value, Mapping) else str(value)
