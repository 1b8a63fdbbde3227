"""Reads the settings of a LLaVA-OneVision checkpoint: sizes of its vision tower and of its language model."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Qwen2Config

from components.checkpoints.json_file import read_json
from components.weights.name_differences import Shape

_PUBLISHED_WIDTH = 1152
_PUBLISHED = {"num_attention_heads": 16, "num_hidden_layers": 26, "image_size": 384}
"""Of the tower in LLaVA-OneVision, SigLIP so400m/14-384 without its last layer, as far as tensors do not show it."""
_LANGUAGE_SETTINGS = {*Qwen2Config().to_dict(), "rope_theta", "rope_scaling", "torch_dtype", "dtype", "sliding_window"}
_LANGUAGE_SETTINGS -= {"architectures", "model_type", "transformers_version"}
_PIXEL_SETTINGS = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Of SigLIP; bicubic resizing."""


class VisionFacts(NamedTuple):
    """Settings of the vision tower that the authors' ``config.json`` does not have and shapes do not show.

    Attributes:
        num_heads: Number of attention heads. None is 16 for width 1152, as published.
        image_size: Side of a frame in pixels. None is the number at the end of the tower's name, 384 for width 1152.
        num_layers: Layers of which the last gives the features. None is 26 for width 1152, as published.
        activation: Name in transformers of the activation of the feed-forward networks.
        norm_eps: Epsilon of the layer norms.

    Source: SigLIP so400m/14-384 (arXiv:2303.15343), its published ``config.json``.
    """

    num_heads: int | None = None
    image_size: int | None = None
    num_layers: int | None = None
    activation: str = "gelu_pytorch_tanh"
    norm_eps: float = 1e-6


class SourceSettings(NamedTuple):
    """Settings of the parts of a checkpoint, each in the form of a ``config.json``; None for what is not known."""

    vision: dict[str, Any] | None
    language: dict[str, Any] | None
    unused_vision_layers: range  # layers that may be stored after those that are read


