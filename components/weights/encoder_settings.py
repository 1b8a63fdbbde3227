"""Writes down what LanguageBind's transformers are built from, for checkpoints that hold their weights alone."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

_PUBLISHED_HEADS = {1024: 16}  # width of the published ViT-L/14 transformers -> their heads


class EncoderFacts(NamedTuple):
    """What no tensor's shape tells. The defaults are those of LanguageBind's published ViT-L/14 models.

    Attributes:
        num_heads: Attention heads; None knows the published models' 16 for width 1024, and no other.
        activation: Activation of the feed-forward parts, as transformers names it.
        norm_eps: Epsilon of the layer norms.

    Source: LanguageBind (arXiv:2310.01852), the published ``config.json`` of its video and image models.
    """

    num_heads: int | None = None
    activation: str = "gelu"
    norm_eps: float = 1e-5


def encoder_settings(tensors: Mapping[str, Tensor], num_layers: int, facts: EncoderFacts, part: str) -> dict[str, Any]:
    """Describe a vision transformer as its ``config.json`` does.

    Args:
        tensors: Weights under LanguageBind's names, without prefix; only their shapes are read.
        num_layers: Layers of the transformer, of which the last may be missing.
        facts: What the shapes do not tell.
        part: Name of the part, for messages.

    Returns:
        The settings; with temporal attention where the tensors have it.

    Raises:
        ValueError: A tensor that shows a size is missing, the positions form no square grid, or the heads are unknown
            or do not divide the width: another number of heads would load and compute something else.
    """
    patch = _shape(tensors, "embeddings.patch_embedding.weight", part)
    positions, width = _shape(tensors, "embeddings.position_embedding.weight", part)
    side = math.isqrt(positions - 1)
    if side**2 != positions - 1:
        raise ValueError(f"{part}: {positions - 1} patch positions form no square grid; the image size cannot be told")
    heads = _PUBLISHED_HEADS.get(width) if facts.num_heads is None else facts.num_heads
    if heads is None or heads < 1 or width % heads:
        raise ValueError(
            f"{part}: {'unknown number of' if heads is None else heads} attention heads for width {width}, and tensors "
            "do not show it; name one that divides the width with --encoder-heads"
        )
    settings: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": _shape(tensors, "encoder.layers.0.mlp.fc1.weight", part)[0],
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "image_size": side * patch[-1],
        "patch_size": patch[-1],
        "hidden_act": facts.activation,
        "layer_norm_eps": facts.norm_eps,
        "add_time_attn": False,
    }
    time = tensors.get("encoder.layers.0.temporal_embedding")
    return settings if time is None else settings | {"add_time_attn": True, "num_frames": time.shape[1]}


def _shape(tensors: Mapping[str, Tensor], name: str, part: str) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"{part}: {name} is missing, whose shape the part's config.json is written from")
    return tuple(tensors[name].shape)
