"""Converts original VideoLLaMB checkpoints to this project's format, and trained parts back to the original's.

    python -m components.weights.videollamb import CHECKPOINT FOLDER
    python -m components.weights.videollamb export SOURCE CHECKPOINT

CHECKPOINT is a published file or folder: a complete model (sharded or not, .bin or .safetensors), some of its parts,
only mm_projector.bin, or a LLaVA-1.5 model. FOLDER gets the files that configs/model/videollamb_7b.yaml reads:
bridge.safetensors and the folders video_encoder, image_encoder and language_model, each with its config.json; that of
the language model also has the tokenizer and the chat template. SOURCE is such a folder, or the .ckpt folder of a
training run.

Missing and unknown tensors are errors unless they are allowed by name. Code in a file is never executed: only tensors
are unpickled.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from command_errors import run_and_exit
from components.checkpoints.file_modes import follow_umask
from components.checkpoints.weight_files import WeightFiles
from components.weights.conversion import (
    NO_DEPTHS,
    NOTHING_ALLOWED,
    PARTS,
    Allowances,
    export_part,
    import_checkpoint,
)
from components.weights.conversion_parser import ConversionTexts, conversion_parser
from components.weights.encoder_settings import EncoderFacts, encoder_settings
from components.weights.export_options import ExportOptions
from components.weights.language_settings import write_language_settings
from components.weights.layer_count import read_layer_count, read_layer_counts
from components.weights.original_names import PartName, num_layers_of
from components.weights.original_settings import keep_original_settings, write_original_settings
from components.weights.trained_parts import parts_of_run

_TEXTS = ConversionTexts(
    "components.weights.videollamb",
    __doc__ or "",
    published="original",
    owner="the original's",
    source="imported folder, or the .ckpt folder of a training run",
    target="a .bin or .safetensors file, or a folder for shards",
)


class ImportOptions(NamedTuple):
    """Options of an import.

    Attributes:
        parts: Parts to import; by default all that the checkpoint has.
        allowed: Names that may be missing or unknown.
        lora_alpha: ``lora_alpha`` of the image encoder's adapters, if it has any.
        num_layers: Number of layers of parts. Replaces the number in ``config.json`` or of the published model with the
            same width.
        encoder: Settings of the encoders that tensors do not show.
        dtype: Dtype to cast to. None does not cast; weights with merged adapters are float32.
    """

    parts: Sequence[PartName] = ()
    allowed: Allowances = NOTHING_ALLOWED
    lora_alpha: float = 16.0
    num_layers: Mapping[PartName, int] = NO_DEPTHS
    encoder: EncoderFacts = EncoderFacts()
    dtype: str | None = None


def write_parts(source: Path, folder: Path, options: ImportOptions) -> list[str]:
    """Import an original checkpoint: write its parts to a folder in this project's format.

    Args:
        source: The original checkpoint, a file or a folder.
        folder: Folder to write to.
        options: See ``ImportOptions``.

    Returns:
        Lines that tell the user what was done.

    Raises:
        FileNotFoundError: There is no checkpoint at ``source``.
        ValueError: See ``import_checkpoint`` and ``encoder_settings``.
    """
    checkpoint = WeightFiles(source)
    layer_counts = read_layer_counts(source) | dict(options.num_layers)
    imported = import_checkpoint(checkpoint, options.parts, options.allowed, options.lora_alpha, layer_counts)
    settings = {
        name: encoder_settings(part.tensors, part.num_layers, options.encoder, name)
        for name, part in imported.parts.items()
        if name in ("video_encoder", "image_encoder")
    }  # before anything is written, because it may raise
    lines: list[str] = []
    for name, part in imported.parts.items():
        target = _part_path(folder, name)
        _write_tensors(_cast(part.tensors, options.dtype), target)
        lines.append(f"{name}: {len(part.tensors)} tensors in {target}")
        if name in settings:
            (target / "config.json").write_text(json.dumps(settings[name], indent=2), encoding="utf-8")
        if name == "language_model":
            lines += write_language_settings(source, target, part.num_layers, options.dtype)
            keep_original_settings(source, target)
        lines += [f"  dropped, never used: {dropped}" for dropped in part.dropped]
        lines += [f"  missing, allowed: {missing}" for missing in part.missing]
    lines += [f"left out, not requested: {name} ({len(names)} tensors)" for name, names in imported.not_wanted.items()]
    return lines + [f"left out, unknown: {name}" for name in imported.unknown]


def write_original(source: Path, target: Path, options: ExportOptions[PartName]) -> list[str]:
    """Export parts under the original's names.

    Args:
        source: A folder that ``write_parts`` wrote, or the ``.ckpt`` folder of a training run.
        target: A ``.bin`` or ``.safetensors`` file, or a folder for safetensors shards and their index.
        options: See ``ExportOptions``.

    Returns:
        Lines that tell the user what was done.

    Raises:
        FileNotFoundError: The source does not have a requested part.
        ValueError: See ``export_part`` and ``parts_of_run``.
    """
    is_run = source.suffix == ".ckpt"
    configured = options.frozen if is_run else source
    parts = {} if configured is None else _parts_in(configured)
    language_model = None if configured is None else _part_path(configured, "language_model")
    if is_run:
        parts = parts_of_run(source, parts, language_model, options.lora_alpha, options.allowed)
    chosen = [part for part in PARTS if part in (options.parts or parts)]
    absent = [part for part in chosen if part not in parts]
    if absent or not chosen:
        raise FileNotFoundError(
            f"{source} has no {' and no '.join(absent) or 'part to export'}: expected one of "
            f"{[_part_path(source, part).name for part in PARTS]} in a folder, or parts that trained in a .ckpt folder "
            "(--frozen FOLDER adds those that did not)"
        )
    tensors: dict[str, Tensor] = {}
    for part in chosen:
        num_layers = None if configured is None else read_layer_count(_part_path(configured, part))
        tensors |= export_part(part, parts[part], options.allowed, num_layers)
    _write_tensors(_cast(tensors, options.dtype), target)
    lines = [f"{', '.join(chosen)}: {len(tensors)} tensors in {target}"]
    if "language_model" in chosen and target.is_dir():
        bridge_layers = num_layers_of(parts["bridge"]) if "bridge" in chosen else 0
        lines += write_original_settings(language_model, target, options.dtype, bridge_layers)
    return lines


def _parts_in(folder: Path) -> dict[PartName, Mapping[str, Tensor]]:
    return {part: WeightFiles(path) for part in PARTS if (path := _part_path(folder, part)).exists()}


def _part_path(folder: Path, part: PartName) -> Path:
    return folder / ("bridge.safetensors" if part == "bridge" else part)


def _cast(tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    if dtype is None:
        return dict(tensors)
    wanted: torch.dtype = getattr(torch, dtype)
    return {name: tensor.to(wanted) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _write_tensors(tensors: Mapping[str, Tensor], target: Path) -> None:
    is_file = target.suffix in (".bin", ".safetensors")
    (target.parent if is_file else target).mkdir(parents=True, exist_ok=True)
    if target.suffix == ".bin":
        torch.save(dict(tensors), target)
    elif target.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
    else:
        save_torch_state_dict(dict(tensors), target)
    follow_umask(target)


def _add_import_arguments(command: argparse.ArgumentParser) -> None:
    published = EncoderFacts()
    command.add_argument("checkpoint", type=Path, help="published file or folder")
    command.add_argument("folder", type=Path, help="folder to write to, such as weights/videollamb_7b")
    command.add_argument(
        "--lora-alpha", type=float, default=16.0, help="of the image encoder's adapters, if it has any (default: 16)"
    )
    command.add_argument(
        "--num-layers",
        action="extend",
        nargs="+",
        type=_stated_layer_count,
        default=[],
        metavar="PART=N",
        help="number of layers of a part (default: that of the checkpoint's config.json, else that of the published "
        "model of the same width: encoders 24 and bridge 1 for 1024, language model 32 for 4096 and 40 for 5120; "
        "required for other widths)",
    )
    command.add_argument(
        "--encoder-heads", type=int, help="attention heads of the encoders (default: 16 for width 1024, else required)"
    )
    command.add_argument(
        "--encoder-activation",
        default=published.activation,
        help="of the encoders; tensors do not show it (default: %(default)s, as in LanguageBind's published models)",
    )
    command.add_argument(
        "--encoder-norm-eps",
        type=float,
        default=published.norm_eps,
        help="of the encoders' layer norms; tensors do not show it (default: %(default)s, as published)",
    )


def _stated_layer_count(text: str) -> tuple[PartName, int]:
    given, _, number = text.partition("=")
    part = next((part for part in PARTS if part == given), None)
    if part is None or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected PART=N, at least one layer of one of {', '.join(PARTS)}")
    return part, int(number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = conversion_parser(_TEXTS, PARTS, _add_import_arguments).parse_args(arguments)
    allowed = Allowances(given.allow_missing, given.allow_unknown)
    if given.command == "import":
        facts = EncoderFacts(given.encoder_heads, given.encoder_activation, given.encoder_norm_eps)
        layer_counts = dict(given.num_layers)
        importing = ImportOptions(given.part, allowed, given.lora_alpha, layer_counts, facts, given.dtype)
        lines = write_parts(given.checkpoint, given.folder, importing)
    else:
        exporting = ExportOptions[PartName](given.part, allowed, given.frozen, given.lora_alpha, given.dtype)
        lines = write_original(given.source, given.checkpoint, exporting)
    print("\n".join(lines))


if __name__ == "__main__":
    run_and_exit(main)
