"""Stores the config and tokenizer files of an original checkpoint, for a later export to the original format."""

import json
import shutil
from pathlib import Path

from components.weights.language_settings import TOKENIZER_FILES

_SUBFOLDER = "original"
_FILES = ("config.json", *TOKENIZER_FILES)


def keep_original_settings(source: Path, language_model: Path) -> None:
    """Copy the configuration and tokenizer of an original checkpoint without changes.

    Args:
        source: The original checkpoint. If it is a single file, there is nothing to copy.
        language_model: Folder of the imported language model; the files go to a subfolder.
    """
    found = [source / name for name in _FILES if (source / name).is_file()]
    if found:
        (language_model / _SUBFOLDER).mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copyfile(path, language_model / _SUBFOLDER / path.name)


def write_original_settings(
    language_model: Path | None, target: Path, dtype: str | None, num_bridge_layers: int
) -> list[str]:
    """Write configuration and tokenizer for exported weights, so that the original code and our import can open them.

    Args:
        language_model: Folder of the imported language model; None if unknown.
        target: Folder of the export.
        dtype: Dtype that the weights were cast to; None does not change the configuration.
        num_bridge_layers: Number of layers of the exported bridge; 0 if it is not exported.

    Returns:
        Lines that tell the user what remains to be done by hand.
    """
    original = None if language_model is None else language_model / _SUBFOLDER
    if original is None or not (original / "config.json").is_file():
        reason = "no --frozen folder was given" if original is None else f"there is no {original} (an import writes it)"
        return [f"  {reason}: put the original's config.json and tokenizer into {target} before it is opened"]
    for path in original.iterdir():
        shutil.copyfile(path, target / path.name)
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    if num_bridge_layers:
        config["mm_projector_type"] = f"rmt_r_transformer{num_bridge_layers}x"  # it differs if LLaVA-1.5 was imported
    if dtype is not None:
        config["torch_dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return []
