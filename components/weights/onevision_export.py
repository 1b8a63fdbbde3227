"""Writes parts of this project under the names of LLaVA-OneVision's authors, and of the Memory-Augmented VLM's."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from components.checkpoints import atomic_folder
from components.checkpoints.run_checkpoint import EXPORT_ABOUT, INDEX
from components.checkpoints.safetensors_writer import SafetensorsWriter, TensorSpec
from components.checkpoints.sharded_weights import write_weights
from components.checkpoints.weight_files import WeightFiles
from components.weights.conversion import Allowances
from components.weights.export_options import ExportOptions
from components.weights.memory_ov_names import TIME_TABLE, TYPE_EMBEDDING, TYPE_ROWS, TYPE_TABLE, time_table
from components.weights.name_differences import Differences, Shape
from components.weights.onevision_folders import read_settings, write_original_files
from components.weights.onevision_import import FOLDERS, part_path, spec_of
from components.weights.onevision_names import LAYER, PARTS, PartName, expected_names, original_name
from components.weights.onevision_plan import OUTPUT_LAYER
from components.weights.onevision_run import parts_of_run
from components.weights.onevision_settings import expected_shapes

Parts = Mapping[PartName, Mapping[str, Tensor]]


def export_parts(
    source: Path,
    target: Path,
    options: ExportOptions[PartName] = ExportOptions(),  # noqa: B008
) -> list[str]:
    """Write parts as one checkpoint of the authors' layout.

    Args:
        source: An imported folder, the ``.ckpt`` folder of a training run, or a model's folder (an export of one).
        target: A ``.safetensors`` file, or a folder for the weights, ``config.json`` and the tokenizer. It appears
            once it is complete.
        options: See ``ExportOptions``.

    Returns:
        Lines that tell the user what was done.

    Raises:
        FileExistsError: ``target`` exists.
        FileNotFoundError: The source does not have a requested part.
        ValueError: Names are missing or unknown and not allowed, or see ``parts_of_run``.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; choose another path, or remove it")
    is_run = (source / INDEX).is_file() or (source / EXPORT_ABOUT).is_file() or source.suffix == ".ckpt"
    configured = options.frozen if is_run else source
    found: Parts = {} if configured is None else parts_in(configured)
    if is_run:
        found = parts_of_run(source, configured, found, options.lora_alpha, options.allowed)
    chosen = [part for part in PARTS if part in (options.parts or found)]
    absent = [part for part in chosen if part not in found]
    if absent or not chosen:
        raise FileNotFoundError(
            f"{source} has no {' and no '.join(absent) or 'part to export'}: expected one of "
            f"{[part_path(source, part).name for part in PARTS]} in a folder, or a checkpoint with parts that trained "
            "(--frozen FOLDER adds those that did not)"
        )
    parts = {part: found[part] for part in chosen}
    _refuse_differences(parts, configured, options.allowed)
    _write(target, _original_tensors(parts), options.dtype)
    lines = [f"{', '.join(chosen)}: written to {target}"]
    if "language_model" in chosen and target.is_dir():
        folder = None if configured is None else part_path(configured, "language_model")
        dtype = spec_of(next(iter(parts["language_model"].values())), options.dtype).dtype
        lines += write_original_files(folder, target, str(dtype).removeprefix("torch."))
    return lines


def parts_in(folder: Path) -> dict[PartName, Mapping[str, Tensor]]:
    """The parts of an imported folder."""
    return {part: WeightFiles(path) for part in PARTS if (path := part_path(folder, part)).exists()}


def _refuse_differences(parts: Parts, folder: Path | None, allowed: Allowances) -> None:
    missing: dict[str, Shape] = {}
    unknown: dict[str, Shape] = {}
    for part, tensors in parts.items():
        unknown |= {f"{part}.{name}": tuple(tensors[name].shape) for name in tensors if not _has_name(part, name)}
        missing |= {f"{part}.{name}": shape for name, shape in _expected(part, tensors, folder).items()}
    stored = {f"{part}.{name}" for part, tensors in parts.items() for name in tensors}
    if any(part in TYPE_ROWS for part in parts):  # the original has one table for both readers
        missing |= {f"{part}.{TYPE_EMBEDDING}": () for part in TYPE_ROWS}
    missing = {name: shape for name, shape in missing.items() if name not in stored}
    Differences(missing, unknown, {}).refuse(allowed)


def _has_name(part: PartName, name: str) -> bool:
    return original_name(part, name) is not None


def _expected(part: PartName, tensors: Mapping[str, Tensor], folder: Path | None) -> dict[str, Shape]:
    """What a part must have; of encoder and language model nothing is known without their configurations."""
    if part in FOLDERS:
        if folder is None or not (part_path(folder, part) / "config.json").is_file():
            return {}
        settings = read_settings(part_path(folder, part))
        shapes = expected_shapes(settings, is_language_model=part == "language_model")
        if settings.get("tie_word_embeddings"):
            shapes.pop(OUTPUT_LAYER, None)
        return shapes
    layers = {int(match[1]) for match in map(LAYER.search, tensors) if match}
    return {name: () for name in expected_names(part, 1 + max(layers, default=-1))}


def _original_tensors(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """How to read every tensor of the original."""
    found: dict[str, Callable[[], Tensor]] = {}
    types: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        for name in tensors:
            theirs = original_name(part, name)
            if name == TYPE_EMBEDDING and part in TYPE_ROWS:
                types[part] = tensors[name]
            elif theirs is not None:
                found[theirs] = _reader(tensors, name)
    if len(types) == len(TYPE_ROWS):
        rows = [types[part] for part in sorted(TYPE_ROWS, key=lambda part: TYPE_ROWS[part])]
        found[f"model.{TYPE_TABLE}"] = lambda: torch.stack(rows)
    if "memory" in parts and "initial_memory" in parts["memory"]:
        like = parts["memory"]["initial_memory"]
        found[f"model.{TIME_TABLE}"] = lambda: time_table(like.shape[-1]).to(like.dtype)
    return found


def _reader(tensors: Mapping[str, Tensor], name: str) -> Callable[[], Tensor]:
    return lambda: tensors[name]


def _write(target: Path, read: Mapping[str, Callable[[], Tensor]], dtype: str | None) -> None:
    specs: dict[str, TensorSpec] = {name: spec_of(read[name](), dtype) for name in sorted(read)}
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = atomic_folder.unfinished_path(target)
        file = SafetensorsWriter(unfinished, specs)
        for name, spec in specs.items():
            file.add(name, read[name]().to(spec.dtype))
        file.close()
        unfinished.rename(target)
        return
    atomic_folder.begin(target, is_only_writer=False)
    write_weights(atomic_folder.unfinished_path(target), specs, lambda name: read[name]())
    atomic_folder.publish(target)
