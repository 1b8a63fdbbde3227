"""Tensor names of the memory of the Memory-Augmented VLM: from the original's to those of our readers.

The original keeps the memory in three modules. Ours are two readers: ``memory`` (``GridMemory``) and ``frames``
(``FineFrames``). They share one table of the original, whose two rows say which stream a token is of.

Source: the Memory-Augmented VLM code, commit 437dbe3.
"""

import torch
from torch import Tensor

from components.positions import interleaved_sinusoid

TYPE_TABLE = "token_type_embedding.weight"
TYPE_ROWS = {"memory": 0, "frames": 1}
"""The row of the table of types that each reader has."""
TYPE_EMBEDDING = "type_embedding.vector"
"""Our name of a row of the table."""
TIME_TABLE = "positional_encoding.frame_embed"
"""Fixed sinusoids, which the original stores and we compute."""
TIME_STEPS = 600
"""Rows of the table of sinusoids."""
PUBLISHED_LAYERS = 2
_KINDS = ("weight", "bias")
_ATTENTION = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "residual.dense": "output",
    "residual.layernorm": "norm",
}


def memory_names(num_layers: int) -> dict[str, str]:
    """Original names, without ``model.``, of the tensors of the reader ``memory``, and ours; without the type."""
    transformer = "recurrent_memory_transformer"
    names = {
        f"{transformer}.initial_memory": "initial_memory",
        f"{transformer}.memory_pos_embed": "memory_positions",
    }
    modules = _attention(f"{transformer}.memory_update_attention", "update")
    for layer in range(num_layers):
        theirs, ours = f"{transformer}.layers.{layer}", f"layers.{layer}"
        modules |= _attention(f"{theirs}.memory_segment_fusion_attention", f"{ours}.attention")
        modules |= {
            f"{theirs}.mlp.0": f"{ours}.feed_forward.expand",
            f"{theirs}.residual.dense": f"{ours}.feed_forward.contract",
            f"{theirs}.residual.layernorm": f"{ours}.feed_forward.norm",
        }
    modules |= {"memory_fuser.0": "fuser.expand", "memory_fuser.2": "fuser.contract"}
    return names | {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in _KINDS}


def _attention(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{inner}": f"{ours}.{own}" for inner, own in _ATTENTION.items()}


def memory_shape(name: str, width: int | None) -> tuple[int | None, ...]:
    """Shape of a tensor of the reader ``memory``, under our names; None for a size that is not known from the width."""
    if name == TYPE_EMBEDDING:
        return (width,)
    if name in ("initial_memory", "memory_positions"):
        return (None, 1 if name == "memory_positions" else None, width)
    is_bias = name.endswith(".bias") or ".norm." in name or name.startswith("norm.")
    wide = None if width is None else 4 * width
    rows = wide if ".expand." in name else width
    return (rows,) if is_bias else (rows, wide if ".contract." in name else width)


def time_table(width: int) -> Tensor:
    """The original's table of sinusoids, ``[600, D]`` float32: sines in even columns, cosines in odd ones."""
    return interleaved_sinusoid(torch.arange(TIME_STEPS), width)
