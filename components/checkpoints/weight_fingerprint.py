"""Fingerprints of weights: a few numbers that show whether two tensors are the same.

Every rank measures the share of a tensor that it has, and the sum over ranks is the measure of the tensor. The
fingerprint therefore does not depend on how weights are sharded. It also matches weights that were converted to
another dtype.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

NUM_VALUES = 16
"""Number of elements in a fingerprint: evenly spaced, including the first and the last of the tensor."""
MEASURE_LENGTH = 2 + NUM_VALUES

_BLOCK = 4096  # elements that are added in float32; blocks are added in float64
_CHUNK = 1024 * _BLOCK  # elements that are converted to float32 at once
# Relative tolerance of the sums: with another sharding, blocks start at other elements and round differently.
_ROUNDING = 1e-5
_BASE_LAYER = re.compile(r"(?:\.base_layer)+(?=\.)")
_TINY = 1e-30  # absolute tolerance: a value may have become zero in a coarser dtype


class WeightFingerprint(NamedTuple):
    """The numbers that identify a tensor.

    Attributes:
        dtype: Name of its dtype, such as ``bfloat16``.
        shape: Its shape.
        total: Sum of its elements.
        square_total: Sum of their squares.
        values: ``NUM_VALUES`` evenly spaced elements; all of them if it has fewer.
    """

    dtype: str
    shape: list[int]
    total: float
    square_total: float
    values: list[float]


def measure(share: Tensor, start: int, num_elements: int) -> Tensor:
    """Measure a share of a tensor. The measures of all shares sum to the measure of the tensor.

    Args:
        share: Consecutive elements of the flattened tensor, ``[n]``, any dtype, any device.
        start: Index of the first of them in the flattened tensor.
        num_elements: Number of elements of the tensor.

    Returns:
        Sum, sum of squares and single values, float64 ``[MEASURE_LENGTH]``, on the CPU.
    """
    found = torch.zeros(MEASURE_LENGTH, dtype=torch.float64)
    sums = [_sums(chunk.float()) for chunk in share.split(_CHUNK)] if share.numel() else []
    if sums:
        found[:2] = torch.stack(sums).cpu().double().sum(dim=0)
    inside = [
        (number, position - start)
        for number, position in enumerate(_positions(num_elements))
        if start <= position < start + len(share)
    ]
    if inside:
        numbers, positions = map(list, zip(*inside, strict=True))
        values = share[torch.tensor(positions, device=share.device)]
        found[2 + torch.tensor(numbers)] = values.cpu().double()
    return found


def fingerprint_of(measured: Tensor, dtype: torch.dtype, shape: torch.Size) -> WeightFingerprint:
    """Make a fingerprint from measures.

    Args:
        measured: Sum of the measures of all shares, ``[MEASURE_LENGTH]``.
        dtype: Dtype of the tensor.
        shape: Its shape.
    """
    total, square_total, *values = measured.tolist()
    num_values = len(list(_positions(shape.numel())))
    return WeightFingerprint(str(dtype).removeprefix("torch."), list(shape), total, square_total, values[:num_values])


def fingerprint_of_tensor(tensor: Tensor) -> WeightFingerprint:
    """Make the fingerprint of a complete (unsharded) tensor."""
    return fingerprint_of(measure(tensor.reshape(-1), 0, tensor.numel()), tensor.dtype, tensor.shape)


def plain_name(name: str) -> str:
    """Name of a parameter without ``.base_layer``, which LoRA adds to it."""
    return _BASE_LAYER.sub("", name)


def read_fingerprints(facts: Mapping[str, Any]) -> dict[str, WeightFingerprint]:
    """Read the fingerprints from the index of a checkpoint or export; older ones have none."""
    return {name: WeightFingerprint(**entry) for name, entry in facts.get("fingerprints", {}).items()}


def is_same(one: WeightFingerprint, other: WeightFingerprint) -> bool:
    """Whether two fingerprints belong to the same weights, possibly in different dtypes.

    With the same dtype, sums may differ by the order of additions only. With different dtypes, values must be equal in
    the coarser one, and sums may differ by the rounding of every element.
    """
    if list(one.shape) != list(other.shape):
        return False
    eps = _coarseness(one, other)
    norm = math.sqrt(one.square_total) if one.square_total >= 0 else math.nan
    num_elements = math.prod(one.shape)
    # Rounding to a coarser dtype may shift all elements in one direction; the order of additions shifts at random.
    slack = norm * (_ROUNDING if eps is None else eps * math.sqrt(num_elements)) + abs(one.total) * _ROUNDING
    square_slack = one.square_total * (_ROUNDING + 4 * (eps or 0.0))
    return (
        _is_near(one.total, other.total, slack + _TINY)
        and _is_near(one.square_total, other.square_total, square_slack + _TINY)
        and _are_equal_values(one, other)
    )


def _sums(chunk: Tensor) -> Tensor:
    """Sum and sum of squares of float32 elements ``[n]``, float64 ``[2]``; blocks are summed first."""
    end = len(chunk) - len(chunk) % _BLOCK  # of the last complete block
    parts = [part for part in (chunk[:end].view(-1, _BLOCK), chunk[end:].view(1, -1)) if part.numel()]
    sums = [torch.stack([part.sum(dim=1), torch.linalg.vector_norm(part, dim=1).square()]) for part in parts]
    return torch.cat(sums, dim=1).double().sum(dim=1)


def _positions(num_elements: int) -> Iterator[int]:
    """Indices, in the flattened tensor, of the elements that a fingerprint contains."""
    count = min(NUM_VALUES, num_elements)
    return (number * (num_elements - 1) // max(1, count - 1) for number in range(count))


def _coarseness(one: WeightFingerprint, other: WeightFingerprint) -> float | None:
    """Relative rounding error between two dtypes; None where they are the same."""
    if one.dtype == other.dtype:
        return None
    dtypes = [getattr(torch, fingerprint.dtype) for fingerprint in (one, other)]
    return max(float(torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0 for dtype in dtypes)


def _are_equal_values(one: WeightFingerprint, other: WeightFingerprint) -> bool:
    dtypes = {getattr(torch, fingerprint.dtype) for fingerprint in (one, other)}
    first, second = (torch.tensor(fingerprint.values, dtype=torch.float64) for fingerprint in (one, other))
    if dtypes == {torch.float16, torch.bfloat16}:  # neither represents all values of the other: both were rounded
        return torch.allclose(first, second, rtol=2 * float(torch.finfo(torch.bfloat16).eps), atol=1e-6, equal_nan=True)
    coarse = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps if dtype.is_floating_point else 0.0)
    return torch.allclose(first.to(coarse).double(), second.to(coarse).double(), rtol=0.0, atol=0.0, equal_nan=True)


def _is_near(one: float, other: float, slack: float) -> bool:
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other) <= slack
    return one == other or (math.isnan(one) and math.isnan(other))
