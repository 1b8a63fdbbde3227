"""Chooses the attention kernel that transformers models run with, once, and says why."""

import importlib.metadata
import importlib.util
import logging
from typing import Literal, get_args

import torch

AttentionWish = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]

_HALF_PRECISION = (torch.float16, torch.bfloat16)
# wish -> (module that must import, distribution that must provide it: flash-attn 4 also ships a ``flash_attn`` module)
_FLASH_PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
_logger = logging.getLogger(__name__)


def resolve_attention(wish: AttentionWish, device_type: str, dtype: torch.dtype | None = None) -> str:
    """Turn a wish into the name that transformers knows as ``attn_implementation``.

    Call it once per model, while it is built. ``auto`` takes FlashAttention 2 where it can run, else SDPA, which runs
    everywhere and itself dispatches to a flash kernel on CUDA. An explicit wish is met or refused, never replaced.

    Args:
        wish: What the configuration asks for.
        device_type: Type of the device that the model will run on, such as ``"cpu"`` or ``"cuda"``.
        dtype: Dtype that attention will see, where it is known; FlashAttention needs float16 or bfloat16.

    Returns:
        ``"sdpa"``, ``"eager"``, ``"flash_attention_2"``, ``"flash_attention_3"`` or ``"flex_attention"``.

    Raises:
        ValueError: The wish is unknown, or this machine cannot meet it (the message says what is missing).
    """
    if wish not in get_args(AttentionWish):
        raise ValueError(f"attn={wish!r} is unknown; choose one of {', '.join(get_args(AttentionWish))}")
    if wish == "auto":
        missing = _missing_for("flash_attention_2", device_type, dtype)
        chosen = "sdpa" if missing else "flash_attention_2"
        reason = f"auto: no FlashAttention 2, because {missing}" if missing else "auto: FlashAttention 2 can run here"
    else:
        missing = _missing_for(wish, device_type, dtype)
        if missing:
            raise ValueError(f"attn={wish!r} cannot be met: {missing}. Set attn to 'auto' or 'sdpa', or mend that")
        chosen, reason = wish, "asked for"
    _logger.info("attention: %s (%s)", chosen, reason)
    return chosen


def _missing_for(name: str, device_type: str, dtype: torch.dtype | None) -> str | None:
    """Say what this machine lacks for the named kernel; None where it can run."""
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
