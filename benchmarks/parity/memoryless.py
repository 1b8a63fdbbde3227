"""The original's projectors without memory, made of our blocks and pooling, for the comparison."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.parity.comparison import Check, every_nth, output_check
from components.bridges.layers.post_norm import PostNormBlock
from components.interfaces import PatchPooling
from components.pooling.patch_pooling import ConvPooling, GridPooling, WindowPooling
from components.positions import patch_grid_side
from components.weights.original_names import bridge_names, num_layers_of

_GRID = 12
_FRAMES = 4


@torch.no_grad()
def compare_transformer(
    stored: Tensor, outputs: dict[str, Tensor], weights: dict[str, Tensor], config: dict[str, Any]
) -> Sequence[Check]:
    """``TransformerProjector``: the video averaged to 4 x 12 x 12 positions, blocks, projection, GELU.

    Args:
        stored: Patches, ``[V, T, N, D]``; images are pooled to 12 x 12.
        outputs: Recorded outputs, see ``_compare_tokens``.
        weights: Original tensors below ``projector.``.
        config: The recorded configuration.
    """
    own = {name.removeprefix("projector."): value for name, value in weights.items() if name.startswith("projector.")}
    num_videos, num_frames, num_patches, dim = stored.shape
    side = patch_grid_side(num_patches)
    volume = stored.permute(0, 3, 1, 2).reshape(num_videos, dim, num_frames, side, side)
    pooled = functional.adaptive_avg_pool3d(volume, (min(num_frames, _FRAMES), _GRID, _GRID))
    tokens = _run_blocks(pooled.flatten(2).transpose(1, 2), own, config, dim)
    out = functional.gelu(functional.linear(tokens, own["proj.0.weight"], own["proj.0.bias"]))
    return _compare_tokens(out, outputs)


@torch.no_grad()
def compare_mlp_transformer(stored: Tensor, outputs: dict[str, Tensor], config: dict[str, Any]) -> Sequence[Check]:
    """``MLPTransformerProjector``: two linear layers, pooling to 12 x 12, blocks at the language model's width.

    Args:
        stored: Patches of some frames, ``[F, N, D]``.
        outputs: The recorded output, and the weights below ``weights.``.
        config: The recorded configuration.
    """
    own = _own_weights(outputs)
    hidden = functional.gelu(functional.linear(stored, own["proj.0.weight"], own["proj.0.bias"]))
    projected = functional.linear(hidden, own["proj.2.weight"], own["proj.2.bias"])
    tokens = GridPooling(projected.shape[-1], grid=_GRID)(projected)
    return _compare_tokens(_run_blocks(tokens, own, config, config["hidden_size"]), outputs)


@torch.no_grad()
def compare_spatial_pool(mode: str, stored: Tensor, outputs: dict[str, Tensor], case: dict[str, Any]) -> list[Check]:
    """``SpatialPool``: windows of the patch grid averaged, or their maximum, or a learned convolution of them.

    Args:
        mode: ``average``, ``max`` or ``conv``.
        stored: Patches of some frames, ``[F, N, D]``.
        outputs: The recorded output, and the weights below ``weights.``.
        case: Has the side of the windows, and the convolution's width.

    Raises:
        ValueError: The mode is unknown.
    """
    dim, stride = stored.shape[2], case["stride"]
    if mode == "conv":
        pooling: PatchPooling = ConvPooling(dim, stride=stride, out_dim=case["out_channels"])
        names = {name.replace("pool.", "convolution."): value for name, value in _own_weights(outputs).items()}
        pooling.load_state_dict(names)
    elif mode in ("average", "max"):
        pooling = WindowPooling(dim, stride=stride, reduction="max" if mode == "max" else "average")
    else:
        raise ValueError(f"spatial pooling by {mode!r} is not one that this command can compare")
    return _compare_tokens(pooling(stored), outputs)


def _own_weights(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("weights."): value for name, value in outputs.items() if name.startswith("weights.")}


def _compare_tokens(tokens: Tensor, outputs: dict[str, Tensor]) -> list[Check]:
    """Compare tokens ``[V, P, E]`` with the outputs ``out``, or ``out_every4th`` for every fourth token."""
    checks = []
    for name, theirs in outputs.items():
        quantity, step = every_nth(name)
        if quantity == "out":
            checks.append(output_check(name, tokens[:, ::step], theirs))
        elif not name.startswith("weights."):
            raise ValueError(f"the output {name!r} is not one that this command can compare")
    return checks


def _run_blocks(tokens: Tensor, weights: dict[str, Tensor], config: dict[str, Any], dim: int) -> Tensor:
    """Run tokens ``[V, P, D]`` through blocks with the original weights ``layers.*``."""
    num_layers = num_layers_of(weights)
    heads, mlp_width = config["mm_num_attention_heads"], config["mm_intermediate_size"]
    blocks = nn.ModuleList(PostNormBlock(dim, heads, mlp_width, dropout=0.0) for _ in range(num_layers))
    names = {theirs.removeprefix("projector."): ours for theirs, ours in bridge_names(num_layers).items()}
    used = {names[name]: value for name, value in weights.items() if name.startswith("layers.") and name in names}
    blocks.load_state_dict({name.removeprefix("layers."): value for name, value in used.items()})
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    for block in blocks:
        tokens = block(tokens, mask)
    return tokens
