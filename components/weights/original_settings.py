"""Keeps the settings that an original checkpoint came with, for the export that goes back into its form."""

import json
import shutil
from pathlib import Path

from components.weights.language_settings import TOKENIZER_FILES

_KEPT = "original"
_FILES = ("config.json", *TOKENIZER_FILES)


def keep_original_settings(source: Path, language_model: Path) -> None:
    """Copy configuration and tokenizer of an original checkpoint as they are.

    Args:
        source: The original checkpoint. One that is a single file has none.
        language_model: Folder of the language model that is imported from it.
    """
    found = [source / name for name in _FILES if (source / name).is_file()]
    if found:
        (language_model / _KEPT).mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copyfile(path, language_model / _KEPT / path.name)


def write_original_settings(
    language_model: Path | None, target: Path, dtype: str | None, num_bridge_layers: int
) -> list[str]:
    """Put configuration and tokenizer beside exported weights, so that the original's code and our import open them.

    Args:
        language_model: Folder of the imported language model; None where it is not known.
        target: Folder of the export.
        dtype: Dtype that the weights were cast to; None leaves what the configuration says.
        num_bridge_layers: Layers of the exported bridge; 0 where it is not exported.

    Returns:
        What is left to do by hand, line by line.
    """
    kept = None if language_model is None else language_model / _KEPT
    if kept is None or not (kept / "config.json").is_file():
        known = "no --frozen folder was given" if kept is None else f"there is no {kept}, which an import writes"
        return [f"  {known}: put the original's config.json and tokenizer into {target} before it is opened"]
    for path in kept.iterdir():
        shutil.copyfile(path, target / path.name)
    config = json.loads((kept / "config.json").read_text(encoding="utf-8"))
    if num_bridge_layers:
        config["mm_projector_type"] = f"rmt_r_transformer{num_bridge_layers}x"  # LLaVA-1.5's names another projector
    if dtype is not None:
        config["torch_dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return []
