"""Opens the model of a training run in Python code, without trainer or process group.

``components.pretrained`` opens a model from its folder. This module is the side of the checkpoints, which do not hold
all that the model needs: their config is read here, and the parts are built by the same builder.
"""

import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
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
from components.checkpoints.settings_check import config_in, warn_of_other_settings
from components.model import VideoLanguageModel
from components.pictures.tile_grid import TILES_PER_SIDE
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.pretrained.model_folder import is_model_folder, read_folder_config, with_sources_found
from components.pretrained.object_builder import OWN_PACKAGES, build_object
from lightning_modules.console.config_files import read_config
from lightning_modules.video_language import VideoLanguageModule

_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_FILES = ("path", "weights", "file")  # endings of settings that name a file
_WITHOUT_WIDTHS = ("encoder", "language_model")  # parts whose settings are the same in a run and in a folder


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
        path: A checkpoint (``runs/NAME/version_0/checkpoints/final.ckpt``), or a folder that
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
    if config is None and not averaged and is_model_folder(Path(path)):
        return VideoLanguageModel.from_pretrained(path, device=device)
    weights = open_weights(Path(path))
    settings = settings_of_model(weights.path, config)
    module = build_module(settings["model"])
    load_weights(module, weights, averaged=averaged)
    model = module.built.eval().to(device)
    model.training_facts = training_facts(settings, weights, trained_with=config_in(weights.path))
    return model


def settings_of_model(folder: Path, config: str | Path | Sequence[str | Path] | None = None) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint: those in the checkpoint, or in other files.

    Args:
        folder: The checkpoint's folder, not a link to it.
        config: See ``load_model``.

    Raises:
        ValueError: See ``stored_config``.
    """
    if config is None:
        return stored_config(folder)
    settings = read_config([config] if isinstance(config, str | Path) else config, {"model": VideoLanguageModule})
    warn_of_other_settings(folder, settings)
    return settings


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
    """Build a module from the ``model`` section of a config; its parts are not built yet.

    jsonargparse checks the settings and adds the defaults; the builder of ``components.pretrained`` builds.

    Raises:
        ValueError: A part is missing or a setting is wrong.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoLanguageModule, "model")
    try:
        complete: dict[str, Any] = parser.parse_object({"model": dict(model)}).as_dict()["model"]
    except ArgumentError as error:
        raise ValueError(
            f"the config does not describe a complete model: {error}. Name all files of the run's config, in order"
        ) from error
    packages = {name.split(".")[0] for name in _class_names({"model": complete})}
    return build_object(VideoLanguageModule, complete, tuple(packages))


def training_facts(
    settings: Mapping[str, Any], weights: SavedWeights, *, trained_with: Mapping[str, Any] | None = None
) -> TrainingFacts:
    """What a config says of the frames that its model reads, and of its training.

    Args:
        settings: The config that the model is built from.
        weights: The trained weights.
        trained_with: Config of the run that trained them; None = ``settings``.
    """
    data, model = (settings.get(section) or {} for section in ("data", "model"))
    run_config = settings if trained_with is None else trained_with
    run_data, run_model, trainer = (run_config.get(section) or {} for section in ("data", "model", "trainer"))
    sampling, pixels = data.get("sampling") or {}, data.get("pixels") or {}
    tiles = pixels.get("tiles")
    frames = FrameSettings(
        size=pixels.get("size"),
        fit=pixels.get("fit", "crop"),
        tiles_per_side=None if tiles is None else tiles.get("per_side", TILES_PER_SIDE),
        **{name: sampling[name] for name in ("num_frames", "fps", "max_frames") if name in sampling},
    )
    run = {
        "checkpoint": weights.path.name,
        "optimizer steps": getattr(weights, "step", None),
        "training data": [_short(source.get("shards")) for source in run_data.get("train") or []],
        "samples of a batch": (run_data.get("loading") or {}).get("batch_size"),
        "learning rates": (run_model.get("optimization") or {}).get("learning_rates"),
        "precision": trainer.get("precision"),
    }
    known = {name: value for name, value in run.items() if value not in (None, [], {})}
    return TrainingFacts(frames, model.get("max_new_tokens", 16), known)


def stored_config(folder: Path) -> dict[str, Any]:
    """Read the config in a checkpoint or in the folder of a model.

    Building a model imports the classes that its config names. A config that comes with a checkpoint may be from
    anybody, so it is accepted only if all these classes are of this project.

    Args:
        folder: The checkpoint's folder, not a link to it. In the folder of a model, the parts are those of the folder,
            wherever it is now.

    Raises:
        ValueError: There is none, or it names classes of other packages.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} does not hold the config of its run; name the config that the run had")
    settings = read_config([path], {})
    foreign = sorted(name for name in _class_names(settings) if name.split(".")[0] not in OWN_PACKAGES)
    if foreign:
        raise ValueError(
            f"{path} names {foreign}, which is not of this project, so opening the checkpoint would run code of its "
            f"author's choice. If you know where it comes from, name that file as the config: --config {path}"
        )
    return _with_parts_of_folder(settings, folder) if is_model_folder(folder) else settings


def _with_parts_of_folder(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A run's settings with the encoder, the language model and the tokenizer in the folder of its model."""
    config = read_folder_config(folder)
    found = with_sources_found(config.model, config, folder)
    model = {name: _without_initial_weights(value) for name, value in settings["model"].items()}
    model |= {name: found[name] for name in _WITHOUT_WIDTHS}
    data = dict(settings.get("data") or {})
    path = (model["language_model"].get("init_args") or {}).get("path")
    if path is not None and data.get("tokenizer") is not None:
        data["tokenizer"] = path
    return {**settings, "model": model, **({"data": data} if data else {})}


def _without_initial_weights(settings: Any) -> Any:
    """Settings in which no reader starts from a file of weights, because the folder holds all weights of readers."""
    if isinstance(settings, list):
        return [_without_initial_weights(each) for each in settings]
    if not isinstance(settings, Mapping):
        return settings
    return {key: None if key == "weights" else _without_initial_weights(value) for key, value in settings.items()}


def _short(shards: Any) -> str:
    """Shards by their last folder and file name."""
    named = shards if isinstance(shards, list) else [shards]
    return ", ".join("/".join(Path(str(each)).parts[-2:]) for each in named)


def _class_names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of the classes that a config's model and data import.

    In the model every part may be named by a text alone, such as ``reader: package.Reader``. There a text counts as
    the name of a class if its first word is a package that can be imported, unless the setting names a file.
    """
    for section, names_alone in (("model", True), ("data", False)):
        waiting: list[tuple[str, Any]] = [("", settings.get(section, {}))]
        while waiting:
            key, value = waiting.pop()
            if isinstance(value, Mapping):
                waiting += [(str(name), each) for name, each in value.items()]
            elif isinstance(value, list):
                waiting += [(key, each) for each in value]
            elif key == "class_path" or (names_alone and not key.endswith(_FILES) and _is_importable(value)):
                yield str(value)


def _is_importable(value: Any) -> bool:
    if not isinstance(value, str) or _DOTTED_NAME.fullmatch(value) is None:
        return False
    return find_spec(value.split(".")[0]) is not None
