"""Measures time and memory of a device."""

import gc
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

Result = TypeVar("Result")


class Found(NamedTuple):
    """The largest size that fits."""

    size: int
    is_most: bool  # no larger one was to be tried


def now(device: torch.device) -> float:
    """Wall time in seconds, after the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def unless_out_of_memory(work: Callable[[], Result]) -> Result | None:
    """Do the work; None if the device has too little memory. Unused memory is freed first."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    try:
        return work()
    except torch.OutOfMemoryError:
        return None


def largest_that_fits(
    attempt: Callable[[int], Result | None], first: int, most: int, grain: int = 1
) -> tuple[Found, Result] | None:
    """Find the largest size that fits, by doubling and then by bisection.

    Args:
        attempt: Tries a size; returns None if it does not fit. If a size fits, every smaller one must fit.
        first: The first size to try.
        most: The largest one to try.
        grain: Precision: a size that is larger by ``grain`` does not fit.

    Returns:
        The size and the result of its attempt; None if not even ``grain`` fits.

    Raises:
        ValueError: ``grain`` or ``first`` is not positive, or ``first`` is above ``most``.
    """
    if grain < 1 or not 0 < first <= most:
        raise ValueError(
            f"grain must be at least 1 and first in 1..most, got grain {grain}, first {first}, most {most}"
        )
    size, fitting, too_large = first, 0, most + 1
    best: tuple[Found, Result] | None = None
    while size > fitting:
        result = attempt(size)
        if result is None:
            too_large = size
        else:
            best, fitting = (Found(size, size == most), result), size
        if too_large > most:
            size = min(2 * fitting, most)
        elif too_large - fitting > grain:
            size = fitting + max(grain, (too_large - fitting) // 2 // grain * grain)
        else:
            break
    return best
