"""Loads Hugging Face language models, or builds them with random weights, and adds LoRA adapters."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

from components.attention_kernels import AttentionChoice, model_class_of, resolve_attention
from components.language.load_options import arguments_of_transformers
from components.language.text_part import is_composite, take_text_part, text_config_of
from components.random_weights import mark_random
from components.sharding import active_sharding

_ALL_LINEAR = "all-linear"
_EXPERTS = "experts"  # name in transformers of the module that contains a layer's experts


@dataclass(frozen=True)
class LoraSettings:
    """Settings of LoRA adapters. The weights that they are added to are frozen.

    Attributes:
        rank: Rank of every adapter.
        alpha: Adapters are scaled by ``alpha / rank``.
        dropout: Dropout before the adapters while training.
        target_modules: Names of the linear layers that get an adapter; ``all-linear`` is all except the output layer.
            In a mixture of experts, ``all-linear`` excludes the experts: only layers that process every token count.

    Source: LoRA (arXiv:2106.09685).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: str | list[str] = _ALL_LINEAR


def build_model(
    path: str, source: dict[str, str], weights: str, dtype: str, attn: AttentionChoice
) -> tuple[Any, torch.dtype]:
    """Load a model, or build it with random weights; of a composite model, only its language model.

    Args:
        path: Folder or hub name.
        source: Further arguments of transformers that select the file, such as ``gguf_file``.
        weights: ``pretrained`` or ``random``.
        dtype: Dtype of the weights, or ``auto`` for the one of the configuration.
        attn: Attention kernel, see ``resolve_attention``.

    Returns:
        The model and the requested dtype of its weights. Under a sharding strategy, weights still have the dtype of
        their file, see ``hand_to_sharding``.

    Raises:
        ValueError: There is no model at ``path``, weights are missing (they would stay random), the folder contains
            adapters, or the model cannot generate from embeddings.
    """
    if weights not in ("pretrained", "random"):
        raise ValueError(f"weights is {weights!r}; expected 'pretrained' or 'random'")
    try:
        config = AutoConfig.from_pretrained(path, **source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no language model in {path!r}: expected a folder with its config.json, or a hub name that can be reached "
            f"({_first_line(error)}). The config file that names it says where to get it"
        ) from error
    text_config = text_config_of(config, path)
    chosen: torch.dtype = (
        (config.dtype or text_config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    )
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    # An explicit kernel is not checked against the dtype: under autocast, float32 weights compute in half precision.
    attention_dtype = chosen if attn == "auto" else None
    kernel = resolve_attention(attn, device_type, attention_dtype, model_class_of(text_config, AutoModelForCausalLM))
    if weights == "random":
        model = AutoModelForCausalLM.from_config(text_config, dtype=chosen, attn_implementation=kernel)
        mark_random(model)
    else:
        loaded = chosen if active_sharding() is None else "auto"
        options = {"dtype": loaded, "attn_implementation": kernel, **arguments_of_transformers(chosen)}
        model = _load(path, config, {**source, **options})
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        raise ValueError(
            f"the language model {path!r} is a {type(model).__name__}, which cannot generate from embeddings, as "
            "visual tokens need; choose another one"
        )
    return model, chosen


def _load(path: str, config: Any, options: dict[str, Any]) -> Any:
    composite = is_composite(config)
    known = model_class_of(config, AutoModelForCausalLM) is not None
    auto_class: Any = AutoModelForCausalLM if known else AutoModelForImageTextToText
    try:
        # Weights of other shapes are reported below, with their names.
        options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = auto_class.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"the language model {path!r} cannot be loaded: {_first_line(error)}") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{path!r} holds adapters (adapter_config.json) with its language model, and it would not be clear what "
            "trains and what a checkpoint stores. Merge them with the tool that trained them (peft: merge_and_unload) "
            "and name the result, or remove adapter_config.json and adapter_model.* to use the model without them"
        )
    if report["missing_keys"]:
        raise ValueError(
            f"the checkpoint {path!r} lacks weights of the model that its config.json describes, which would stay "
            f"random: {sorted(report['missing_keys'])}"
        )
    if report["mismatched_keys"]:
        name, stored, wanted = sorted(report["mismatched_keys"])[0]
        raise ValueError(
            f"the checkpoint {path!r} has {len(report['mismatched_keys'])} weights of other shapes than the model that "
            f"its config.json describes, such as {name} {list(stored)} instead of {list(wanted)}: use the config.json "
            "that belongs to the weights"
        )
    return take_text_part(model, path) if composite else model


def add_adapters(model: Any, settings: LoraSettings) -> None:
    """Freeze a model and add trainable adapters to its linear layers, in place.

    Raises:
        ValueError: The named layers do not exist, or do not support such adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model  # a model without adapters opens where peft is missing

    targets = settings.target_modules
    if targets == _ALL_LINEAR and _has_experts(model):
        targets = _linear_layers(model)
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(adapters, model)
    except ValueError as error:
        advice = "set lora.dropout to 0.0, or name other layers" if _has_experts(model) else "name other layers"
        raise ValueError(
            f"lora.target_modules {settings.target_modules!r} does not work with {type(model).__name__}: "
            f"{_first_line(error)}; {advice} (all-linear leaves experts out)"
        ) from error


def _has_experts(model: nn.Module) -> bool:
    return any(name.split(".")[-1] == _EXPERTS for name, _ in model.named_modules())


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers that process every token, without the output layer."""
    output_layer = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if getattr(type(module), "forward", None) in (nn.Linear.forward, Conv1D.forward)  # not Llama-4's router
        and module is not output_layer
        and _EXPERTS not in name.split(".")
    ]


def _first_line(error: Exception) -> str:
    """First line of an error message; in transformers, the rest is often a list of all classes."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def end_of_sequence_ids(model: Any) -> list[int]:
    """End-of-sequence ids in the model's generation config; may be empty."""
    ids: int | list[int] | None = model.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
