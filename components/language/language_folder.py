"""Writes the trained language model as a Hugging Face folder: configuration, weights, tokenizer, chat template."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.checkpoints.file_modes import follow_umask
from components.language.causal import HuggingFaceCausalLM

_TEXT_FILES = (".json", ".jinja", ".txt", ".model")


def write_language_model(
    part: HuggingFaceCausalLM, source: Path | None, target: Path, dtype: torch.dtype | None, largest_file: int
) -> None:
    """Write a language model without adapters as a folder that transformers opens.

    Args:
        part: The language model.
        source: Folder that it was read from; its tokenizer files are copied, because transformers loses some settings
            of a tokenizer when it saves one. None where there is no such folder.
        target: New folder.
        dtype: Dtype to cast to; None = as trained.
        largest_file: Largest size of a file of weights, in bytes.
    """
    # Names of parameters as they are in memory, which are those that a training run knows.
    part.model.save_pretrained(
        target, state_dict=_cast(part.model, dtype), max_shard_size=largest_file, save_original_format=False
    )
    if dtype is not None:
        config = target / "config.json"
        named = json.loads(config.read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
        config.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if source is None:
        part.tokenizer.save_pretrained(target)
    else:
        for path in source.iterdir():
            if path.suffix in _TEXT_FILES and path.name != "config.json" and not path.name.endswith(".index.json"):
                shutil.copyfile(path, target / path.name)
    follow_umask(target)


def _cast(model: Any, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The state dict in another dtype; tensors that are shared stay shared."""
    cast: dict[int, Tensor] = {}
    state: dict[str, Tensor] = model.state_dict()
    for name, value in state.items():
        if dtype is not None and value.is_floating_point():
            state[name] = cast.setdefault(value.data_ptr(), value.to(dtype))
    return state
