"""Derives the ``config.json`` of LanguageBind's transformers from their tensors, for checkpoints without one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

_PUBLISHED_HEADS = {1024: 16}  # width of the published ViT-L/14 transformers -> their heads


class EncoderFacts(NamedTuple):
    """Settings that tensor shapes do not show. The defaults are those of LanguageBind's published ViT-L/14 models.

    Attributes:
        num_heads: Number of attention heads. None is 16 for width 1024, as published; other widths need a number.
        activation: Name in transformers of the activation of the feed-forward networks.
        norm_eps: Epsilon of the layer norms.

    Source: LanguageBind (arXiv:2310.01852), the published ``config.json`` of its video and image models.
    """

    num_heads: int | None = None
    activation: str = "gelu"
    norm_eps: float = 1e-5


def encoder_settings(tensors: Mapping[str, Tensor], num_layers: int, facts: EncoderFacts, part: str) -> dict[str, Any]:
    """Make the content of a vision transformer's ``config.json``.

    Args:
        tensors: Weights under LanguageBind's names, without prefix; only their shapes are used.
        num_layers: Number of layers of the transformer; weights of the last ones may be missing.
        facts: Settings that shapes do not show.
        part: Name of the part, for messages.

    Returns:
        The settings; with temporal attention if the tensors have it.

    Raises:
        ValueError: A tensor that shows a size is missing, the positions do not form a square grid, or the number of
            heads is unknown or does not divide the width. A wrong number of heads would load without an error and give
            wrong features.
    """
    patch = _shape(tensors, "embeddings.patch_embedding.weight", part)
    positions, width = _shape(tensors, "embeddings.position_embedding.weight", part)
    side = math.isqrt(positions - 1)
    if side**2 != positions - 1:
        raise ValueError(f"{part}: {positions - 1} patch positions form no square grid; the image size is unknown")
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
        raise ValueError(f"{part}: {name} is missing; its shape is needed to write the part's config.json")
    return tuple(tensors[name].shape)
