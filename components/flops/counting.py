"""Counts floating-point operations of a module by running a copy of it that has shapes but no numbers."""

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

from components.sharding import Sharding

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ResultT = TypeVar("ResultT")

_META = torch.device("meta")


def count_flops(run: Callable[[], ResultT], *, backward: bool = True) -> tuple[int, ResultT]:
    """Count the matrix products of a call on a ``meta_copy``, and those of the backward pass through what it gives.

    A product of ``[m, k]`` and ``[k, n]`` counts ``2 m k n``, as in ``torch.utils.flop_counter``; everything else
    counts nothing. What activation checkpointing computes again in the backward pass is not counted: the model does not
    ask for it. Attention counts every pair of query and key, those behind the causal mask included.

    Args:
        run: The call. Its floats have to be on the meta device; integers and masks may be real, and stay so.
        backward: Whether to go back through every float that it gives; what needs no gradient costs nothing.

    Returns:
        The operations, and what the call gave.
    """
    counter = _MatmulCounter()
    with counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        result = run()
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if backward and outputs:
            counter.goes_back = True
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return counter.flops, result


def meta_copy(module: ModuleT) -> ModuleT:
    """Copy a module's structure without its numbers and without the hooks that strategies hang on it.

    Parameters that a strategy has sharded (ZeRO-3, FSDP2) get their whole shape. Transformers' attention is switched
    to a kernel that runs everywhere and multiplies the same.

    Args:
        module: The module; nothing of it changes.

    Returns:
        The copy, on the meta device, training what the module trains.
    """
    copied: ModuleT = _copy(module, {})
    return copied


class _MatmulCounter(TorchDispatchMode):
    """Adds up matrix products, and lets real integers and masks work with floats on the meta device.

    Code around a model asks integers and masks (``nonzero``, ``any``), never floats. So these keep their values, on
    the CPU; where they meet a float, only their shape goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.goes_back = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _agree_on_meta(func, args, kwargs or {})
        result = func(*args, **kwargs)
        if kwargs.get("device") == _META and not result.is_floating_point() and not _takes_meta(args):
            result = func(*args, **{**kwargs, "device": torch.device("cpu")})
        formula = flop_registry.get(func._overloadpacket)
        # Going back runs without gradients; what runs with them is a forward pass of activation checkpointing.
        if formula is not None and not (self.goes_back and torch.is_grad_enabled()):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def _takes_meta(args: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(args))


def _agree_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Move all tensors to the meta device if one is there."""
    on_meta = {leaf.is_meta for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    if len(on_meta) < 2:
        return args, kwargs
    if func._overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        args = (args[0], _places(args[1]), *args[2:])  # how many a mask picks is in its values
    moved: tuple[Any, Any] = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (args, kwargs))
    return moved


def _places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices with real masks replaced by the places that they pick."""
    places: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not index.is_meta
        places += index.nonzero().unbind(dim=1) if index is not None and is_mask else [index]
    return places


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
            copied.__dict__[name] = None  # the copy asks no other rank anything
        elif isinstance(value, MethodType):
            del copied.__dict__[name]  # a strategy's way around the class's own method
    copied.__dict__["_parameters"] = {name: _without_numbers(p, known) for name, p in module._parameters.items()}
    copied.__dict__["_buffers"] = {name: _without_numbers(b, known) for name, b in module._buffers.items()}
    copied.__dict__["_modules"] = {
        name: None if child is None else _copy(child, known) for name, child in module._modules.items()
    }
    return copied


def _config_copy(config: Any, known: dict[int, Any]) -> Any:
    if id(config) not in known:
        known[id(config)] = copied = copy.deepcopy(config)
        if copied._attn_implementation not in ("sdpa", "eager"):
            copied._attn_implementation = "sdpa"
    return known[id(config)]


def _without_numbers(tensor: Tensor | None, known: dict[int, Any]) -> Any:
    if tensor is None:
        return None
    if id(tensor) not in known:  # tied weights stay tied
        shape = getattr(tensor, "ds_shape", tensor.shape)  # ZeRO-3 leaves an empty tensor and notes its whole shape
        empty = torch.empty(shape, dtype=tensor.dtype, device=_META)
        is_parameter = isinstance(tensor, nn.Parameter)
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return known[id(tensor)]
