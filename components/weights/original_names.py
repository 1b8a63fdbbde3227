"""Tensor names of the VideoLLaMB checkpoints beside ours, part by part.

Every table is a plain dict from an original name to ours, built for a number of layers; read backwards it serves the
export. A part's original names are those below its prefix in a checkpoint.

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
    """Layers that a part's names speak of; the same for original names and ours."""
    return {int(match[1]) for match in map(_LAYER.search, names) if match}


def num_layers_of(names: Iterable[str]) -> int:
    """Layers of a part whose names are complete; of one that may lack its last layers, ``depth.py`` tells."""
    return 1 + max(layers_of(names), default=-1)


def _nothing(num_layers: int) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class PartNames:
    """Names of one part of the original model.

    Attributes:
        prefix: What stands before the part's names in an original checkpoint.
        accepted_prefix: Every prefix that is understood, as a pattern.
        names: Original name to ours, for a number of layers.
        width_from: Original name of a tensor whose last dimension is the part's width.
        published_layers: Width of the published models to the number of their layers.
        unused: For a number of layers, the original names whose tensors never influence what the original computes,
            each with a used one of the same shape. They are dropped on import and written as zeros on export, because
            the original loads strictly.
        ignored: Buffers that some versions of the libraries stored, as a pattern; dropped on import.
        adapters: Whether the original stores the part with LoRA adapters beside its weights.
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
    """Names of ``mm_projector`` beside those of ``VideoLLaMBBridge``."""
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
    """Names in ``mm_projector`` that the original stores but never reads, each with a used one of the same shape."""
    unused = {"projector.memory_tokens": "projector.read_memory_emb"}
    for layer in range(num_layers):
        path = f"projector.layers.{layer}"
        # The names of an attention are the same in both; only their path differs.
        unused |= _same_inside(f"{path}.crossattention", f"{path}.selfattention")
    return unused | _same_inside("retrieval.layers.0.selfattention", "retrieval.layers.0.crossattention")


def _same_inside(unused: str, used: str) -> dict[str, str]:
    return {f"{unused}{name}": f"{used}{name}" for name in _bridge_attention("", "")}


def llama_names(num_layers: int) -> dict[str, str]:
    """Names of the LLaMA model; ours are those of transformers, which are the original's."""
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
