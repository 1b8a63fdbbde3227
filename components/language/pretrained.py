"""Builds Hugging Face language models: trained or untrained, whole or with low-rank adapters."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoConfig, AutoModelForCausalLM

from components.attention import AttentionWish, resolve_attention
from components.sharding import active_sharding
from components.weights.random_weights import mark_random


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters beside frozen weights.

    Attributes:
        rank: Rank of every adapter.
        alpha: Adapters are scaled by ``alpha / rank``.
        dropout: Dropout before the adapters while training.
        target_modules: Names of the linear layers that get one; ``all-linear`` is all of them but the output layer.

    Source: LoRA (arXiv:2106.09685).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: str | list[str] = "all-linear"


def build_model(
    path: str, source: dict[str, str], weights: str, dtype: str, attn: AttentionWish
) -> tuple[Any, torch.dtype]:
    """Load a model, or build it untrained from its configuration.

    Returns:
        The model and the dtype that its weights are wanted in. Where a strategy shards they still have that of their
        file, see ``settle_weights``.

    Raises:
        ValueError: There is none, it lacks weights that would stay random, or there are adapters beside it.
    """
    if weights not in ("pretrained", "random"):
        raise ValueError(f"weights is {weights!r}; expected 'pretrained' or 'random'")
    try:
        config = AutoConfig.from_pretrained(path, **source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no language model in {path!r}: expected a folder with its config.json, or a hub name that can be reached "
            f"({error}). The config file that names it says where it comes from"
        ) from error
    chosen: torch.dtype = (config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    # Float32 weights may still attend in half precision under autocast: an explicit wish is left to the user.
    kernel = resolve_attention(attn, device_type, chosen if attn == "auto" else None)
    if weights == "random":
        untrained = AutoModelForCausalLM.from_config(config, dtype=chosen, attn_implementation=kernel)
        mark_random(untrained)
        return untrained, chosen
    loaded = chosen if active_sharding() is None else "auto"
    model, report = AutoModelForCausalLM.from_pretrained(
        path, dtype=loaded, attn_implementation=kernel, output_loading_info=True, **source
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{path!r} holds adapters (adapter_config.json) with its language model, and it would not be clear what "
            "trains and what a checkpoint holds. Merge them with the tool that trained them (peft: merge_and_unload) "
            "and name the result, or take adapter_config.json and adapter_model.* out to go without them"
        )
    if report["missing_keys"]:
        raise ValueError(
            f"the checkpoint {path!r} lacks weights of the model that its config.json describes, which would stay "
            f"random: {sorted(report['missing_keys'])}"
        )
    return model, chosen


def add_adapters(model: Any, settings: LoraSettings) -> None:
    """Freeze a model and put trainable adapters beside its linear layers, in place."""
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(adapters, model)


def end_of_sequence_ids(model: Any) -> list[int]:
    """Ids that end a text, as the model's generation settings name them; there may be none."""
    ids: int | list[int] | None = model.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
