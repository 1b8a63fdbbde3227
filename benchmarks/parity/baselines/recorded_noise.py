"""Recorded random numbers that published code adds to densities."""

import re

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase


class RecordedNoise:
    """Gives the recorded numbers in the order of the calls, each once.

    Args:
        case: A case whose outputs have ``noise.0``, ``noise.1``, and so on.
    """

    def __init__(self, case: RecordedCase) -> None:
        numbers = [int(name.removeprefix("noise.")) for name in case.outputs if re.fullmatch(r"noise\.\d+", name)]
        drawn = [case.outputs[f"noise.{number}"].flatten() for number in sorted(numbers)]
        self._left = torch.cat(drawn) if drawn else torch.zeros(0)

    def __call__(self, mask: Tensor) -> Tensor:
        """The next numbers at the real entries of a mask, row by row; zeros elsewhere."""
        count = int(mask.sum())
        if count > len(self._left):
            raise ValueError(f"{count} random numbers are needed, but {len(self._left)} of the recording are left")
        given, self._left = self._left[:count], self._left[count:]
        return torch.zeros(mask.shape).masked_scatter(mask, given)

    @property
    def num_left(self) -> int:
        """Recorded numbers that were not needed yet."""
        return len(self._left)
