"""Opens trained models for one's own code: no trainer, no process group."""

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

    What did not train is not in a checkpoint and comes from the folders that the config names, relative ones as seen
    from the working directory.

    Args:
        path: A checkpoint (``runs/NAME/version_0/checkpoints/final.ckpt``), or what
            ``python -m lightning_modules.export`` made of one.
        config: The run's config, or files that are merged in order; by default the one in the checkpoint.
        averaged: Take the running averages of the parameters that have one.
        device: Where the model is put.

    Returns:
        The model in evaluation mode. Its inputs are as in training: ``components.streaming.StreamingSession`` takes
        frames as they come.

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
    """Put trained weights into a module that is not under a strategy; its parts are built if they are not yet.

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

    A config names the classes that are built, and whoever wrote it chose them; so one that comes with a checkpoint is
    taken only if they are this project's.

    Args:
        folder: The checkpoint itself, no link to it.

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
    """Whatever in model and data is imported by name."""
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
