"""How far our numbers may differ from the recordings of the Memory-Augmented VLM code."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.parity.comparison import Check, largest_error

TOLERANCE = 1e-5
"""Absolute, for outputs in float32 on a CPU."""
_FUSED_TOLERANCE = 1e-4
_FUSED_ROUNDING = 10.0
_Result = TypeVar("_Result")


def with_explicit_attention(compute: Callable[..., _Result], *arguments: object) -> _Result:
    """Call ``compute(*arguments)`` with attention in explicit steps, as the originals compute it."""
    with sdpa_kernel(SDPBackend.MATH):
        return compute(*arguments)


def fused_tolerance(in_float64: Tensor, theirs: Tensor) -> float:
    """Tolerance for outputs with fused attention, as models run it.

    The original computes attention in explicit steps; ours is compared with these under ``TOLERANCE``. The fused kernel
    approximates the exponential, so each attention weight has a relative error of about 1e-6, where float32 has 1e-7.
    Sharp attention makes both larger from segment to segment. So the tolerance is 1e-4, or ten times the rounding error
    that the recording itself has.

    Args:
        in_float64: Our output computed in float64.
        theirs: The recorded one.
    """
    return max(_FUSED_TOLERANCE, _FUSED_ROUNDING * largest_error(in_float64, theirs))


def close_check(what: str, ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> Check:
    """Compare an output; dtypes must be equal too."""
    error = largest_error(ours, theirs) if ours.dtype == theirs.dtype else float("inf")
    return Check(what, error, tolerance, theirs.numel())


def relative_check(what: str, ours: float, theirs: float, scale: float, tolerance: float = TOLERANCE) -> Check:
    """Compare two numbers relative to a scale; inf where ours is not finite."""
    error = abs(ours - theirs) / scale if scale else abs(ours - theirs)
    return Check(what, error if error == error else float("inf"), tolerance)
