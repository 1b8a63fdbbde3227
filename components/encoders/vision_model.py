"""Loads the vision part of a Hugging Face checkpoint, and finds out the form of its tokens for a size of frames."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from components.attention_kernels import AttentionChoice, model_class_of, resolve_attention
from components.encoders.vision_outputs import WantedOutputs, prepare_outputs, vision_class, vision_outputs
from components.random_weights import mark_random
from components.sharding import active_sharding

_CLASS_TOKEN_NAMES = ("class_embedding", "cls_token")
# Parameters that the output of the chosen layer does not depend on; published checkpoints lack some of them.
_NEVER_READ = ("embeddings.mask_token",)
_READ_FOR_JOINT = ("post_layernorm.", "layernorm.", "norm.", "pooler.", "head.")


class FrameLayout(NamedTuple):
    """The tokens that a vision model computes for a frame of one size."""

    options: dict[str, bool]  # arguments of its forward that are needed for that size
    has_class_token: bool
    num_prefix_tokens: int  # class and register tokens, which precede the patches
    num_patches: int


def read_vision_config(path: str) -> Any:
    """Read the configuration of a checkpoint's vision part.

    Args:
        path: Folder or hub name.

    Raises:
        ValueError: There is no configuration, or its model does not read frames as pixels.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model configuration could be read from {path!r} ({str(error).splitlines()[0]}). Give a folder with "
            "config.json and weights, or a hub name that can be reached"
        ) from error
    joint_width = getattr(config, "projection_dim", None)  # of CLIP; the one of its vision part may be a default
    config = getattr(config, "vision_config", config)
    if joint_width is not None and hasattr(config, "projection_dim"):
        config.projection_dim = joint_width
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


def probe_frames(config: Any, wanted: WantedOutputs, image_size: int) -> FrameLayout:
    """Find out the tokens of a model, by running it on dummy frames on the meta device, without weights.

    Args:
        config: Configuration of a vision model, with the required number of layers.
        wanted: What will be taken from it.
        image_size: Side of the frames in pixels.

    Raises:
        ValueError: The model cannot process frames of that size, or its tokens are not class and register tokens
            followed by one token per patch.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides warnings about initial values
    try:
        with torch.device("meta"):
            model: Any = vision_class(config, wanted.joint)._from_config(config)  # type: ignore[union-attr]
    finally:
        logging.set_verbosity(verbosity)
    model.eval()
    num_class, num_prefix = _count_prefix_tokens(model, config)
    options = _options_for_size(model, config, image_size)
    prepare_outputs(model, wanted, has_class_token=num_class > 0)
    # Two frames, to detect models that join the tokens of all frames.
    frames = torch.zeros(2, 3, image_size, image_size, dtype=model.dtype, device="meta")
    num_patches: list[int] = []  # of one frame, counted at the convolution that embeds patches
    hooks = [
        convolution.register_forward_hook(lambda _module, _inputs, output: num_patches.append(output[0, 0].numel()))
        for convolution in _patch_convolutions(model)
    ]
    shape: torch.Size | None = None
    try:
        with torch.no_grad():
            shape = vision_outputs(model, wanted, frames, options).hidden.shape
    except ValueError as error:
        raise ValueError(f"it does not take frames {image_size} pixels wide: {error}") from error
    except RuntimeError as error:
        # A few models (SmolVLM) compute positions from values, which the meta device does not have.
        if "meta tensors" not in str(error) or not num_patches:
            raise ValueError(
                f"it does not take frames {image_size} pixels wide, because its position embeddings are for "
                f"{config.image_size} and cannot be interpolated ({str(error).splitlines()[0]}); leave image_size out"
            ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if shape is not None:
        num_patches.append(_check_tokens(shape, num_prefix, num_patches))
    return FrameLayout(options, num_class > 0, num_prefix, num_patches[-1])


def _count_prefix_tokens(model: nn.Module, config: Any) -> tuple[int, int]:
    """Number of class tokens, and of all tokens before the patches (class, distillation and register tokens)."""
    names = [name for name, _ in getattr(model, "embeddings", model).named_parameters()]
    num_class = int(any(name.endswith(_CLASS_TOKEN_NAMES) for name in names))
    num_distilled = int(any(name.endswith("distillation_token") for name in names))
    return num_class, num_class + num_distilled + int(getattr(config, "num_register_tokens", 0))


def _patch_convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """The convolution that embeds the patches of a frame, if the model has one."""
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    return [each for each in convolutions[:1] if each.in_channels == 3 and each.kernel_size == each.stride]


def _check_tokens(shape: torch.Size, num_prefix: int, num_patches: list[int]) -> int:
    """Check that a model's output for two frames has one token per patch. Returns the number of patches."""
    found = shape[1] - num_prefix if len(shape) == 3 and shape[0] == 2 else 0
    expected = str(num_patches[0]) if num_patches else "several"
    if found < 1 or (num_patches and found != num_patches[0]):
        raise ValueError(
            f"its layers give {list(shape)} for 2 frames, expected [2, {num_prefix} class and register tokens + "
            f"{expected} patches, width]: an architecture that hides, merges or adds tokens, or that joins frames, "
            "cannot be used here"
        )
    return found


def load_vision_model(path: str, config: Any, dtype: torch.dtype, attn: AttentionChoice, *, joint: bool = False) -> Any:
    """Load the vision part of a checkpoint.

    Args:
        path: Folder or hub name.
        config: Its configuration, with the required number of layers.
        dtype: Dtype of the weights; under a sharding strategy, they still have the dtype of their file.
        attn: Attention kernel, see ``resolve_attention``.
        joint: Whether to load what the joint embedding needs too.

    Raises:
        ValueError: Weights are missing, or the model does not support the kernel.
    """
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    model_class: Any = vision_class(config, joint)
    kernel = resolve_attention(attn, device_type, dtype, model_class)
    loaded = dtype if active_sharding() is None else "auto"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides the list of tensors that are not loaded on purpose (text part, later layers)
    try:
        model, loading = model_class.from_pretrained(
            path,
            config=config,
            dtype=loaded,
            attn_implementation=kernel,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
        )
    except OSError as error:
        raise ValueError(f"no weights could be read from {path!r} ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
    unread = _NEVER_READ if joint else (*_NEVER_READ, *_READ_FOR_JOINT)
    problems = [f"{key} is missing" for key in sorted(loading["missing_keys"]) if not key.startswith(unread)]
    problems += [f"{mismatch} has another shape" for mismatch in sorted(map(str, loading["mismatched_keys"]))]
    if problems:
        raise ValueError(
            f"{path}: the checkpoint does not hold the weights that its config.json describes, so they would be "
            f"random: {'; '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}"
        )
    if loading["missing_keys"]:  # unused, but initialised at random each time
        mark_random(model, sorted(loading["missing_keys"]))
    return model


def _options_for_size(model: Any, config: Any, image_size: int) -> dict[str, bool]:
    """Arguments of forward for that size of frames; DINOv2 and models with rotary positions need none."""
    trained = config.image_size
    sides = set(trained) if isinstance(trained, list | tuple) else {trained}
    can_interpolate = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if sides != {image_size} and can_interpolate else {}


def _needed_arguments(model_class: Any) -> set[str]:
    parameters = list(inspect.signature(model_class.forward).parameters.values())[1:]
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in plain and each.default is inspect.Parameter.empty}
