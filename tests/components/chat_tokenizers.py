"""Small tokenizers of the kinds that public language models have, with chat templates by the public models' rules."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from tests.components.chat_templates import (
    CHATML,
    COMMAND_R,
    GEMMA2,
    GEMMA3,
    GPT_NEOX,
    GPT_OSS,
    GRANITE,
    INTERNLM,
    LLAMA2,
    LLAMA3,
    LLAMA32,
    MISTRAL1,
    MISTRAL3,
    PHI3,
    PHI4,
    QWEN2,
    QWEN3,
    QWEN35,
    SMOLLM3,
    VICUNA,
    VICUNA_BLANK,
    ZEPHYR,
)

_CORPUS = [
    "which colour was shown in the video ? red blue green circle square a cup one two three How many? The answer is.",
    "You are a helpful assistant. A chat between a curious user and an artificial intelligence. USER: ASSISTANT:",
    "user assistant system model think final Answer briefly. Knowledge Date: December 2023 Today 26 Jul 2024 begin end",
] * 8


_IM = ("<|im_start|>", "<|im_end|>")
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip


@lru_cache
def _sentencepiece(special: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges like SentencePiece's, with bytes for what is not known."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=560, special_tokens=tokens, show_progress=False))


@lru_cache
def _byte_level() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, show_progress=False)
    )
    # Line breaks and blanks are joined by most large vocabularies.
    for first, second in (("Ċ", "Ċ"), ("Ġ", "Ġ")):
        vocabulary[first + second] = len(vocabulary)
        merges.append((first, second))
    return vocabulary, merges


def _trained(tokenizer: Tokenizer, trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer.train_from_iterator(_CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _add(tokenizer: Any, tokens: Sequence[str], *, special: bool = True, rstrip: bool = False) -> None:
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False, rstrip=rstrip) for token in tokens])


def llama(template: str, more: Sequence[str] = (), *, legacy: bool = False, rstrip: bool = False) -> Any:
    """SentencePiece in LLaMA's class; ``legacy`` puts a blank in front of the text behind every special token too."""
    vocabulary, merges = _sentencepiece(("<unk>", "<s>", "</s>"))
    tokenizer = LlamaTokenizer(vocab=dict(vocabulary), merges=list(merges), chat_template=template)
    _add(tokenizer, more, rstrip=rstrip)
    if legacy:
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    return tokenizer


def gemma(template: str) -> Any:
    """SentencePiece without a blank in front, and with line breaks in the vocabulary."""
    vocabulary, merges = _sentencepiece(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    vocabulary = {**vocabulary, "\n": len(vocabulary), "\n\n": len(vocabulary) + 1}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[*merges, ("\n", "\n")], chat_template=template)
    _add(tokenizer, ("<start_of_turn>", "<end_of_turn>"))
    return tokenizer


def qwen(template: str, plain: Sequence[str] = ()) -> Any:
    """Byte-level BPE in Qwen's class; ``plain`` are added tokens that are not special, as ``<think>``."""
    vocabulary, merges = _byte_level()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    )
    _add(tokenizer, ("<|endoftext|>", *_IM))
    _add(tokenizer, plain, special=False)
    return tokenizer


def llama3(template: str) -> Any:
    """Byte-level BPE as Llama-3 cuts it: line breaks stay together."""
    tokenizer = byte_level(template, _LLAMA3_TOKENS, "<|eot_id|>", bos_token="<|begin_of_text|>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def byte_level(template: str, special: Sequence[str], eos: str, *, plain: Sequence[str] = (), **named: str) -> Any:
    """Byte-level BPE as GPT-2 cuts it; ``named`` are other tokens that have a role, such as ``bos_token``."""
    vocabulary, merges = _byte_level()
    backend = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, chat_template=template, name_or_path="tiny", **named
    )
    _add(tokenizer, special)
    _add(tokenizer, plain, special=False)
    return tokenizer


_THINK = ("<think>", "</think>")
_OSS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|endoftext|>")
_COMMAND_R = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
)
_GRANITE = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")

UNCHANGED_PAST: dict[str, Callable[[], Any]] = {
    "llama-2": lambda: llama(LLAMA2),
    "llama-2, legacy": lambda: llama(LLAMA2, legacy=True),
    "llama-3": lambda: llama3(LLAMA3),
    "vicuna": lambda: llama(VICUNA.read_text(encoding="utf-8")),
    "vicuna, legacy": lambda: llama(VICUNA.read_text(encoding="utf-8"), legacy=True),
    "vicuna with a blank": lambda: llama(VICUNA_BLANK),
    "vicuna with a blank, legacy": lambda: llama(VICUNA_BLANK, legacy=True),
    "vicuna with a blank, bytes": lambda: byte_level(VICUNA_BLANK, ("<s>", "</s>"), "</s>", bos_token="<s>"),
    "qwen2": lambda: qwen(CHATML),
    "qwen2.5": lambda: qwen(QWEN2),
    "gemma-3": lambda: gemma(GEMMA3),
    "phi-3": lambda: llama(PHI3, ("<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"), rstrip=True),
    "phi-4": lambda: byte_level(PHI4, ("<|endoftext|>", *_IM, "<|im_sep|>"), "<|im_end|>", bos_token="<|endoftext|>"),
    "smollm2": lambda: byte_level(
        CHATML, ("<|endoftext|>", *_IM), "<|im_end|>", bos_token="<|im_start|>", unk_token="<|endoftext|>"
    ),
    "internlm-2": lambda: llama(INTERNLM, _IM),
    "gpt-neox": lambda: byte_level(
        GPT_NEOX, ("<|endoftext|>",), "<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    ),
    "command-r": lambda: byte_level(COMMAND_R, _COMMAND_R, "<|END_OF_TURN_TOKEN|>", bos_token="<BOS_TOKEN>"),
    "zephyr": lambda: llama(ZEPHYR),
    "zephyr, legacy": lambda: llama(ZEPHYR, legacy=True),
    "end that is not special": lambda: byte_level(CHATML, ("<|endoftext|>",), "<|endoftext|>", plain=_IM),
}
"""Tokenizers whose template writes a turn alike, whatever follows it, and has system turns."""

DATED: dict[str, Callable[[], Any]] = {
    "llama-3.2": lambda: llama3(LLAMA32),
    "smollm3": lambda: byte_level(SMOLLM3, ("<|end_of_text|>", *_IM), "<|im_end|>"),
    "gpt-oss": lambda: byte_level(GPT_OSS, _OSS, "<|return|>"),
    "granite": lambda: byte_level(GRANITE, _GRANITE, "<|end_of_text|>"),
}
"""Tokenizers whose template asks for today's date."""

CHANGED_PAST: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: qwen(QWEN3, _THINK),
    "qwen3.5": lambda: qwen(QWEN35, _THINK),
    "mistral-0.3": lambda: llama(MISTRAL3, ("[INST]", "[/INST]")),
}
"""Tokenizers whose template writes an answer or its question otherwise once more turns follow."""

WITHOUT_SYSTEM_TURN: dict[str, Callable[[], Any]] = {
    "gemma-2": lambda: gemma(GEMMA2),
    "mistral-0.1": lambda: llama(MISTRAL1),
    "mistral-0.1, legacy": lambda: llama(MISTRAL1, legacy=True),
}
"""Tokenizers whose template refuses a system turn."""

ALL = UNCHANGED_PAST | DATED | CHANGED_PAST | WITHOUT_SYSTEM_TURN
