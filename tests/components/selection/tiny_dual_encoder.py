"""A tiny dual encoder with random weights: a vision and a text part that share a space, and a tokenizer."""

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from benchmarks.tiny_parts import write_pixel_settings
from tests.fixtures_data import WORDS

JOINT_DIM = 32
"""Width of the space that pictures and text share."""


def make_dual_encoder(
    folder: Path,
    kind: Literal["clip", "siglip"] = "clip",
    *,
    image_size: int = 28,
    patch_size: int = 14,
    joint_dim: int = JOINT_DIM,
) -> Any:
    """Write a checkpoint of a CLIP or SigLIP model: patches of width 32, texts of at most 16 tokens.

    Returns:
        The model of transformers.
    """
    words = {word: index for index, word in enumerate(dict.fromkeys(["<pad>", "<unk>", "<s>", "</s>", *WORDS]))}
    sizes = {"hidden_size": JOINT_DIM, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    vision = sizes | {"image_size": image_size, "patch_size": patch_size}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = sizes | special | {"vocab_size": len(words), "max_position_embeddings": 16}
    torch.manual_seed(0)
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=joint_dim))
    else:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    model.eval().save_pretrained(folder)
    write_pixel_settings(folder, image_size)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 2), ("</s>", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return model
