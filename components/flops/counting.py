"""Counts floating-point operations of a module by running a copy of it on the meta device: shapes without values."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers import PretrainedConfig

from components.sharding import Sharding, whole_shape

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ResultT = TypeVar("ResultT")

_META = torch.device("meta")


def count_flops(run: Callable[[], ResultT], *, backward: bool = True) -> tuple[int, ResultT]:
    """Count the matrix products of a call on a ``meta_copy``, and those of its backward pass.

    A product of ``[m, k]`` and ``[k, n]`` counts ``2 m k n``, as in ``torch.utils.flop_counter``; nothing else is
    counted. What activation checkpointing computes again in the backward pass is not counted. Attention counts every
    pair of query and key, also those that the causal mask hides.

    Args:
        run: The call. Its floats must be on the meta device; integers and masks may have values, and keep them.
        backward: Whether to run the backward pass from every float output that needs a gradient.

    Returns:
        The operations, and the call's result.
    """
    counter = _MatmulCounter()
    with counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        result = run()
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if backward and outputs:
            counter.in_backward = True
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return counter.flops, result


def meta_copy(module: ModuleT) -> ModuleT:
    """Copy a module without its values and without the hooks that strategies register on it.

    Parameters that a strategy has sharded (ZeRO-3, FSDP2) get their full shape. Transformers' attention is switched to
    a kernel that runs on every device and has the same matrix products.

    Args:
        module: The module; it is not changed.

    Returns:
        The copy, on the meta device. The same parameters need a gradient.
    """
    copied: ModuleT = _copy(module, {})
    return copied


class _MatmulCounter(TorchDispatchMode):
    """Adds up matrix products, and lets integers and masks with values work with floats on the meta device.

    Code around a model reads the values of integers and masks (``nonzero``, ``any``), never those of floats. So
    integers and masks have values, on the CPU; in an operation with a float only their shape is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.in_backward = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _agree_on_meta(func, args, kwargs or {})
        result = func(*args, **kwargs)
        if kwargs.get("device") == _META and not result.is_floating_point() and not _takes_meta(args):
            result = func(*args, **{**kwargs, "device": torch.device("cpu")})
        formula = flop_registry.get(func._overloadpacket)
        # The backward pass runs without gradients; what runs with them is a forward pass of activation checkpointing.
        if formula is not None and not (self.in_backward and torch.is_grad_enabled()):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def _takes_meta(args: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(args))


def _agree_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Move all tensors to the meta device if one is on it."""
    on_meta = {leaf.is_meta for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    if len(on_meta) < 2:
        return args, kwargs
    if func._overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        args = (args[0], _positions(args[1]), *args[2:])  # a mask's values say how many it selects
    moved: tuple[Any, Any] = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (args, kwargs))
    return moved


def _positions(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices, with masks that have values replaced by the positions that they select."""
    positions: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not index.is_meta
        positions += index.nonzero().unbind(dim=1) if index is not None and is_mask else [index]
    return positions


def _copy(module: Any, known: dict[int, Any]) -> Any:
    if id(module) in known:
        return known[id(module)]
    copied = known[id(module)] = object.__new__(type(module))
    copied.__dict__ = dict(module.__dict__)
    for name, value in module.__dict__.items():
        if "_hooks" in name and isinstance(value, dict):
            copied.__dict__[name] = type(value)()
        elif isinstance(value, PretrainedConfig):
            copied.__dict__[name] = _config_copy(value, known)
        elif isinstance(value, Sharding):
            copied.__dict__[name] = None  # the copy does not communicate
        elif isinstance(value, MethodType):
            del copied.__dict__[name]  # a method that a strategy has replaced; the class has the original
    copied.__dict__["_parameters"] = {name: _without_values(p, known) for name, p in module._parameters.items()}
    copied.__dict__["_buffers"] = {name: _without_values(b, known) for name, b in module._buffers.items()}
    copied.__dict__["_modules"] = {
        name: None if child is None else _copy(child, known) for name, child in module._modules.items()
    }
    return copied


def _config_copy(config: Any, known: dict[int, Any]) -> Any:
    if id(config) not in known:
        known[id(config)] = copied = copy.deepcopy(config)
        if not str(copied._attn_implementation).startswith(
            ("sdpa", "eager")
        ):  # one that also reads attention begins so
            copied._attn_implementation = "sdpa"
    return known[id(config)]


def _without_values(tensor: Tensor | None, known: dict[int, Any]) -> Any:
    if tensor is None:
        return None
    if id(tensor) not in known:  # tied weights stay tied
        empty = torch.empty(whole_shape(tensor), dtype=tensor.dtype, device=_META)
        is_parameter = isinstance(tensor, nn.Parameter)
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return known[id(tensor)]
