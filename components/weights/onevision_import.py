"""Writes the parts of a LLaVA-OneVision or Memory-Augmented VLM checkpoint in this project's format."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from components.checkpoints import atomic_folder
from components.checkpoints.safetensors_writer import SafetensorsWriter, TensorSpec
from components.checkpoints.sharded_weights import write_weights
from components.checkpoints.weight_files import WeightFiles
from components.weights.onevision_folders import write_language_files, write_vision_settings
from components.weights.onevision_names import PartName
from components.weights.onevision_plan import ImportOptions, ImportPlan, Piece, plan_import
from components.weights.onevision_settings import pixel_settings

FOLDERS: tuple[PartName, ...] = ("vision_encoder", "language_model")
"""Parts that have a folder, with a ``config.json``; the others have a file."""


def import_parts(source: Path, folder: Path, options: ImportOptions = ImportOptions()) -> list[str]:  # noqa: B008
    """Write the parts of a checkpoint. Holds one tensor in memory at a time.

    Args:
        source: A folder or file in transformers' or the authors' layout.
        folder: Folder to write to. Parts that are there already are replaced; after an error nothing has changed.
        options: See ``ImportOptions``.

    Returns:
        Lines that tell the user what was done.

    Raises:
        FileNotFoundError: There is no checkpoint at ``source``.
        NotADirectoryError: ``folder`` is a file.
        ValueError: Names or shapes differ from the model's, or it is another model; see ``plan_import``.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, but the parts need a folder: choose another path")
    checkpoint = WeightFiles(source)
    plan = plan_import(checkpoint, source, options)  # before anything is written, because it may raise
    atomic_folder.begin(folder, is_only_writer=False)  # models of several sizes are imported at once
    staged = atomic_folder.unfinished_path(folder)
    try:
        lines = [line for part in plan.parts for line in _write_part(part, plan, checkpoint, source, staged, options)]
    except BaseException:
        shutil.rmtree(staged)
        raise
    _publish(staged, folder)
    return [*lines, *plan.notes]


def part_path(folder: Path, part: PartName) -> Path:
    """Where a part is in an imported folder."""
    return folder / (part if part in FOLDERS else f"{part}.safetensors")


def spec_of(tensor: Tensor, dtype: str | None) -> TensorSpec:
    """Dtype and shape with which a tensor is written."""
    wanted: torch.dtype = tensor.dtype if dtype is None or not tensor.is_floating_point() else getattr(torch, dtype)
    return TensorSpec(wanted, tensor.shape)


def _write_part(
    part: PartName, plan: ImportPlan, checkpoint: WeightFiles, source: Path, folder: Path, options: ImportOptions
) -> list[str]:
    """Write one part to a folder; returns lines for the user."""
    target, pieces = part_path(folder, part), plan.parts[part]
    _write_tensors(target, pieces, checkpoint, options.dtype)
    lines = [f"{part}: {len(pieces)} tensors in {target.name}"]
    if part == "vision_encoder" and plan.settings.vision is not None:
        pixels = pixel_settings(source, plan.settings.vision["image_size"])
        write_vision_settings(target, plan.settings.vision, pixels)
    if part == "language_model" and plan.settings.language is not None:
        lines += write_language_files(source, target, plan.settings.language, options.dtype)
    return lines


def _write_tensors(target: Path, pieces: Mapping[str, Piece], checkpoint: WeightFiles, dtype: str | None) -> None:
    specs = {name: spec_of(piece.read(checkpoint), dtype) for name, piece in sorted(pieces.items())}
    if target.suffix != ".safetensors":
        target.mkdir()
        write_weights(target, specs, lambda name: pieces[name].read(checkpoint))
        return
    file = SafetensorsWriter(target, specs)
    for name, spec in specs.items():
        file.add(name, pieces[name].read(checkpoint).to(spec.dtype))
    file.close()


def _publish(staged: Path, folder: Path) -> None:
    """Move complete parts to their folder, which may hold other parts already."""
    if not folder.exists():
        atomic_folder.publish(folder)
        return
    for path in staged.iterdir():
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    staged.rmdir()
