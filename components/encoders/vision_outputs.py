"""Runs a vision transformer and takes hidden states, attention and joint embedding from it."""

import sys
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AutoModel

from components.attention_kernels import model_class_of
from components.encoders.patch_attention import attention_read, read_attention_in
from components.problems import Problems


class WantedOutputs(NamedTuple):
    """What to take from a vision transformer. Layers are counted from 1."""

    layer: int  # features are its output
    saliency_layer: int | None  # layer of which to read the attention that patches get
    joint: bool  # whether to compute the embedding that the frame shares with text
    num_layers: int  # layers that must be built for that


class VisionOutputs(NamedTuple):
    """What a vision transformer gave for F frames."""

    hidden: Tensor  # [F, tokens, D] before any final norm
    attention: Tensor | None  # [F, tokens] float32, attention that every token gets
    joint: Tensor | None  # [F, J]


def wanted_outputs(
    config: Any, layer: int, saliency_layer: int | None, joint: bool, problems: Problems
) -> WantedOutputs:
    """Count layers from the start, and find how many must be built.

    Args:
        config: Configuration of the complete vision model.
        layer: Index into the hidden states, see ``HuggingFaceVisionEncoder``.
        saliency_layer: The same for the attention.
        joint: Whether the joint embedding is wanted, for which all layers are needed.
        problems: Collects what is wrong: there is no such layer, or the model has no joint embedding.
    """
    total: int = config.num_hidden_layers
    chosen, salient = total, None
    with problems.collected():
        chosen = _layer_number(layer, total, "layer")
    with problems.collected():
        salient = None if saliency_layer is None else _layer_number(saliency_layer, total, "saliency_layer")
    with problems.collected():
        if joint:
            _check_joint(config)
    return WantedOutputs(chosen, salient, joint, total if joint else max(chosen, salient or 1))


def vision_class(config: Any, joint: bool) -> type | None:
    """The transformers class of a vision model, with the projection into the joint space where that is wanted.

    Args:
        config: Configuration of a vision model.
        joint: Whether the joint embedding is wanted.

    Returns:
        The class; None where transformers cannot build such a model by itself.
    """
    plain = model_class_of(config, AutoModel)
    if not joint or plain is None:
        return plain
    # CLIP and its descendants have a second class with the projection; SigLIP's pooled output is in the joint space.
    projecting: type | None = getattr(sys.modules[plain.__module__], f"{plain.__name__}WithProjection", None)
    return plain if projecting is None else projecting


def prepare_outputs(model: nn.Module, wanted: WantedOutputs, *, has_class_token: bool) -> None:
    """Prepare a model for ``vision_outputs``; call it once, when the model is built.

    Args:
        model: A vision model with ``wanted.num_layers`` layers.
        wanted: What will be taken from it.
        has_class_token: Whether its first token is a class token, whose attention is read then.
    """
    if wanted.saliency_layer is not None:
        layer = _layers_of(model, wanted.num_layers)[wanted.saliency_layer - 1]
        read_attention_in(layer, from_class_token=has_class_token)


def vision_outputs(model: Any, wanted: WantedOutputs, pixels: Tensor, options: dict[str, bool]) -> VisionOutputs:
    """Run a vision model.

    Args:
        model: A vision model with ``wanted.num_layers`` layers.
        wanted: What to take from it.
        pixels: Normalised frames ``[F, 3, H, W]``.
        options: Further arguments of its forward.

    Raises:
        ValueError: Its layers are not found, or its attention cannot be read.
    """
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: Any, output: Any) -> None:
        captured.append(output[0] if isinstance(output, tuple) else output)

    handle = _layers_of(model, wanted.num_layers)[wanted.layer - 1].register_forward_hook(capture)
    try:
        with attention_read() as attention:
            output = model(pixel_values=pixels, **options)
    finally:
        handle.remove()
    if len(attention) != int(wanted.saliency_layer is not None):
        raise ValueError(
            f"{type(model).__name__} computes its attention in a way that saliency_layer cannot read: leave "
            "saliency_layer out, or take CLIP, SigLIP or DINOv2"
        )
    joint = None
    if wanted.joint:
        joint = output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output
    return VisionOutputs(captured[0], attention[0] if attention else None, joint)


def joint_width(config: Any, wanted: WantedOutputs) -> int:
    """Width J of the joint embedding; 0 where it is not wanted."""
    width: int = getattr(config, "projection_dim", config.hidden_size) if wanted.joint else 0
    return width


def _layer_number(layer: int, num_layers: int, option: str) -> int:
    number = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= number <= num_layers:
        raise ValueError(
            f"it has {num_layers} layers, so {option} must be in 1..{num_layers} or -{num_layers}..-1, got {layer} (a "
            "negative layer is counted from the end; -2 is customary)"
        )
    return number


def _check_joint(config: Any) -> None:
    has_projection = vision_class(config, joint=True) is not vision_class(config, joint=False)
    if not has_projection and not getattr(config, "vision_use_head", False):
        raise ValueError(
            f"{config.model_type!r} has no embedding that it shares with text: leave joint out, or take a dual model "
            "such as CLIP or SigLIP"
        )


def _layers_of(model: nn.Module, num_layers: int) -> nn.ModuleList:
    stacks = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == num_layers]
    if len(stacks) != 1:
        raise ValueError(f"{type(model).__name__} has {len(stacks)} stacks of {num_layers} layers, expected 1")
    return stacks[0]
