"""Tables of tensor names: from the names in original VideoLLaMB checkpoints to ours, for each part.

A table is a dict from original name to our name, built for a number of layers. The export uses it in reverse. Original
names are without the prefix that the part has in a checkpoint.

Source: the VideoLLaMB code, commit a885b99; LanguageBind and LLaMA as in transformers.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

PartName = Literal["bridge", "video_encoder", "image_encoder", "language_model"]

_KINDS = ("weight", "bias")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def layers_of(names: Iterable[str]) -> set[int]:
    """Indices of the layers that occur in tensor names; works for original names and ours."""
    return {int(match[1]) for match in map(_LAYER.search, names) if match}


def num_layers_of(names: Iterable[str]) -> int:
    """Number of layers of a part without missing tensors; otherwise use ``components.weights.layer_count``."""
    return 1 + max(layers_of(names), default=-1)


def _nothing(num_layers: int) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class PartNames:
    """Names of one part of the original model.

    Attributes:
        prefix: Prefix of the part's names in an original checkpoint.
        accepted_prefix: Pattern of all prefixes that the import accepts.
        names: Makes the table from original names to ours, for a number of layers.
        width_from: Original name of a tensor whose last dimension is the part's width.
        published_layers: Number of layers of the published models, by width.
        unused: Makes a table of original names whose tensors the original model never uses, each with the name of a
            used tensor of the same shape. The import drops them; the export writes zeros, because the original model
            requires them when it loads.
        ignored: Pattern of buffers that some library versions store; the import drops them.
        adapters: Whether the original stores the part with LoRA adapters.
    """

    prefix: str
    accepted_prefix: re.Pattern[str]
    names: Callable[[int], dict[str, str]]
    width_from: str
    published_layers: Mapping[int, int]
    unused: Callable[[int], dict[str, str]] = _nothing
    ignored: re.Pattern[str] = re.compile(r"(?!)")
    adapters: bool = False


def _with_kinds(pairs: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in pairs.items() for kind in _KINDS}


def _bridge_attention(theirs: str, ours: str) -> dict[str, str]:
    return _with_kinds(
        {
            f"{theirs}.q_proj": f"{ours}.query",
            f"{theirs}.k_proj": f"{ours}.key",
            f"{theirs}.v_proj": f"{ours}.value",
            f"{theirs}.residual.dense": f"{ours}.out",
            f"{theirs}.residual.layernorm": f"{ours}.norm",
        }
    )


def bridge_names(num_layers: int) -> dict[str, str]:
    """Names in ``mm_projector``, with those of ``VideoLLaMBBridge``."""
    names = {"projector.read_memory_emb": "initial_memory"}
    for layer in range(num_layers):
        theirs, ours = f"projector.layers.{layer}", f"layers.{layer}"
        names |= _bridge_attention(f"{theirs}.selfattention", f"{ours}.attention")
        names |= _with_kinds(
            {
                f"{theirs}.mlp.0": f"{ours}.widen",
                f"{theirs}.residual.dense": f"{ours}.narrow",
                f"{theirs}.residual.layernorm": f"{ours}.norm",
            }
        )
    names |= _bridge_attention("retrieval.layers.0.crossattention", "retrieval")
    return names | _with_kinds({"projector.proj.0": "projection"})


def unused_bridge_names(num_layers: int) -> dict[str, str]:
    """Names in ``mm_projector`` that the original never uses, each with a used name of the same shape."""
    unused = {"projector.memory_tokens": "projector.read_memory_emb"}
    for layer in range(num_layers):
        path = f"projector.layers.{layer}"
        # Names within an attention layer are the same in both; only the path differs.
        unused |= _same_inside(f"{path}.crossattention", f"{path}.selfattention")
    return unused | _same_inside("retrieval.layers.0.selfattention", "retrieval.layers.0.crossattention")


def _same_inside(unused: str, used: str) -> dict[str, str]:
    return {f"{unused}{name}": f"{used}{name}" for name in _bridge_attention("", "")}


def llama_names(num_layers: int) -> dict[str, str]:
    """Names of the LLaMA model; the original and ours both use those of transformers."""
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for layer in range(num_layers):
        names += [f"model.layers.{layer}.self_attn.{each}_proj.weight" for each in "qkvo"]
        names += [f"model.layers.{layer}.mlp.{each}_proj.weight" for each in ("gate", "up", "down")]
        names += [f"model.layers.{layer}.{each}_layernorm.weight" for each in ("input", "post_attention")]
    return {name: name for name in names}


def video_encoder_names(num_layers: int) -> dict[str, str]:
    """Names of LanguageBind's video transformer; ours are the same."""
    names = image_encoder_names(num_layers)
    for layer in range(num_layers):
        path = f"encoder.layers.{layer}"
        names[f"{path}.temporal_embedding"] = f"{path}.temporal_embedding"
        names |= _unchanged([f"{path}.temporal_attn.{each}_proj" for each in ("q", "k", "v", "out")])
        names |= _unchanged([f"{path}.temporal_layer_norm1"])
    return names


def image_encoder_names(num_layers: int) -> dict[str, str]:
    """Names of LanguageBind's image transformer; ours are the same."""
    names = ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"]
    modules = ["pre_layrnorm", "post_layernorm"]
    for layer in range(num_layers):
        path = f"encoder.layers.{layer}"
        modules += [f"{path}.self_attn.{each}_proj" for each in ("q", "k", "v", "out")]
        modules += [f"{path}.{each}" for each in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")]
    return {name: name for name in names} | _unchanged(modules)


def _unchanged(modules: Iterable[str]) -> dict[str, str]:
    return _with_kinds({module: module for module in modules})
