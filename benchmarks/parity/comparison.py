"""Parity cases, and how tensors are compared."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

OUTPUT_TOLERANCE = 1.5e-5
HALF_PRECISION_TOLERANCE = 3e-3
"""For recordings that were rounded to float16 to save space."""
GRADIENT_TOLERANCE = 1e-5
"""Relative L2 error."""
TIE_MARGIN = 1e-5
"""Where the original's choice of boundaries hangs on less than this, the choice itself is not compared."""
MOST_CUTS = 15
"""What the original's threshold form of SceneTilling keeps."""


class Check(NamedTuple):
    """One comparison."""

    what: str
    error: float  # inf where shapes differ or a number is not finite
    tolerance: float
    values: int = 1  # recorded numbers that were compared; a comparison of lists counts as one

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


class CaseResult(NamedTuple):
    """Result of one case. If it was declined or raised an error, it has a reason and no checks."""

    name: str
    checks: Sequence[Check]
    declined: str | None = None
    broken: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the case failed. A case that compared nothing and was not declined has failed."""
        if self.declined is not None:
            return False
        return self.broken is not None or not self.checks or not all(check.passed for check in self.checks)

    @property
    def values(self) -> int:
        """How many recorded numbers were compared."""
        return sum(check.values for check in self.checks)


class DeclinedError(Exception):
    """Raised in a case that the original does not handle properly; the message is printed as the reason."""


def run_case(name: str, compare: Callable[..., Sequence[Check]], *arguments: object) -> CaseResult:
    """Run one case, ``compare(*arguments)``, so that its failure does not stop the others."""
    try:
        return CaseResult(name, compare(*arguments))
    except DeclinedError as reason:
        return CaseResult(name, (), declined=str(reason))
    except Exception as error:  # any error is reported as a failure of the case, and the other cases still run
        return CaseResult(name, (), broken=f"{type(error).__name__}: {error}")


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; inf where shapes differ or a number is not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    if theirs.numel() == 0:
        return 0.0
    error = (ours.double() - theirs.double()).abs().max().item()
    return error if error == error else float("inf")


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """L2 norm of the difference over the norm of the recording; inf where shapes differ or a number is not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    difference = (ours.double() - theirs.double()).norm().item()
    norm = theirs.double().norm().item()
    error = difference / norm if norm else (0.0 if difference == 0.0 else float("inf"))
    return error if error == error else float("inf")


def output_check(what: str, ours: Tensor, theirs: Tensor, half_precision_keys: Sequence[str] = ()) -> Check:
    """Compare an output under the tolerance that its recording allows."""
    is_half = what in half_precision_keys or theirs.dtype == torch.float16
    tolerance = HALF_PRECISION_TOLERANCE if is_half else OUTPUT_TOLERANCE
    return Check(what, largest_error(ours, theirs), tolerance, theirs.numel())


def every_nth(name: str) -> tuple[str, int]:
    """Split the name of an output that was recorded at every n-th token only, ``out_every4th``, from n."""
    match = re.fullmatch(r"(.+)_every(\d+)(?:st|nd|rd|th)", name)
    return (match[1], int(match[2])) if match else (name, 1)


def nth_vectors(ours: Tensor, step: int, theirs: Tensor) -> Tensor:
    """Every n-th vector of an output ``[..., D]``, in the shape of the recording, which has these only."""
    return ours.reshape(-1, ours.shape[-1])[::step].view(theirs.shape)


def exact_check(what: str, ours: object, theirs: object) -> Check:
    """Compare values that must be equal; the error is 0 or 1."""
    return Check(f"{what} {theirs}", float(ours != theirs), 0.0)


def load_float32(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in float32; some were stored as float16 without loss."""
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def stored_input(tensors: dict[str, Tensor], name: str, case: dict[str, Any]) -> Tensor:
    """An input that was stored as whole numbers times a scale (``{name}_int8``), or as it is."""
    if f"{name}_int8" in tensors:
        scale: float = case.get(f"{name}_scale", 1 / 32)
        return tensors[f"{name}_int8"].float() * scale
    return tensors[name].float()