def read_config(source: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint, a folder or a file in one; empty without it."""
    path = (source if source.is_dir() else source.parent) / "config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    return config


def source_settings(
    config: Mapping[str, Any], vision: Mapping[str, Shape], facts: VisionFacts, source: Path
) -> SourceSettings:
    """Find the settings of vision tower and language model.

    Args:
        config: The checkpoint's ``config.json``; may be empty.
        vision: Shapes of the vision tower's tensors, by our names; empty without a tower.
        facts: Settings of the tower that the authors' configuration does not have.
        source: The checkpoint, for messages.

    Raises:
        ValueError: It is another model than LLaVA-OneVision, or settings of its tower are not known.
    """
    if "text_config" in config:
        return _of_transformers(config, source)
    _refuse_other_original(config, source)
    known = {name: value for name, value in config.items() if name in _LANGUAGE_SETTINGS}
    language = known | {"model_type": "qwen2"} if "hidden_size" in config else None
    if not vision:
        return SourceSettings(None, language, range(0))
    tower = _tower_settings(vision, str(config.get("mm_vision_tower", "")), facts)
    # The authors remove the last layer before training, but their script can store it.
    return SourceSettings(tower, language, range(tower["num_hidden_layers"], tower["num_hidden_layers"] + 1))


def _of_transformers(config: Mapping[str, Any], source: Path) -> SourceSettings:
    wanted = {"model_type": "llava_onevision", "vision_feature_select_strategy": "full", "projector_hidden_act": "gelu"}
    other = [
        f"{key} {config[key]!r} instead of {want!r}" for key, want in wanted.items() if config.get(key, want) != want
    ]
    tower = dict(config.get("vision_config", {}))
    if tower.get("model_type") != "siglip_vision_model":
        other.append(f"a vision tower {tower.get('model_type')!r} instead of 'siglip_vision_model'")
    if config["text_config"].get("model_type", "qwen2") != "qwen2":
        other.append(f"a language model {config['text_config']['model_type']!r} instead of 'qwen2'")
    total, layer = int(tower.get("num_hidden_layers", 0)), config.get("vision_feature_layer", -1)
    num_read = 0 if not isinstance(layer, int) else layer if layer >= 0 else total + 1 + layer
    if not 1 <= num_read <= total:
        other.append(f"features of layer {layer!r} of {total}")
    if other:
        raise ValueError(f"{source / 'config.json'} is of another model than LLaVA-OneVision: {'; '.join(other)}")
    language = {key: config[key] for key in ("dtype", "torch_dtype") if config.get(key)} | config["text_config"]
    language["model_type"] = "qwen2"
    # An older configuration says it in one of the two; transformers reads either.
    language["tie_word_embeddings"] = bool(config.get("tie_word_embeddings") or language.get("tie_word_embeddings"))
    tower |= {"num_hidden_layers": num_read, "vision_use_head": False}
    return SourceSettings(tower, language, range(num_read, total))


def _refuse_other_original(config: Mapping[str, Any], source: Path) -> None:
    architecture = (config.get("architectures") or ["LlavaQwenForCausalLM"])[0]
    projector, tower = config.get("mm_projector_type", "mlp2x_gelu"), str(config.get("mm_vision_tower") or "siglip")
    if architecture != "LlavaQwenForCausalLM" or projector != "mlp2x_gelu" or "siglip" not in tower.lower():
        raise ValueError(
            f"{source / 'config.json'} is of another model than LLaVA-OneVision: {architecture} with projector "
            f"{projector} and vision tower {tower}, expected LlavaQwenForCausalLM, mlp2x_gelu and a SigLIP"
        )


def _tower_settings(shapes: Mapping[str, Shape], named: str, facts: VisionFacts) -> dict[str, Any]:
    """The ``config.json`` of a vision tower whose tensors are known."""
    patch, positions, inner = (
        _shape(shapes, name)
        for name in (
            "embeddings.patch_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        )
    )
    side, width = math.isqrt(positions[0]), positions[1]
    published = _PUBLISHED if width == _PUBLISHED_WIDTH else {}
    heads = facts.num_heads or published.get("num_attention_heads", 0)
    layers = facts.num_layers or published.get("num_hidden_layers", 0)
    size = re.search(r"-(\d+)$", named)
    sizes = [facts.image_size] if facts.image_size else [int(size[1]) if size else 0, published.get("image_size", 0)]
    # A tower may leave pixels at the right and at the bottom unread, as that of 384 pixels does: 27 x 14 = 378.
    image_size = next((each for each in sizes if side**2 == positions[0] and each // patch[-1] == side), 0)
    if not heads or width % heads or not layers or not image_size:
        raise ValueError(
            f"settings of the vision tower are not known: width {width}, {positions[0]} patches of {patch[-1]} pixels; "
            f"heads {heads or 'unknown'}, layers {layers or 'unknown'}, image size {image_size or 'unknown'}. Give "
            "what they are: --vision-heads, --vision-layers (those that are read: without the last), "
            "--vision-image-size"
        )
    return {
        "hidden_size": width,
        "intermediate_size": inner[0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": image_size,
        "patch_size": patch[-1],
        "hidden_act": facts.activation,
        "layer_norm_eps": facts.norm_eps,
        "vision_use_head": False,
        "model_type": "siglip_vision_model",
    }


def _shape(shapes: Mapping[str, Shape], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"vision_encoder: {name} is missing; its shape is needed to write the part's config.json")
    return tuple(size or 0 for size in shapes[name])


def pixel_settings(source: Path, image_size: int) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of the vision encoder.

    Args:
        source: The checkpoint. Transformers' folders have pixel settings, for pictures and tiles of the same size.
        image_size: Side of a frame in pixels.

    Returns:
        The checkpoint's settings; those of SigLIP, which LLaVA-OneVision has, where it has none.
    """
    settings: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if source.is_dir() and (source / name).is_file():
            stored = read_json(source / name)
            settings |= stored.get("image_processor", stored)
    published = {**_PIXEL_SETTINGS, "size": {"height": image_size, "width": image_size}}
    own = {key: settings[key] for key in published if settings.get(key) is not None}
    return {"image_processor_type": "SiglipImageProcessor", **published, **own}


def expected_shapes(settings: Mapping[str, Any], *, is_language_model: bool) -> dict[str, Shape]:
    """Names and shapes of all tensors of a model, from its ``config.json``; the model is built without weights.

    Args:
        settings: The content of ``config.json``.
        is_language_model: Whether it is a causal language model; else a vision encoder.
    """
    config = AutoConfig.for_model(**settings)
    factory = AutoModelForCausalLM if is_language_model else AutoModel
    with torch.device("meta"):
        model = factory.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
