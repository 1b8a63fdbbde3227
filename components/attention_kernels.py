"""Chooses the attention kernel of transformers models and logs the reason."""

import importlib.metadata
import importlib.util
import logging
from typing import Any, Literal, get_args

import torch
from transformers.models.auto.auto_factory import _BaseAutoModelClass

AttentionChoice = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]

_HALF_PRECISION = (torch.float16, torch.bfloat16)
# choice -> (module that must import, distribution that must provide it: flash-attn 4 also ships a ``flash_attn``
# module)
_FLASH_PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
# kernel -> attribute of a transformers model class that says whether it has the kernel; every model has eager attention
_MODEL_SUPPORT = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flash_attention_3": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}
_logger = logging.getLogger(__name__)


def model_class_of(config: Any, auto_class: type[_BaseAutoModelClass]) -> type | None:
    """The class that transformers builds of a configuration.

    Args:
        config: The configuration.
        auto_class: ``AutoModel``, ``AutoModelForCausalLM`` or a similar class.

    Returns:
        The class; None where transformers has none for such a configuration.
    """
    mapping = auto_class._model_mapping
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    chosen: type = found[0] if isinstance(found, tuple) else found
    return chosen


def resolve_attention(
    choice: AttentionChoice, device_type: str, dtype: torch.dtype | None = None, model_class: type | None = None
) -> str:
    """Turn the configured choice into the name for ``attn_implementation`` of transformers.

    Call it once per model, while it is built. ``auto`` takes FlashAttention 2 where it can run; else SDPA, which itself
    uses a flash kernel on CUDA; else eager attention, for models that have nothing else (Gemma-2 with its soft cap,
    gpt-oss, BLOOM, MPT). Any other choice is used or refused, never replaced.

    Args:
        choice: The configured choice.
        device_type: Type of the device that the model will run on, such as ``"cpu"`` or ``"cuda"``.
        dtype: Dtype of the attention's inputs, if known; FlashAttention needs float16 or bfloat16.
        model_class: The transformers class of the model, which names its kernels. None: unknown, assumed to have all.

    Returns:
        ``"sdpa"``, ``"eager"``, ``"flash_attention_2"``, ``"flash_attention_3"`` or ``"flex_attention"``.

    Raises:
        ValueError: The choice is unknown, or this machine or model lacks what it needs (the message says what).
    """
    if choice not in get_args(AttentionChoice):
        raise ValueError(f"attn={choice!r} is unknown; choose one of {', '.join(get_args(AttentionChoice))}")
    if choice == "auto":
        no_flash = _missing_for("flash_attention_2", device_type, dtype, model_class)
        no_sdpa = _missing_for("sdpa", device_type, dtype, model_class)
        chosen = "flash_attention_2" if no_flash is None else "sdpa" if no_sdpa is None else "eager"
        reason = "auto: FlashAttention 2 can run here" if no_flash is None else f"auto: no FlashAttention 2, {no_flash}"
        if chosen == "eager":
            reason += f"; no SDPA, {no_sdpa}"
    else:
        missing = _missing_for(choice, device_type, dtype, model_class)
        if missing:
            raise ValueError(f"attn={choice!r} cannot be used: {missing}. Set attn to 'auto'")
        chosen, reason = choice, "configured"
    log = _logger.warning if choice == "auto" and chosen == "eager" else _logger.info  # slow, and takes more memory
    log("attention: %s (%s)", chosen, reason)
    return chosen


def _missing_for(name: str, device_type: str, dtype: torch.dtype | None, model_class: type | None) -> str | None:
    """What this machine or the model lacks for a kernel; None if it can run."""
    support = _MODEL_SUPPORT.get(name)
    if model_class is not None and support is not None:
        kernels = getattr(model_class, "_compatible_flash_implementations", None)  # None: any flash kernel works
        lacks_kernel = name in _FLASH_PACKAGES and kernels is not None and name not in kernels
        if lacks_kernel or not getattr(model_class, support, False):
            return f"{model_class.__name__} has no such attention"
    if name in ("sdpa", "eager"):
        return None
    if name == "flex_attention":
        needs_build = device_type == "cuda" and importlib.util.find_spec("triton") is None
        return "package triton, which compiles flex attention for the GPU, is not installed" if needs_build else None
    if device_type != "cuda" or not torch.cuda.is_available():
        return f"it needs an NVIDIA GPU, and the model runs on {device_type!r} here"
    module, distribution = _FLASH_PACKAGES[name]
    if importlib.util.find_spec(module) is None or not _is_installed(distribution):
        return f"package {distribution} (module {module}) is not installed"
    if dtype is not None and dtype not in _HALF_PRECISION:
        return f"it needs float16 or bfloat16, and the model's dtype is {str(dtype).removeprefix('torch.')}"
    return None


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
