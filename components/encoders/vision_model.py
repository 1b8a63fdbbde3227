"""Reads and loads the vision part of a Hugging Face checkpoint, and asks it which frames it takes."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from components.attention import AttentionWish, model_class_of, resolve_attention
from components.sharding import active_sharding
from components.weights.random_weights import mark_random

_CLASS_TOKEN_NAMES = ("class_embedding", "cls_token")
# Parameters that nothing before the chosen layer's output reads; published checkpoints lack some of them.
_UNREAD = ("embeddings.mask_token", "post_layernorm.", "layernorm.", "norm.", "pooler.", "head.")


class FrameForm(NamedTuple):
    """What a vision model makes of a frame of one size."""

    options: dict[str, bool]  # arguments of its forward that let it take frames of that size
    has_class_token: bool
    num_prefix_tokens: int  # class and register tokens, which stand before the patches
    num_patches: int


def read_vision_config(path: str) -> Any:
    """Read the configuration of a checkpoint's vision part.

    Args:
        path: Folder or hub name.

    Raises:
        ValueError: There is none, or its model does not read frames as pixels.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model configuration could be read from {path!r} ({str(error).splitlines()[0]}). Give a folder with "
            "config.json and weights, or a hub name that can be reached"
        ) from error
    config = getattr(config, "vision_config", config)
    missing = [
        key for key in ("patch_size", "image_size", "hidden_size", "num_hidden_layers") if not hasattr(config, key)
    ]
    model_class = model_class_of(config, AutoModel)
    needed = set() if model_class is None else _needed_arguments(model_class) - {"pixel_values"}
    if needed:
        raise ValueError(
            f"{path}: {config.model_type!r} reads {', '.join(sorted(needed))} beside the pixels (a NaFlex or "
            "any-resolution model): patches of any number, not square frames of one size. Take a checkpoint of a fixed "
            "resolution, such as google/siglip2-so400m-patch14-384"
        )
    if missing:
        raise ValueError(f"{path}: {config.model_type!r} is no vision transformer; config.json lacks {missing}")
    if model_class is None:
        raise ValueError(
            f"{path}: transformers cannot load the vision part {config.model_type!r} of this checkpoint by itself; "
            "give the folder of a vision transformer such as CLIP, SigLIP or DINOv2"
        )
    return config


def layers_needed(layer: int, num_layers: int) -> int:
    """How many layers have to be built for an index into the hidden states.

    Raises:
        ValueError: There is no such layer.
    """
    needed = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= needed <= num_layers:
        raise ValueError(
            f"it has {num_layers} layers, so layer must be in 1..{num_layers} or -{num_layers}..-1, got {layer} (a "
            "negative layer is counted from the end and fits encoders of any depth; -2 is customary)"
        )
    return needed


def probe_frames(config: Any, image_size: int) -> FrameForm:
    """Run a dummy frame through a model of this configuration that has shapes but no weights.

    Args:
        config: Configuration of a vision model, with as many layers as are needed.
        image_size: Side of the frame in pixels.

    Raises:
        ValueError: The model does not take frames of that size.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it says of initial values does not matter here
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    finally:
        logging.set_verbosity(verbosity)
    model.eval()
    parts = getattr(model, "embeddings", model)
    has_class_token = any(name.endswith(_CLASS_TOKEN_NAMES) for name, _ in parts.named_parameters())
    num_prefix = int(has_class_token) + getattr(config, "num_register_tokens", 0)
    options = _options_for_size(model, config, image_size)
    frame = torch.zeros(1, 3, image_size, image_size, dtype=model.dtype, device="meta")
    try:
        with torch.no_grad():
            shape = layer_output(model, config.num_hidden_layers, frame, options).shape
    except ValueError as error:
        raise ValueError(f"it does not take frames {image_size} pixels wide: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"it does not take frames {image_size} pixels wide, because its position embeddings are for "
            f"{config.image_size} and cannot be interpolated ({str(error).splitlines()[0]}); leave image_size out"
        ) from error
    if len(shape) != 3 or shape[1] <= num_prefix:
        raise ValueError(
            f"its layers give {list(shape)}, expected [1, {num_prefix} class and register tokens + patches, width]: "
            "this architecture is not known here"
        )
    return FrameForm(options, has_class_token, num_prefix, shape[1] - num_prefix)


def layer_output(model: Any, num_layers: int, pixels: Tensor, options: dict[str, bool]) -> Tensor:
    """Hidden states ``[F, tokens, D]`` after the last of the layers that were built, before any final norm.

    Args:
        model: A vision model.
        num_layers: How many layers it has.
        pixels: Normalised frames ``[F, 3, H, W]``.
        options: Further arguments of its forward.
    """
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: Any, output: Any) -> None:
        captured.append(output[0] if isinstance(output, tuple) else output)

    handle = _last_layer_of(model, num_layers).register_forward_hook(capture)
    try:
        model(pixel_values=pixels, **options)
    finally:
        handle.remove()
    return captured[0]


def load_vision_model(path: str, config: Any, dtype: torch.dtype, attn: AttentionWish) -> Any:
    """Load the vision part of a checkpoint.

    Args:
        path: Folder or hub name.
        config: Its configuration, with as many layers as are needed.
        dtype: Dtype of the weights; where a strategy shards they still have that of their file.
        attn: Attention kernel, see ``resolve_attention``.

    Raises:
        ValueError: The checkpoint lacks weights, or its model has no such attention.
    """
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    kernel = resolve_attention(attn, device_type, dtype, model_class_of(config, AutoModel))
    loaded = dtype if active_sharding() is None else "auto"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report lists the text part and the layers left out on purpose
    try:
        model, loading = AutoModel.from_pretrained(
            path, config=config, dtype=loaded, attn_implementation=kernel, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"no weights could be read from {path!r} ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
    problems = [f"{key} is missing" for key in sorted(loading["missing_keys"]) if not key.startswith(_UNREAD)]
    problems += [f"{mismatch} has another shape" for mismatch in sorted(map(str, loading["mismatched_keys"]))]
    if problems:
        raise ValueError(
            f"{path}: the checkpoint does not hold the weights that its config.json describes, and random ones would "
            f"take their place: {'; '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}"
        )
    if loading["missing_keys"]:  # nothing reads them, but they differ each time that the model is built
        mark_random(model, sorted(loading["missing_keys"]))
    return model


def _last_layer_of(model: nn.Module, num_layers: int) -> nn.Module:
    stacks = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == num_layers]
    if len(stacks) != 1:
        raise ValueError(f"{type(model).__name__} has {len(stacks)} stacks of {num_layers} layers, expected 1")
    return stacks[0][-1]


def _options_for_size(model: Any, config: Any, image_size: int) -> dict[str, bool]:
    """Arguments that let the model take frames of that size; DINOv2 and models with rotary positions need none."""
    trained = config.image_size
    sides = set(trained) if isinstance(trained, list | tuple) else {trained}
    can_interpolate = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if sides != {image_size} and can_interpolate else {}


def _needed_arguments(model_class: Any) -> set[str]:
    parameters = list(inspect.signature(model_class.forward).parameters.values())[1:]
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in plain and each.default is inspect.Parameter.empty}
