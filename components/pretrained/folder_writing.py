"""Writes a model as a folder; ``components/pretrained/model_folder.py`` lists its files."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from components.checkpoints import atomic_folder
from components.checkpoints.exported_weights import ABOUT, PREFIX
from components.checkpoints.file_hashes import content_hash
from components.checkpoints.frozen_parts_check import take_fingerprints
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.run_checkpoint import CONFIG as RUN_CONFIG
from components.checkpoints.safetensors_writer import TensorSpec
from components.checkpoints.saving import persistent_buffers
from components.checkpoints.sharded_weights import LARGEST_FILE, write_weights
from components.checkpoints.tokenizer_fingerprint import tokenizer_fingerprint
from components.checkpoints.weight_files import WeightFiles
from components.language.causal import HuggingFaceCausalLM
from components.language.language_folder import write_language_model
from components.pictures.tile_check import check_tiles
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.pretrained.model_card import CardFacts, model_card
from components.pretrained.model_folder import CARD, CONFIG, LANGUAGE_MODEL, DtypeName, FolderConfig
from components.pretrained.object_description import describe_arguments
from components.pretrained.weight_sources import (
    INIT_ARGS,
    WEIGHT_ENDINGS,
    WeightSource,
    copy_source,
    find_sources,
    reference_to,
    with_value,
)
from components.random_weights import random_parameters
from components.recorded_arguments import RecordsArguments, constructor_arguments, replace_argument

FrozenWeights = Literal["copy", "reference"]


class WritingOptions(NamedTuple):
    """How a model is written, see ``SavedInFolder.save_pretrained``."""

    frozen: FrozenWeights = "copy"
    dtype: DtypeName | None = None
    merge_adapters: bool = False
    largest_file: int = LARGEST_FILE
    card: CardFacts = CardFacts()
    run_config: str | None = None  # text of the training run's config.yaml
    about: Mapping[str, Any] = {}  # more entries of export.json


class _Stored(NamedTuple):
    """Which weights are where."""

    tensors: dict[str, Tensor]  # in model.safetensors
    left_out: dict[str, Tensor]  # read from the sources of their part
    language_model: dict[str, str]  # parameter -> its name in language_model/


def write_folder(model: Any, folder: Path, facts: TrainingFacts, options: WritingOptions) -> list[str]:
    """Write a model; the folder appears once it is complete.

    Args:
        model: A ``VideoLanguageModel``.
        folder: New folder.
        facts: What trained it.
        options: How it is written.

    Returns:
        Lines that say what was done.

    Raises:
        FileExistsError: The folder exists.
        TypeError: A part has an argument that cannot be written.
        ValueError: The model was opened in 8 or 4 bits.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose another folder, or remove it")
    refuse_quantised(model)
    describe_arguments(model)  # what cannot be described fails before anything is written
    atomic_folder.begin(folder)
    target = atomic_folder.unfinished_path(folder)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    names = _write_language_model(model, target, dtype, options)
    settings = describe_arguments(model)
    sources = find_sources(settings, packages=_packages_of(settings))
    settings, found = _write_sources(model, settings, sources, target, options.frozen, written=bool(names))
    stored = _sort_weights(model, sources, names)
    specs = {
        name: TensorSpec(dtype if dtype is not None and value.is_floating_point() else value.dtype, value.shape)
        for name, value in sorted(stored.tensors.items())
    }
    total = write_weights(target, specs, stored.tensors.__getitem__, options.largest_file)
    if options.run_config is not None:
        (target / RUN_CONFIG).write_text(options.run_config, encoding="utf-8")
    (target / ABOUT).write_text(json.dumps(_about(model, stored, target, options), indent=1) + "\n", encoding="utf-8")
    config = FolderConfig(
        settings,
        found,
        options.dtype or _dtype_of_all(model),
        facts._replace(frames=frames_of_model(model, facts.frames)),
    )
    (target / CONFIG).write_text(config.to_json(), encoding="utf-8")
    (target / CARD).write_text(model_card(folder.name, model, config, options.card), encoding="utf-8")
    atomic_folder.publish(folder)
    lines = [f"{len(specs)} tensors, {total / 1e9:.3f} GB, and the folders of the parts, in {folder}"]
    if stored.left_out:
        how = "copied" if options.frozen == "copy" else "referred to"
        lines.append(
            f"{how}, for they did not train: {len(stored.left_out)} tensors of the parts that config.json names"
        )
    return lines


def frames_of_model(model: Any, frames: FrameSettings) -> FrameSettings:
    """Add to frame settings what the parts of a model know of them: size, window and tiles.

    Args:
        model: A ``VideoLanguageModel``.
        frames: The frame settings of its training run.

    Raises:
        ValueError: Pictures are cut into tiles and the model does not show them, or shows others.
    """
    size = frames.size or getattr(model.encoder, "image_size", None)
    tiles_per_side = frames.tiles_per_side or getattr(model.picture_layout, "per_side", None)
    check_tiles(model.picture_layout, size, tiles_per_side)
    return replace(frames, size=size, window=model.encoder.window_frames, tiles_per_side=tiles_per_side)


