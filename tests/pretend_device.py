"""A pretended accelerator: the CPU's numbers on a device of its own, which refuses tensors of the CPU.

It shows without any hardware whether code runs on a device that is neither the CPU nor CUDA, and where the host waits
for the device:

    with PretendedDevice() as device:
        output = move_model(model)(batch)
    device.waits  # one entry for each time that the host waited, with the line that caused it

Importing this module registers the device for the complete process. So tests import it in a process of their own.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

ROOT = Path(__file__).resolve().parents[1]
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
_SIZE_DEPENDS_ON_VALUES = ("nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount")
_RESULT_ON_HOST = ("_local_scalar_dense", "equal")


class _Module(_DummyBackendModule):
    """What ``torch.pretend`` offers. All random numbers are the CPU's.

    Gradient checkpointing asks for random states and for the dtypes of autocast, in a hook of backward. Without an
    answer the process aborts there ("terminate called"): on such a device an error in a hook does not reach Python.
    """

    class device:  # noqa: N801  torch asks for this name
        """A context that changes nothing, because there is one device."""

        def __init__(self, index: int) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.empty(0)

    def set_rng_state(self, state: Tensor, device: object = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("pretend", _Module())
DEVICE = torch.device("pretend", 0)


class Wait(NamedTuple):
    """One moment at which the host waits for the device."""

    operation: str
    line: str  # the innermost of components/ and lightning_modules/, such as components/model.py:12; "" where none is
    called: str  # the innermost of all Python code: of a library, where it waits in a library


class PretendedTensor(Tensor):
    """A tensor of the pretended device; ``values`` is the tensor of the CPU that has its numbers."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type, values: Tensor) -> "PretendedTensor":
        tensor: PretendedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.values = values
        return tensor

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendedTensor({self.values})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"a tensor of {DEVICE} is no numpy array: copy it to the CPU first")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.clone()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on ``DEVICE``, and each wait of the host is noted.

    Attributes:
        waits: The waits so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self._entered = ExitStack()

    def __enter__(self) -> "PretendedDevice":
        # Backward runs in this thread. After an error in a thread of the device, the process would abort at its end.
        self._entered.enter_context(torch.autograd.set_multithreading_enabled(False))
        _entered.append(self)
        self._entered.callback(_entered.remove, self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        if _waits(name, args, kwargs):
            self.note(name)
        return _run(operation, args, kwargs)

    def note(self, operation: str) -> None:
        """Note that the host waits now."""
        frames = list(_frames())
        called = next(frame for frame in frames if not _is_dispatch(frame))
        ours = next((frame for frame in frames if _is_ours(frame)), None)
        self.waits.append(Wait(operation, "" if ours is None else _line(ours), _line(called)))


_entered: list[PretendedDevice] = []
_kernels = torch.library.Library("aten", "IMPL")


# ``torch.tensor(..., device=...)`` copies below the dispatch of modes, so it needs kernels of the device.
@torch.library.impl(_kernels, "empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
    return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl(_kernels, "_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if _entered and not non_blocking:
        _entered[-1].note("_copy_from")
    values_of(target).copy_(values_of(source))
    return target


def move_model(model: nn.Module) -> nn.Module:
    """Move a model to the pretended device in place; parameters that modules share stay shared."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    copy = PretendedTensor(tensor.detach().clone())
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                tensors[name] = None if tensor is None else moved[id(tensor)]
    return model


def values_of(tree: Any) -> Any:
    """A structure of tensors with the CPU's tensors in place of the pretended ones; no wait is noted."""
    return _change(tree, lambda tensor: tensor.values if isinstance(tensor, PretendedTensor) else tensor)


def _change(tree: Any, change: Callable[[Any], Tensor]) -> Any:
    """Change every tensor of a structure. Several times as fast as torch's own function for all kinds of structures."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, list | tuple):
        changed = [_change(each, change) for each in tree]
        return type(tree)(*changed) if hasattr(tree, "_fields") else type(tree)(changed)
    return {name: _change(each, change) for name, each in tree.items()} if isinstance(tree, dict) else tree


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of a structure, in order."""
    found: list[Tensor] = []
    _change(tree, lambda tensor: found.append(tensor) or tensor)
    return found


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU's tensors; its results are on the device that a real one would give."""
    name = operation._schema.name.removeprefix("aten::")
    tensors = _tensors((args, kwargs))
    pretended = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    target = kwargs.get("device")
    on_device = bool(pretended) if target is None else torch.device(target).type == DEVICE.type
    if not pretended and not on_device:
        return operation(*args, **kwargs)
    if pretended and name not in ("_to_copy", "copy_"):
        _refuse_mixed(name, args, tensors)
    plain = dict(kwargs) if target is None else {**kwargs, "device": torch.device("cpu")}
    result = operation(*values_of(args), **values_of(plain))
    if not on_device or name in _RESULT_ON_HOST:
        return result
    # What changes a tensor in place returns the tensor itself.
    known = {id(tensor.values): tensor for tensor in pretended} | {id(each): each for each in tensors}
    return _change(result, lambda each: known[id(each)] if id(each) in known else PretendedTensor(each))


def _refuse_mixed(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Refuse tensors of the CPU beside pretended ones, as CUDA does: numbers and indices may be the CPU's."""
    if name in _INDEXING and isinstance(args[0], PretendedTensor):
        tensors = [args[0], *args[2:3]]
    foreign = [list(tensor.shape) for tensor in tensors if not isinstance(tensor, PretendedTensor) and tensor.ndim]
    if foreign:
        raise RuntimeError(f"{name} mixes tensors of {DEVICE} with tensors of the CPU, shapes {foreign}")


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host of a real accelerator would wait for it here, by the rules of CUDA."""
    is_ours = [isinstance(tensor, PretendedTensor) for tensor in _tensors((args, kwargs))]
    if name == "_to_copy":
        target = kwargs.get("device")
        moves = target is not None and (torch.device(target).type == DEVICE.type) != is_ours[0]
        return moves and (is_ours[0] or not kwargs.get("non_blocking"))
    if name == "copy_":
        to_device, from_device = is_ours
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        return to_device != from_device and (from_device or not non_blocking)
    if not any(is_ours):
        return False
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype == torch.bool or not isinstance(index, PretendedTensor) for index in indices)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in (*_RESULT_ON_HOST, *_SIZE_DEPENDS_ON_VALUES)


def _is_ours(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    return any(path.is_relative_to(ROOT / package) for package in ("components", "lightning_modules"))


def _is_dispatch(frame: FrameType) -> bool:
    """Whether this is code of this file, or what torch wraps around it."""
    return frame.f_code.co_filename.endswith((Path(__file__).name, "torch/_compile.py", "_dynamo/eval_frame.py"))


def _line(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    short = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])
    return f"{short}:{frame.f_lineno}"


def _frames() -> Iterator[FrameType]:
    """What runs now, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
