"""Writes the files of the imported encoder and language model besides their weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from components.checkpoints.json_file import read_json

CHAT_TEMPLATE = Path(__file__).parents[1] / "language" / "chat_templates" / "qwen_1_5.jinja"
"""The conversations that LLaVA-OneVision is trained with."""
ORIGINAL = "original"
"""Folder in the language model's, with the checkpoint's own config and tokenizer, for an export."""
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
PUBLISHED_SETTINGS: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
    "mm_hidden_size": 1152,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "use_mm_proj": True,
}
"""Settings in the ``config.json`` of the published LLaVA-OneVision models besides those of the language model."""
_TEMPLATE = "chat_template.jinja"
_PROBE = "a question"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_vision_settings(target: Path, settings: Mapping[str, Any], pixels: Mapping[str, Any]) -> None:
    """Write the configuration of the vision encoder.

    Args:
        target: Its folder.
        settings: Content of ``config.json``.
        pixels: Content of ``preprocessor_config.json``.
    """
    write_json(target / "config.json", {**settings, "architectures": ["SiglipVisionModel"]})
    write_json(target / "preprocessor_config.json", pixels)


def write_language_files(source: Path, target: Path, settings: Mapping[str, Any], dtype: str | None) -> list[str]:
    """Write configuration, tokenizer and chat template of the language model.

    Args:
        source: The checkpoint; if it is a folder, its tokenizer is copied.
        target: Folder of the language model.
        settings: Content of ``config.json``.
        dtype: Dtype that the weights were cast to; None does not change the configuration.

    Returns:
        Lines that tell the user what remains to be done by hand.

    Raises:
        ValueError: The tokenizer's files cannot be read.
    """
    config = dict(settings) | {"architectures": ["Qwen2ForCausalLM"]}
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    write_json(target / "config.json", config)
    if not source.is_dir():
        return [f"  {source} is a file: put the tokenizer's files into the folder of the language model before use"]
    for name in (*TEXT_FILES, _TEMPLATE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    _keep_original(source, target / ORIGINAL)
    if not (target / "tokenizer.json").is_file() and not (target / "vocab.json").is_file():
        shutil.copyfile(CHAT_TEMPLATE, target / _TEMPLATE)
        return [f"  {source} has no tokenizer; put its files into the folder of the language model before use"]
    if _renders_text(target):
        return []
    shutil.copyfile(CHAT_TEMPLATE, target / _TEMPLATE)
    return [f"  chat template: {CHAT_TEMPLATE.name}, because {source} has none for turns of plain text"]


def _renders_text(folder: Path) -> bool:
    """Whether a tokenizer's chat template shows turns of plain text; that of a processor reads lists of media."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers' readers of damaged files raise many types
        raise ValueError(f"the tokenizer's files cannot be read ({error}); fetch them again") from error
    if not tokenizer.chat_template:
        return False
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": _PROBE}], tokenize=False)
    except TemplateError:
        return False
    return _PROBE in text


def _keep_original(source: Path, target: Path) -> None:
    """Copy the checkpoint's own configuration and tokenizer, for an export."""
    target.mkdir()
    for name in ("config.json", *TEXT_FILES, _TEMPLATE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def read_settings(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of an imported part."""
    settings: dict[str, Any] = read_json(folder / "config.json")
    return settings


def write_original_files(language_model: Path | None, target: Path, dtype: str) -> list[str]:
    """Write configuration and tokenizer for exported weights, so that the authors' code and our import can open them.

    Args:
        language_model: Folder of the imported language model; None if unknown.
        target: Folder of the export.
        dtype: Dtype of the exported language model.

    Returns:
        Lines that tell the user what remains to be done by hand.
    """
    if language_model is None or not (language_model / "config.json").is_file():
        return [f"  no --frozen folder was given: put config.json and tokenizer into {target} before it is opened"]
    for name in (*TEXT_FILES, _TEMPLATE):
        path = next(
            (each for each in (language_model / ORIGINAL / name, language_model / name) if each.is_file()), None
        )
        if path is not None:
            shutil.copyfile(path, target / name)
    kept = language_model / ORIGINAL / "config.json"
    config = read_json(kept) if kept.is_file() else {}
    lines = []
    if config.get("architectures") != ["LlavaQwenForCausalLM"]:
        config = _published_settings(read_settings(language_model))
        lines = ["  config.json: settings of the language model beside those that LLaVA-OneVision is published with"]
    write_json(target / "config.json", config | {"torch_dtype": dtype})
    return lines


def _published_settings(language: Mapping[str, Any]) -> dict[str, Any]:
    """A ``config.json`` of the authors' code for a language model."""
    config = {name: value for name, value in language.items() if name not in ("dtype", "rope_parameters")}
    rope = language.get("rope_parameters") or {}
    if "rope_theta" in rope:  # where versions of transformers at the time of that code look for it
        config["rope_theta"] = rope["rope_theta"]
    return config | PUBLISHED_SETTINGS
