"""Writes configuration, tokenizer and chat template of an imported LLaMA model, so that transformers can open it."""

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

CHAT_TEMPLATE = Path(__file__).parents[1] / "language" / "chat_templates" / "vicuna_v1.jinja"
"""The chat template of LLaVA-1.5, Vicuna and VideoLLaMB. Their published tokenizers do not include it."""

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


def write_language_settings(source: Path, target: Path, num_layers: int, dtype: str | None) -> list[str]:
    """Write the files of a language model besides its weights. The chat template is always written.

    Args:
        source: The original checkpoint; if it is a folder, its configuration and tokenizer are copied.
        target: Folder of the language model.
        num_layers: Number of layers of the language model.
        dtype: Dtype that the weights were cast to; None does not change the configuration.

    Returns:
        Lines that tell the user what remains to be done by hand.

    Raises:
        ValueError: The tokenizer's files cannot be read.
    """
    shutil.copyfile(CHAT_TEMPLATE, target / "chat_template.jinja")
    if not (source / "config.json").is_file():
        return [f"  {source} has no config.json; put LLaMA's, and the tokenizer's files, into {target} before use"]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "text_config" in config:  # transformers' own LLaVA; other settings belong to its image encoder and projector
        config = {name: config[name] for name in ("dtype", "torch_dtype") if name in config} | config["text_config"]
    config.pop("auto_map", None)  # would require the original's code
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": num_layers}
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return _write_tokenizer(source, target)


def _write_tokenizer(source: Path, target: Path) -> list[str]:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if not (target / "tokenizer.model").is_file() and not (target / "tokenizer.json").is_file():
        return [f"  {source} has no tokenizer; put its files into {target} before use"]
    _keep_old_default(target / "tokenizer_config.json")
    if not (target / "tokenizer.json").is_file():
        try:
            # Not by save_pretrained, which would drop the setting `legacy` that _keep_old_default wrote.
            AutoTokenizer.from_pretrained(target).backend_tokenizer.save(str(target / "tokenizer.json"))
        except Exception as error:  # transformers' readers of old formats raise many types
            raise ValueError(
                f"{source / 'tokenizer.model'} is no SentencePiece model, as LLaMA's tokenizer is; fetch it again"
            ) from error
    return []


def _keep_old_default(path: Path) -> None:
    """Write the tokenizer setting ``legacy`` explicitly, because its default has changed.

    These models were trained with transformers up to version 4, where the default was True. Since version 5 it is
    False, which gives other tokens for text after a special token, such as ``</s>USER``.
    """
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True} | settings
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