def _dtype_of_all(model: nn.Module) -> DtypeName | None:
    """Dtype of all weights, whatever dtypes the arguments of the parts name; None where the parts have several."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return next((name for name in get_args(DtypeName) if dtypes == {getattr(torch, name)}), None)


def refuse_quantised(model: Any) -> None:
    """Refuse a model whose language model has 8 or 4 bits a weight."""
    if getattr(getattr(model.language_model, "model", None), "is_quantized", False):
        raise ValueError("the language model was opened in 8 or 4 bits; open it without that to write it to a folder")


def _write_language_model(
    model: Any, target: Path, dtype: torch.dtype | None, options: WritingOptions
) -> dict[str, str]:
    """Write a language model whose own weights trained; returns where its parameters are in ``language_model/``."""
    part = model.language_model
    if not isinstance(part, HuggingFaceCausalLM):
        return {}
    merged = False
    if options.merge_adapters:
        from components.language.adapters import merge_adapters_of  # needs peft, as adapters do

        merged = merge_adapters_of(part.model)
        replace_argument(part, "lora", None)
    parameters = dict(part.model.named_parameters())
    has_adapters = any(".lora_" in name for name in parameters)
    random = random_parameters(part.model)
    trained = merged or any(each.requires_grad or name in random for name, each in parameters.items())
    if has_adapters or not trained:
        return {}
    path = Path(str(part.tokenizer.name_or_path))
    source = path if path.is_dir() and part.tokenizer.is_fast and _argument(part, "gguf_file") is None else None
    folder = target / LANGUAGE_MODEL
    write_language_model(part, source, folder, dtype or (torch.float32 if merged else None), options.largest_file)
    missing = sorted(set(parameters) - set(WeightFiles(folder)))
    if missing:
        raise ValueError(f"transformers wrote the language model without {missing[:3]}; this model cannot be exported")
    return {f"{LANGUAGE_MODEL}.model.{name}": name for name in parameters}


def _write_sources(
    model: Any,
    settings: dict[str, Any],
    sources: list[WeightSource],
    target: Path,
    frozen: FrozenWeights,
    *,
    written: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Copy or refer to what the parts read their weights from.

    Returns:
        Settings that name the copies, and where each source is.
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        where: dict[str, Any] = {"keys": list(source.keys), "as": source.folder_name}
        if source.is_optional:
            where["file"] = None
        elif written and source.part == LANGUAGE_MODEL:
            where["file"] = LANGUAGE_MODEL
        elif frozen == "copy":
            part = getattr(model, source.part, None)
            random = set() if part is None else random_parameters(part)
            all_random = part is not None and all(name in random for name, _ in part.named_parameters())
            where["file"] = copy_source(source, target, with_weights=not all_random)
        else:
            where |= reference_to(source)
        found.append(where)
        settings = with_value(settings, source.keys, where.get("file", where.get("path", where.get("name"))))
    if written:
        changes = {"weights": "pretrained", "gguf_file": None}
        for name in changes.keys() & settings[LANGUAGE_MODEL][INIT_ARGS].keys():
            settings = with_value(settings, (LANGUAGE_MODEL, INIT_ARGS, name), changes[name])
    return settings, found


def _sort_weights(model: nn.Module, sources: list[WeightSource], in_language_model: Mapping[str, str]) -> _Stored:
    """Find out which weights must be stored: all that a part does not read from its sources."""
    read = {source.part for source in sources if not source.is_optional}
    random = random_parameters(model)
    stored: dict[str, Tensor] = {}
    left_out: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name in in_language_model:
            continue
        from_source = name.split(".")[0] in read and not parameter.requires_grad and name not in random
        (left_out if from_source else stored)[name] = parameter.detach()
    buffers = persistent_buffers(model)
    return _Stored(stored | {name: buffers[name] for name in buffers}, left_out, dict(in_language_model))


def _about(model: Any, stored: _Stored, target: Path, options: WritingOptions) -> dict[str, Any]:
    """The content of ``export.json``; parameters have the names of a training run."""
    prints = take_fingerprints(stored.left_out, DirectAccess(None, torch.device("cpu")), lambda values: values)
    tokenizer = getattr(model.language_model, "tokenizer", None)
    weights = sorted(path for path in target.rglob("*") if path.suffix in WEIGHT_ENDINGS)
    return {
        "averaged": False,
        **options.about,
        "left_out": sorted(PREFIX + name for name in stored.left_out),
        "fingerprints": {PREFIX + name: each._asdict() for name, each in sorted(prints.items())},
        "tokenizer": None if tokenizer is None else tokenizer_fingerprint(tokenizer)._asdict(),
        "hashes": {path.relative_to(target).as_posix(): content_hash(path) for path in weights},
        "in_folder": {LANGUAGE_MODEL: stored.language_model} if stored.language_model else {},
    }


def _argument(part: RecordsArguments, name: str) -> Any:
    return constructor_arguments(part).get(name)


def _packages_of(settings: Any) -> tuple[str, ...]:
    """Packages of the parts that settings name: who writes a model has imported them already."""
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    own = (settings["class_path"].split(".")[0],) if isinstance(settings, dict) and "class_path" in settings else ()
    return tuple({*own, *(package for each in inner for package in _packages_of(each))})
