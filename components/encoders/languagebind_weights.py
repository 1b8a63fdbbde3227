"""Loads LanguageBind's vision transformers from checkpoints. Missing and unknown tensors are errors."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from components.checkpoints.json_file import read_json
from components.checkpoints.weight_files import WeightFiles
from components.encoders.languagebind_transformer import VisionConfig, VisionTransformer
from components.random_weights import mark_random
from components.sharding import active_sharding
from components.weights.lora import merge_adapters
from components.weights.original_names import image_encoder_names, video_encoder_names

_VISION_PREFIX = "vision_model."
# Other tensors of a published checkpoint, which is a dual encoder of text and vision.
_OTHER_PARTS = re.compile(r"(?:text_model\.|(?:text|visual)_projection\.|logit_scale$)")
_POSITION_IDS = "embeddings.position_ids"  # a buffer that older versions of transformers stored
_SHOWN = 8  # names in an error message


def load_vision_transformer(path: str, layer: int, temporal: bool, dtype: torch.dtype) -> VisionTransformer:
    """Load a transformer up to one of its layers.

    Args:
        path: Folder with ``config.json`` and weights (``model.safetensors`` or ``pytorch_model.bin``, sharded or not),
            or a weights file with ``config.json`` in the same folder.
        layer: See ``build_vision_transformer``.
        temporal: Whether to load the video variant.
        dtype: Dtype of the weights.

    Returns:
        The transformer; its parameters require gradients.

    Raises:
        FileNotFoundError: The configuration or the weights do not exist.
        ValueError: See ``parse_vision_config`` and ``build_vision_transformer``; or there are adapters, but no
            ``lora_alpha`` in the configuration.
    """
    settings = _read_settings(Path(path))
    tensors = _vision_part(WeightFiles(Path(path)), path)
    if any(".lora_" in name for name in tensors):
        if "lora_alpha" not in settings:
            raise ValueError(f"{path} has LoRA adapters, but its config.json has no 'lora_alpha' to scale them by")
        # Merged in float32: rounding the sum to half precision would change the results.
        tensors = merge_adapters({name: tensor.float() for name, tensor in tensors.items()}, settings["lora_alpha"])
    return build_vision_transformer(parse_vision_config(settings, path), tensors, layer, temporal, dtype, path)


def random_vision_transformer(path: str, layer: int, temporal: bool, dtype: torch.dtype) -> VisionTransformer:
    """Build a transformer up to one of its layers with random weights; only ``config.json`` is read.

    Args:
        path: Folder with ``config.json``.
        layer: See ``build_vision_transformer``.
        temporal: Whether to build the video variant.
        dtype: Dtype of the weights.

    Returns:
        The transformer; its parameters require gradients.

    Raises:
        FileNotFoundError: The configuration does not exist.
        ValueError: See ``parse_vision_config``, or there is no such layer.
    """
    config = read_languagebind_config(path)
    transformer = VisionTransformer(config, _layers_up_to(layer, config, path), temporal).to(dtype)
    mark_random(transformer)
    return transformer


def read_languagebind_config(path: str) -> VisionConfig:
    """Read the settings of a transformer; see ``load_vision_transformer`` for ``path`` and errors."""
    return parse_vision_config(_read_settings(Path(path)), path)


def parse_vision_config(settings: Mapping[str, Any], source: str) -> VisionConfig:
    """Select and check the settings of the transformer.

    Args:
        settings: The vision part of a ``config.json``.
        source: Its folder, for messages.

    Returns:
        The settings.

    Raises:
        ValueError: A value is missing, has another type, or does not match the others. There are no defaults, because
            those in LanguageBind's code differ from its published models.
    """
    problems = []
    for name, expected in VisionConfig.__annotations__.items():
        accepted = (int, float) if expected is float else (expected,)
        if type(settings.get(name)) not in accepted:
            problems.append(f"{name!r} must be a {expected.__name__}, got {settings.get(name)!r}")
    if problems:
        raise ValueError(f"{source}: config.json does not describe the vision transformer: {'; '.join(problems)}")
    config = VisionConfig(*(settings[name] for name in VisionConfig._fields))
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"{source}: 'hidden_act' {config.hidden_act!r} is unknown; choose one of {sorted(ACT2FN)}")
    for size, divisor in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
        if getattr(config, divisor) < 1 or getattr(config, size) % getattr(config, divisor):
            raise ValueError(
                f"{source}: {size!r} {getattr(config, size)} is no multiple of {divisor!r} {getattr(config, divisor)}"
            )
    return config


def build_vision_transformer(
    config: VisionConfig, tensors: Mapping[str, Tensor], layer: int, temporal: bool, dtype: torch.dtype, source: str
) -> VisionTransformer:
    """Build a transformer up to one of its layers, with given weights.

    Args:
        config: Sizes and activation.
        tensors: Weights under LanguageBind's names, without prefix and adapters.
        layer: Last layer, as an index into the hidden states: 0 is before the first layer, -1 after the last, -2 after
            the second to last.
        temporal: Whether to build the video variant.
        dtype: Dtype of the weights; under a sharding strategy, they still have the dtype of their file.
        source: Folder or file of the weights, for messages.

    Returns:
        The transformer.

    Raises:
        ValueError: There is no such layer, or tensors are missing, unknown or of another shape. Tensors of later layers
            may be missing.
    """
    num_layers = _layers_up_to(layer, config, source)
    with torch.device("meta"):  # all weights are assigned below, so none need be initialised
        transformer = VisionTransformer(config, num_layers, temporal)
    wanted = transformer.state_dict()
    all_names = (video_encoder_names if temporal else image_encoder_names)(config.num_hidden_layers)
    unknown = tensors.keys() - all_names.keys() - {_POSITION_IDS}
    problems = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unknown {name}" for name in sorted(unknown)]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)} by config.json"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    variant = "video transformer (with temporal attention)" if temporal else "image transformer (without temporal one)"
    _refuse(problems, f"{source} does not fit LanguageBind's {variant}")
    # A sharding strategy converts each weight when it shards it, see hand_to_sharding.
    loaded = {name: tensors[name] if active_sharding() else tensors[name].to(dtype) for name in wanted}
    transformer.load_state_dict(loaded, assign=True)
    return transformer


def _layers_up_to(layer: int, config: VisionConfig, source: str) -> int:
    try:
        return range(config.num_hidden_layers + 1)[layer]
    except IndexError as error:
        last = config.num_hidden_layers
        raise ValueError(f"{source} has {last} layers: layer must be in {-last - 1}..{last}, got {layer}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(
            f"{config} does not exist. It holds the transformer's sizes and activation; add the file that LanguageBind "
            "published with the weights"
        )
    settings: dict[str, Any] = read_json(config)
    vision: dict[str, Any] = settings.get("vision_config", settings)
    return vision


def _vision_part(checkpoint: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The vision transformer's tensors, without the prefix that they have in the dual encoder."""
    if not any(name.startswith(_VISION_PREFIX) for name in checkpoint):
        return dict(checkpoint)
    strangers = [name for name in checkpoint if not name.startswith(_VISION_PREFIX) and not _OTHER_PARTS.match(name)]
    _refuse([f"unknown {name}" for name in strangers], f"{source} is no checkpoint of LanguageBind")
    return {
        name.removeprefix(_VISION_PREFIX): checkpoint[name] for name in checkpoint if name.startswith(_VISION_PREFIX)
    }


def _refuse(problems: Collection[str], what: str) -> None:
    if problems:
        shown = "; ".join(list(problems)[:_SHOWN])
        rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{what}: {shown}{rest}. Convert an original VideoLLaMB checkpoint first, with "
            "`python -m components.weights.videollamb import`"
        )
