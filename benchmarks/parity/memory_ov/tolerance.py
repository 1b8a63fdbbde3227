"""How far our numbers may differ from the recordings of the Memory-Augmented VLM code."""

from torch import Tensor

from benchmarks.parity.comparison import Check, largest_error

TOLERANCE = 1e-5
"""Absolute, for outputs in float32 on a CPU."""


def close_check(what: str, ours: Tensor, theirs: Tensor) -> Check:
    """Compare an output; dtypes must be equal too."""
    error = largest_error(ours, theirs) if ours.dtype == theirs.dtype else float("inf")
    return Check(what, error, TOLERANCE)


def relative_check(what: str, ours: float, theirs: float, scale: float, tolerance: float = TOLERANCE) -> Check:
    """Compare two numbers relative to a scale; inf where ours is not finite."""
    error = abs(ours - theirs) / scale if scale else abs(ours - theirs)
    return Check(what, error if error == error else float("inf"), tolerance)
