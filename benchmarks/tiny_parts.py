"""Encoders and language models of any small size with random weights, for benchmarks and tests."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Dinov2Config, Dinov2Model, LlamaConfig


def write_encoder(
    folder: Path, image_size: int, *, num_layers: int = 1, width: int = 32, seed: int = 0, **changes: Any
) -> Path:
    """Write a DINOv2 with random weights, and the pixel settings that belong to it.

    Args:
        folder: Receives both.
        image_size: Height and width of a frame in pixels, a multiple of 14.
        num_layers: Layers of the encoder.
        width: Its width.
        seed: Seed of the weights.
        **changes: More settings of ``Dinov2Config``.

    Returns:
        The folder.
    """
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 14,
    }
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**(sizes | changes))).save_pretrained(folder)
    write_pixel_settings(folder, image_size)
    return folder


def write_pixel_settings(folder: Path, image_size: int) -> None:
    """Write the file that says how an image processor prepares frames of ``image_size`` pixels."""
    settings = {
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def llama_config(vocabulary: int, width: int, num_layers: int, **changes: Any) -> LlamaConfig:
    """Settings of a LLaMA with 8 attention heads, of which two at a time share keys and values."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        **changes,
    )
