"""Tiny language models and conversations for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from tests.fixtures_data import make_tiny_tokenizer

WIDTH = 32
VOCABULARY = 96


def make_model_folder(folder: Path, model_type: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Write a two-layer model of this type with random weights, and its tokenizer."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,  # large enough that wrong positions or masks show
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = AutoConfig.for_model(model_type, **(sizes | changes))
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return make_tiny_tokenizer(folder)


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
        mark = "" if video == TEXT_ONLY else "<video>"
        turn = [{"role": "user", "content": mark + question}]
        prompt = model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, _, after = prompt.partition("<video>")
        prompt_ids = _tokenize(model, before)
        prompt_ids += ([VIDEO_PLACEHOLDER] if mark else []) + _tokenize(model, after)
        answer_ids = [] if answer is None else [*_tokenize(model, answer), model.chat.end_of_turn_id]
        ids.append(torch.tensor(prompt_ids + answer_ids))
        labels.append(torch.tensor([IGNORED_LABEL] * len(prompt_ids) + answer_ids))
    length = max(map(len, ids)) + padding
    real = torch.arange(length) < torch.tensor([len(row) for row in ids])[:, None]

    def pad(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        return torch.stack([torch.cat([row, row.new_full((length - len(row),), value)]) for row in tensors])

    return TextInputs(pad(ids, 0), real, pad(labels, IGNORED_LABEL), torch.tensor([video for video, _, _ in rows]))


def row_of(text: TextInputs, row: int) -> TextInputs:
    """One conversation alone, without padding."""
    length = int(text.text_mask[row].sum())
    ids, mask, labels = (field[row : row + 1, :length] for field in text[:3])
    return TextInputs(ids, mask, labels, text.video_index[row : row + 1])


def _tokenize(model: HuggingFaceCausalLM, words: str) -> list[int]:
    ids: list[int] = model.tokenizer(words, add_special_tokens=False)["input_ids"]
    return ids
