"""Tiny language models and conversations for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Tokenizer

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from datamodules.conversations import build_turns
from datamodules.shards.schema import VIDEO_MARK, Turn
from tests.fixtures_data import CHAT_TEMPLATE, make_tiny_tokenizer

WIDTH = 32
VOCABULARY = 272
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4}
    | {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}
"""Types of models with recurrent layers, and the sizes that they need besides the usual ones."""


def make_model_folder(folder: Path, model_type: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Write a two-layer model of this type with random weights, and its tokenizer."""
    sizes = {**SIZES, "initializer_range": 0.2, "tie_word_embeddings": False}  # wrong positions or masks must show
    config = AutoConfig.for_model(model_type, **(sizes | changes))
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return make_byte_tokenizer(folder) if model_type == "qwen2" else make_tiny_tokenizer(folder)


def make_byte_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of single bytes. Beside a Qwen2 model, transformers reads any tokenizer as byte-level BPE."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return folder


def make_visual(counts: Sequence[int] = (3, 5), *, width: int = WIDTH, seed: int = 0) -> VisualTokens:
    """Visual tokens of videos that have these numbers of them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return VisualTokens(torch.randn(len(counts), max(counts), width, generator=generator), mask)


def make_text(
    model: HuggingFaceCausalLM, rows: Sequence[tuple[int, str, str | None]], *, padding: int = 0
) -> TextInputs:
    """Conversations of (video index, question, answer or None for a prompt alone), with spare padding."""
    ids, labels = [], []
    for video, question, answer in rows:
        mark = "" if video == TEXT_ONLY else f"{VIDEO_MARK}\n"
        turns = [Turn("user", mark + question), Turn("assistant", "yes" if answer is None else answer)]
        encoded = build_turns(turns, model.tokenizer)
        prompt_length = int((encoded.labels == IGNORED_LABEL).cumprod(0).sum())
        end = prompt_length if answer is None else int((encoded.labels != IGNORED_LABEL).nonzero().max()) + 1
        ids.append(encoded.input_ids[:end])
        labels.append(encoded.labels[:end])
    length = max(map(len, ids)) + padding
    real = torch.arange(length) < torch.tensor([len(row) for row in ids])[:, None]

    def pad(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        return torch.stack([torch.cat([row, row.new_full((length - len(row),), value)]) for row in tensors])

    return TextInputs(pad(ids, 0), real, pad(labels, IGNORED_LABEL), torch.tensor([[video] for video, _, _ in rows]))


def row_of(text: TextInputs, row: int) -> TextInputs:
    """One conversation alone, without padding."""
    length = int(text.text_mask[row].sum())
    ids, mask, labels = (field[row : row + 1, :length] for field in text[:3])
    return TextInputs(ids, mask, labels, text.video_index[row : row + 1])
