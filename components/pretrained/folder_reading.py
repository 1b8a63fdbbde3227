"""Opens a model from its folder or a model hub, with torch, transformers and safetensors alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import torch
from torch import nn

from components.checkpoints.exported_weights import ExportedWeights
from components.checkpoints.frozen_parts_check import refuse_other_frozen_weights, refuse_other_tokenizer
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.restoring import refuse_misfit, restore_weights
from components.language.load_options import LoadOptions, loading_with
from components.pretrained.frame_settings import TrainingFacts
from components.pretrained.model_folder import (
    LANGUAGE_MODEL,
    DtypeName,
    FolderConfig,
    read_folder_config,
    with_sources_found,
)
from components.pretrained.object_builder import build_object
from components.pretrained.weight_sources import INIT_ARGS, hub_folder

ModelT = TypeVar("ModelT", bound=nn.Module)


class ReadingOptions(NamedTuple):
    """How a model is opened, see ``SavedInFolder.from_pretrained``."""

    revision: str | None = None
    dtype: DtypeName | None = None
    device: str | torch.device | None = None
    load: LoadOptions = LoadOptions()
    sources: Mapping[str, str] = {}
    packages: tuple[str, ...] = ()


def read_folder(cls: type[ModelT], path: str | Path, options: ReadingOptions) -> tuple[ModelT, TrainingFacts]:
    """Build a model and load its weights.

    Args:
        cls: Class of the model, a ``VideoLanguageModel``.
        path: The folder, or its name on the model hub.
        options: How it is opened.

    Returns:
        The model in evaluation mode, and what trained it.

    Raises:
        FileNotFoundError: There is no such folder, or something that it refers to is missing.
        ValueError: It is no folder of a model, is damaged, or names classes of other packages; or an option has a value
            that does not exist.
        ImportError: An option needs a package that is not installed.
    """
    dtypes = get_args(DtypeName)
    if options.dtype not in (None, *dtypes):
        raise ValueError(f"dtype is {options.dtype!r}; expected {', '.join(map(repr, dtypes))}, or None as written")
    folder = Path(path) if Path(path).exists() else hub_folder(str(path), options.revision)
    config = read_folder_config(folder)
    known = [source["as"] for source in config.sources]
    if unknown := sorted(options.sources.keys() - set(known)):
        raise ValueError(f"sources names {', '.join(unknown)}, but {folder} reads weights for {', '.join(known)} only")
    weights = ExportedWeights(folder)
    settings = with_sources_found(config.model, config, folder, options.sources)
    dtype = options.dtype or config.dtype
    with loading_with(options.load), torch.random.fork_rng(devices=[]):  # parts draw weights that are then replaced
        model = build_object(cls, settings if dtype is None else _with_dtype(settings, dtype), options.packages)
    _restore(model, weights, config, options)
    if dtype is not None:
        _cast(model, getattr(torch, dtype), options.load)
    return _placed(model.eval(), options), config.facts


def _restore(model: nn.Module, weights: ExportedWeights, config: FolderConfig, options: ReadingOptions) -> None:
    """Load the weights of ``model.safetensors``, and check those that other folders hold."""
    module = nn.ModuleDict({"model": model})  # parameters have the names of a training run
    access = DirectAccess(None, torch.device("cpu"))
    own = weights.outside_folders()
    parts = [f"model.{name}" for name, _ in model.named_children()]
    tokenizer = getattr(getattr(model, LANGUAGE_MODEL), "tokenizer", None)
    refuse_other_tokenizer(weights, {} if tokenizer is None else {LANGUAGE_MODEL: tokenizer})
    refuse_misfit(module, access, own)
    referred = {source["keys"][0] for source in config.sources if "file" not in source} | set(options.sources)
    quantised = {LANGUAGE_MODEL} if options.load.bits is not None else set()
    checked = [part for part in parts if part.split(".")[1] in referred - quantised]
    if checked:
        refuse_other_frozen_weights(module, access, weights, lambda values: values, checked)
    restore_weights(module, access, own)


def _with_dtype(settings: Any, dtype: str) -> Any:
    """Settings in which every part that has a dtype has this one."""
    if isinstance(settings, list):
        return [_with_dtype(each, dtype) for each in settings]
    if not isinstance(settings, Mapping):
        return settings
    changed = {key: _with_dtype(value, dtype) for key, value in settings.items()}
    if "class_path" in changed and "dtype" in changed.get(INIT_ARGS, {}):
        changed[INIT_ARGS]["dtype"] = dtype
    return changed


def _cast(model: nn.Module, dtype: torch.dtype, load: LoadOptions) -> None:
    """Cast parameters. Buffers stay: some, such as rotary frequencies, must have full precision."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not (load.bits and name.startswith(LANGUAGE_MODEL)):
            parameter.data = parameter.data.to(dtype)


def _placed(model: ModelT, options: ReadingOptions) -> ModelT:
    """Move the parts to their device; a language model that transformers has placed stays where it is."""
    if not options.load.places_weights:
        return model if options.device is None else model.to(options.device)
    language_model: Any = model.get_submodule(LANGUAGE_MODEL)
    device = options.device or language_model.model.get_input_embeddings().weight.device
    for name, part in model.named_children():
        if name != LANGUAGE_MODEL:
            part.to(device)
    return model
