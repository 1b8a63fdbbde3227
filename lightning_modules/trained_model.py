"""Opens a trained model in Python code, without trainer or process group."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from components.checkpoints.exported_weights import open_weights
from components.checkpoints.frozen_parts_check import (
    language_tokenizer,
    refuse_other_frozen_weights,
    refuse_other_tokenizer,
)
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.restoring import SavedWeights, refuse_misfit, restore_weights
from components.checkpoints.run_checkpoint import CONFIG
from components.checkpoints.settings_check import warn_of_other_settings
from components.model import VideoLanguageModel
from lightning_modules.console.config_files import read_config
from lightning_modules.video_language import VideoLanguageModule

_OWN_PACKAGES = ("components", "datamodules", "lightning_modules")
_FACTORIES = ("encoder", "bridge", "language_model")


def load_model(
    path: str | Path,
    *,
    config: str | Path | Sequence[str | Path] | None = None,
    averaged: bool = False,
    device: str | torch.device = "cpu",
) -> VideoLanguageModel:
    """Build the model of a training run with its trained weights.

    Weights that were not trained are not in a checkpoint. They are read from the folders that the config names;
    relative paths are relative to the working directory.

    Args:
        path: A checkpoint (``runs/NAME/version_0/checkpoints/final.ckpt``), or what
            ``python -m lightning_modules.export`` made of one.
        config: The run's config, or several files, merged in order; by default the config in the checkpoint.
        averaged: Use the running averages of the parameters that have one.
        device: Device of the model.

    Returns:
        The model in evaluation mode, with the same inputs as in training. For frames that arrive one by one see
        ``components.streaming.StreamingSession``.

    Raises:
        FileNotFoundError: There is no checkpoint, or one of the folders is missing.
        ValueError: The checkpoint is damaged, has no config, its config names classes of other packages than this
            project's, it does not fit the config, has no averages, or the folders hold other weights or another
            tokenizer than those that it was trained beside.
    """
    weights = open_weights(Path(path))
    if config is None:
        settings = stored_config(weights.path)
    else:
        files = [config] if isinstance(config, str | Path) else config
        settings = read_config(files, {"model": VideoLanguageModule})
        warn_of_other_settings(weights.path, settings)
    module = build_module(settings["model"])
    load_weights(module, weights, averaged=averaged)
    return module.built.eval().to(device)


def load_weights(module: VideoLanguageModule, weights: SavedWeights, *, averaged: bool = False) -> None:
    """Load trained weights into a module without a strategy, after building its parts.

    Raises:
        ValueError: They do not fit the module, there are no averages, or the frozen weights or the tokenizer are not
            those that they were trained beside.
    """
    module.configure_model()
    access = DirectAccess(None, torch.device("cpu"))
    tokenizer = language_tokenizer(module)
    refuse_other_tokenizer(weights, {} if tokenizer is None else {"model.language_model": tokenizer})
    refuse_misfit(module, access, weights)
    refuse_other_frozen_weights(module, access, weights, sum_over_ranks=lambda values: values)
    restore_weights(module, access, weights, averaged=averaged)


def build_module(model: Mapping[str, Any]) -> VideoLanguageModule:
    """Build a module from the ``model`` section of a config; its parts are not built yet."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoLanguageModule, "model")
    built: VideoLanguageModule = parser.instantiate_classes(parser.parse_object({"model": dict(model)})).model
    return built


def stored_config(folder: Path) -> dict[str, Any]:
    """Read the config in a checkpoint or an export.

    Building a model imports the classes that its config names. A config that comes with a checkpoint may be from
    anybody, so it is accepted only if all these classes are of this project.

    Args:
        folder: The checkpoint's folder, not a link to it.

    Raises:
        ValueError: There is none, or it names classes of other packages.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} does not hold the config of its run; name the config that the run had")
    settings = read_config([path], {})
    foreign = sorted(name for name in _class_names(settings) if name.split(".")[0] not in _OWN_PACKAGES)
    if foreign:
        raise ValueError(
            f"{path} names {foreign}, which is not of this project, so opening the checkpoint would run code of its "
            "author's choice. If you know where it comes from, name that file as the config"
        )
    return settings


def _class_names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of the classes that a config's model and data import."""
    model = settings.get("model", {})
    yield from (model[part] for part in _FACTORIES if isinstance(model.get(part), str))
    waiting: list[Any] = [model, settings.get("data", {})]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from (str(inner) for key, inner in value.items() if key == "class_path")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
