"""Reads configs of earlier versions, in which encoders and bridges pooled patches; now the model does.

Configs of users, runs, checkpoints and exports have the old options.
"""

import logging
from collections.abc import Iterator
from typing import Any

_OLD_OPTIONS = (  # part, option, classes that had it
    ("encoder", "patch_grid", ("HuggingFaceVisionEncoder", "LanguageBindEncoder")),
    ("bridge", "pool_grid", ("VideoLLaMBBridge",)),
    ("bridge", "patch_pooling", ("RecurrentMemoryBridge",)),
)
OLD_POOLING_OPTIONS = {option for _, option, _ in _OLD_OPTIONS}
"""Names of the options that parts had."""

_GRID_POOLING = "components.pooling.patch_pooling.GridPooling"
_BY_PART = ("learning_rates", "weight_decay", "frozen_until", "averages")
_NEW = "patch_pooling"

_log = logging.getLogger(__name__)


def with_model_pooling(settings: Any, *, warn: bool = True) -> Any:
    """Replace the old options for pooling by ``model.patch_pooling``.

    Args:
        settings: What a YAML reader returns for a complete config or one of several files; changed in place.
        warn: Whether to tell the user to write the new option.

    Returns:
        The same settings.

    Raises:
        ValueError: The settings ask for two different poolings, one after the other.
    """
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict):
        return settings
    given = {name: value for name, value in _taken(model) if value is not None or "language_model" not in model}
    unset = [name for name, value in given.items() if value is None]
    poolings = {name: _as_pooling(value) for name, value in given.items() if value is not None}
    if not poolings:
        if unset and warn:  # in one of several files
            _log.warning(
                "%s: null has no effect any more; to pool no patches, write model.patch_pooling: null", unset[0]
            )
        return settings
    if model.get(_NEW) is not None:
        poolings[f"model.{_NEW}"] = model[_NEW]
    chosen, *others = poolings.values()
    if any(_plain(other) != _plain(chosen) for other in others):
        raise ValueError(
            f"{' and '.join(poolings)} pool the patches in different ways, one after the other. The model pools once "
            f"now: remove them, and write model.{_NEW} with one pooling"
        )
    model[_NEW] = chosen
    if "model.bridge.init_args.patch_pooling" in poolings:
        _copy_settings_of_bridge(model)
    if warn:
        _log.warning("%s is called model.%s now; write that", next(iter(poolings)), _NEW)
    return settings


def _taken(model: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Remove the old options; yields their full names and values."""
    for part, option, classes in _OLD_OPTIONS:
        settings = model.get(part)
        if not isinstance(settings, dict) or not isinstance(options := settings.get("init_args"), dict):
            continue
        # One of several files may leave the class out.
        if option in options and _class_name(settings.get("class_path", classes[0])) in classes:
            yield f"model.{part}.init_args.{option}", options.pop(option)


def _as_pooling(value: Any) -> Any:
    """The settings of a pooling; a number was the side of a grid."""
    is_pooling = isinstance(value, dict) or (isinstance(value, str) and not value.startswith("${") and "." in value)
    return value if is_pooling else {"class_path": _GRID_POOLING, "init_args": {"grid": value}}


def _plain(pooling: Any) -> tuple[str, dict[str, Any]]:
    """A pooling in a form that can be compared."""
    if not isinstance(pooling, dict):
        return _class_name(pooling), {}
    options = dict(pooling.get("init_args") or {})
    if options.get("reduction") == "average":  # the default
        del options["reduction"]
    return _class_name(pooling.get("class_path", "")), options


def _class_name(class_path: Any) -> str:
    return str(class_path).rpartition(".")[2]


def _copy_settings_of_bridge(model: dict[str, Any]) -> None:
    """Let a pooling that was part of the bridge begin and train as the bridge does."""
    if _plain(model[_NEW])[0] in ("GridPooling", "WindowPooling"):
        return  # these have no weights
    optimization = model.get("optimization")
    trained = [optimization.get(setting) for setting in _BY_PART] if isinstance(optimization, dict) else []
    for values in [model.get("initial_weights"), *trained]:
        if isinstance(values, dict) and "bridge" in values:
            values.setdefault(_NEW, values["bridge"])
