"""Makes a LLaMA folder that transformers reads by itself: configuration, tokenizer and conversation template."""

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

CHAT_TEMPLATE = Path(__file__).parents[1] / "language" / "chat_templates" / "vicuna_v1.jinja"
"""The conversation template of LLaVA-1.5, Vicuna and VideoLLaMB, none of which publishes it with its tokenizer."""

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


def write_language_settings(source: Path, target: Path, num_layers: int, dtype: str | None) -> list[str]:
    """Put what belongs to a language model beside its weights.

    The conversation template is written to the folder whatever ``source`` holds: whoever reads the tokenizer there, for
    data or for answers, reads the same one.

    Args:
        source: The original checkpoint; a folder has configuration and tokenizer.
        target: Folder of the language model.
        num_layers: Layers of the language model.
        dtype: Dtype that the weights were cast to; None leaves what the configuration says.

    Returns:
        What is left to do by hand, line by line.

    Raises:
        ValueError: The tokenizer's files cannot be read.
    """
    shutil.copyfile(CHAT_TEMPLATE, target / "chat_template.jinja")
    if not (source / "config.json").is_file():
        return [f"  {source} has no config.json; put LLaMA's, and the tokenizer's files, into {target} before use"]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "text_config" in config:  # transformers' own LLaVA; the rest is about its image encoder and its projector
        config = {name: config[name] for name in ("dtype", "torch_dtype") if name in config} | config["text_config"]
    config.pop("auto_map", None)  # would ask for the original's code
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
            # Its save_pretrained would lose `legacy`, which _keep_old_default wrote.
            AutoTokenizer.from_pretrained(target).backend_tokenizer.save(str(target / "tokenizer.json"))
        except Exception as error:  # transformers raises whatever its readers of old formats do
            raise ValueError(
                f"{source / 'tokenizer.model'} is no SentencePiece model, as LLaMA's tokenizer is; fetch it again"
            ) from error
    return []


def _keep_old_default(path: Path) -> None:
    """Say outright how text after a special token begins.

    Up to version 4, whose tokenizers these models were trained with, transformers took a missing ``legacy`` for True;
    since version 5 it takes it for False, which reads ``</s>USER`` as other tokens.
    """
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True} | settings
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
