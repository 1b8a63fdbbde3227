"""How the weights of a language model are loaded besides what its config says: over several devices, in fewer bits.

Whoever opens a model decides this, not the config, so it is set around the building of the part (``loading_with``).
"""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch


class LoadOptions(NamedTuple):
    """How the weights of a language model are loaded.

    Attributes:
        device_map: Device of every layer, or ``auto``, as transformers reads it; needs the package ``accelerate``.
        bits: 8 or 4: quantise the linear layers as they are loaded; needs ``bitsandbytes``; for 8 ``torchao`` does too.
    """

    device_map: str | Mapping[str, Any] | None = None
    bits: Literal[8, 4] | None = None

    @property
    def places_weights(self) -> bool:
        """Whether transformers chooses the devices of the weights, so that nobody may move them afterwards."""
        return self.device_map is not None or self.bits is not None


_active: ContextVar[LoadOptions | None] = ContextVar("load_options", default=None)


@contextmanager
def loading_with(options: LoadOptions) -> Iterator[None]:
    """Load language models that are built in this context with these options."""
    token = _active.set(options)
    try:
        yield
    finally:
        _active.reset(token)


def arguments_of_transformers(dtype: torch.dtype) -> dict[str, Any]:
    """The active options as arguments of ``from_pretrained``; empty outside of ``loading_with``.

    Args:
        dtype: Dtype of the weights; quantised layers compute in it.

    Raises:
        ImportError: The package that does it is not installed; the message names it.
    """
    options = _active.get() or LoadOptions()
    found: dict[str, Any] = {}
    if options.device_map is not None:
        if not _is_installed("accelerate"):
            raise ImportError("device_map needs the package accelerate: pip install accelerate")
        found["device_map"] = options.device_map
    if options.bits is not None:
        found["quantization_config"] = _quantization(options.bits, dtype)
    return found


def _quantization(bits: int, dtype: torch.dtype) -> Any:
    if _is_installed("bitsandbytes"):
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, bnb_4bit_compute_dtype=dtype)
    if bits == 8 and _is_installed("torchao"):  # its 4 bits need a package of kernels for each kind of device
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    other = " (or torchao)" if bits == 8 else ""
    raise ImportError(
        f"load_in_{bits}bit needs a package that quantises weights, and none is installed: pip install "
        f"bitsandbytes{other}"
    )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
