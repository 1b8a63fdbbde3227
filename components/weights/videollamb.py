"""Imports original VideoLLaMB checkpoints, and writes trained parts back under the original's names.

    python -m components.weights.videollamb import CHECKPOINT FOLDER
    python -m components.weights.videollamb export FOLDER CHECKPOINT

CHECKPOINT is a file or folder as its authors publish it: a whole model (sharded or not, .bin or .safetensors), some of
its parts, a lone mm_projector.bin, or a LLaVA-1.5 model. FOLDER holds our form: bridge.safetensors and the folders
video_encoder, image_encoder and language_model. To the encoders' folders add the config.json that LanguageBind
published with each of them; the language model's gets its configuration and tokenizer from CHECKPOINT, if that is a
folder.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from components.weights.checkpoint_files import CheckpointFiles
from components.weights.conversion import PARTS, Allowances, PartName, export_part, import_checkpoint

_TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def write_parts(
    source: Path, folder: Path, wanted: Sequence[PartName], allowed: Allowances, lora_alpha: float
) -> list[str]:
    """Import an original checkpoint into a folder of ours.

    Args:
        source: The original checkpoint, a file or a folder.
        folder: Where to write.
        wanted: Parts to import; all that there are by default.
        allowed: Names that may be missing or unknown.
        lora_alpha: ``lora_alpha`` of the image encoder's adapters, should it have any.

    Returns:
        What was done, line by line.

    Raises:
        FileNotFoundError: There is no checkpoint at ``source``.
        ValueError: See ``import_checkpoint``.
    """
    imported = import_checkpoint(CheckpointFiles(source), wanted, allowed, lora_alpha)
    lines: list[str] = []
    for name, part in imported.parts.items():
        target = _part_path(folder, name)
        _write_tensors(part.tensors, target)
        lines.append(f"{name}: {len(part.tensors)} tensors in {target}")
        if name == "language_model":
            lines += _write_language_settings(source, target)
        lines += [f"  dropped, never used: {dropped}" for dropped in part.dropped]
        lines += [f"  missing, allowed: {missing}" for missing in part.missing]
    return lines + [f"left out: {name}" for name in imported.left_out]


def write_original(folder: Path, target: Path, wanted: Sequence[PartName], allowed: Allowances) -> list[str]:
    """Export a folder of ours under the original's names.

    Args:
        folder: What ``write_parts`` wrote, or parts trained since.
        target: A ``.bin`` or ``.safetensors`` file, or else a folder, which gets safetensors shards and an index.
        wanted: Parts to export; all that there are by default.
        allowed: Our names that may be missing or unknown.

    Returns:
        What was done, line by line.

    Raises:
        FileNotFoundError: The folder has none of the wanted parts.
        ValueError: See ``export_part``.
    """
    chosen = wanted or [part for part in PARTS if _part_path(folder, part).exists()]
    if not chosen:
        raise FileNotFoundError(
            f"{folder} has no part to export: expected one of {[_part_path(folder, part).name for part in PARTS]}"
        )
    tensors: dict[str, Tensor] = {}
    for part in chosen:
        tensors |= export_part(part, CheckpointFiles(_part_path(folder, part)), allowed)
    _write_tensors(tensors, target)
    return [f"{', '.join(chosen)}: {len(tensors)} tensors in {target}"]


def _part_path(folder: Path, part: PartName) -> Path:
    return folder / ("bridge.safetensors" if part == "bridge" else part)


def _write_tensors(tensors: Mapping[str, Tensor], target: Path) -> None:
    is_file = target.suffix in (".bin", ".safetensors")
    (target.parent if is_file else target).mkdir(parents=True, exist_ok=True)
    if target.suffix == ".bin":
        torch.save(dict(tensors), target)
    elif target.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
    else:
        save_torch_state_dict(dict(tensors), target)


def _write_language_settings(source: Path, target: Path) -> list[str]:
    """Make a plain LLaMA folder: the original's configuration without its own model type, and its tokenizer."""
    if not (source / "config.json").is_file():
        return [f"  {source} has no config.json; put LLaMA's into {target} before use"]
    config = json.loads((source / "config.json").read_text())
    config = {**config, **config.pop("text_config", {})}
    config.pop("auto_map", None)  # would ask for the original's code
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components.weights.videollamb",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, places, what in (
        ("import", ("checkpoint", "folder"), "from the original's names to ours"),
        ("export", ("folder", "checkpoint"), "from our names to the original's"),
    ):
        command = commands.add_parser(name, help=what, description=f"Convert {what}.")
        for place in places:
            command.add_argument(place, type=Path)
        command.add_argument(
            "--part", action="append", default=[], choices=PARTS, help="only this part; may be given several times"
        )
        for kind in ("missing", "unknown"):
            command.add_argument(
                f"--allow-{kind}",
                nargs="+",
                default=[],
                metavar="NAME",
                help=f"tensors that may be {kind}, * for any text",
            )
        if name == "import":
            command.add_argument(
                "--lora-alpha", type=float, default=16.0, help="of the image encoder's adapters (default: 16)"
            )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves with a message where a checkpoint is refused."""
    given = _parser().parse_args(arguments)
    allowed = Allowances(given.allow_missing, given.allow_unknown)
    try:
        if given.command == "import":
            lines = write_parts(given.checkpoint, given.folder, given.part, allowed, given.lora_alpha)
        else:
            lines = write_original(given.folder, given.checkpoint, given.part, allowed)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"refused: {error}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
