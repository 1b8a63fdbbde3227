"""Compares the settings of a run with those in a checkpoint, as far as they decide what its weights mean."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.checkpoints.run_checkpoint import CONFIG
from components.old_class_paths import with_new_class_paths

_COMPARED = (("model",), ("data", "pixels"), ("data", "loading", "chat"))
_MAY_DIFFER = frozenset(
    {
        # How a run learns, not what its weights compute.
        "optimization", "initial_weights", "loss_schedule", "update_penalty", "dropout", "freeze",
        # How it is computed, or how long an answer may be.
        "dtype", "attn", "gradient_checkpointing", "pack", "max_frames_per_call", "max_new_tokens",
        # Where weights come from: their fingerprints are compared instead.
        "path", "video_path", "image_path", "weights", "gguf_file",
        # Held to what the encoder reads, frame by frame.
        "size",
    }
)  # fmt: skip
_log = logging.getLogger(__name__)


def differing_settings(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings in which a run differs from a checkpoint.

    Rates, schedules, folders and all else that leaves the meaning of trained weights as it is may differ. A setting
    that one of the two does not know is no difference: the code had not got it yet, or has it no more.

    Args:
        kept: The config in the checkpoint.
        now: The config of the run.

    Returns:
        A line for each, such as ``model.language_model.init_args.lora.alpha: 8 in the checkpoint, 64 now``.
    """
    sections = [(".".join(each), _inside(kept, each), _inside(now, each)) for each in _COMPARED]
    return [
        f"{name}: {_shown(old)} in the checkpoint, {_shown(new)} now"
        for section, before, after in sections
        if before is not None and after is not None
        for name, old, new in _differences(section, before, after)
    ]


def refuse_other_settings(checkpoint: Path, run_config: str | None) -> None:
    """Check that a run has the settings of the checkpoint that it goes on from or is judged by.

    Raises:
        ValueError: A setting differs that decides what the weights mean; all of them are named.
    """
    kept = config_in(checkpoint)
    if kept is None or run_config is None:
        return
    differing = differing_settings(kept, yaml.safe_load(run_config))
    if differing:
        raise ValueError(
            f"{checkpoint} was trained with other settings, with which its weights mean something else: "
            f"{'; '.join(differing)}. Set them as they were. To train on from these weights with other settings, begin "
            "a new run with model.initial_weights; to evaluate with other settings, give them as "
            "`python evaluate.py --checkpoint CKPT --config FILE`"
        )


def warn_of_other_settings(checkpoint: Path, settings: Mapping[str, Any], part: str = "") -> None:
    """Name the settings that differ where somebody chose to use a checkpoint with settings of their own.

    Args:
        checkpoint: The checkpoint or export.
        settings: The config that is used instead of the one in it.
        part: The part that is taken, such as ``model.bridge``; the whole model by default.
    """
    kept = config_in(checkpoint)
    differing = [] if kept is None else differing_settings(kept, settings)
    differing = [line for line in differing if line.startswith(part)]
    if differing:
        _log.warning("%s was trained with other settings: %s", checkpoint, "; ".join(differing))


def config_in(checkpoint: Path) -> dict[str, Any] | None:
    """The config in a checkpoint or an export; None where it has none."""
    path = checkpoint / CONFIG
    if not path.is_file():
        return None
    read: dict[str, Any] = yaml.safe_load(with_new_class_paths(path.read_text(encoding="utf-8")))
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
            return  # options of different classes are not compared
        for key in (key for key in old if key in new and key not in _MAY_DIFFER and key != "class_path"):
            yield from _differences(f"{name}.{key}", old[key], new[key])
    elif _value(old) != _value(new):
        yield name, old, new


def _as_class(value: Any, other: Any) -> Any:
    """A class that is named without options, as it is written with them."""
    is_class = isinstance(value, str) and isinstance(other, Mapping) and "class_path" in other
    return {"class_path": value} if is_class else value


def _class_name(settings: Mapping[str, Any]) -> str:
    """A class's own name: its module may have been moved."""
    return str(settings["class_path"]).rpartition(".")[2]


def _value(value: Any) -> Any:
    """A value that is equal however YAML wrote it: 1e-5 is a text to some readers and a number to others."""
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
