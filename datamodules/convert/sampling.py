"""Chooses which rows of an annotation file a mixture uses.

Source: the mixture YAML of LLaVA-NeXT. As there, a percentage is rounded up, and a number larger than the file means
all rows. Unlike there, ``random`` has its own seed and keeps the order of the file, so every run uses the same rows.
"""

import math
import random
from collections.abc import Container
from fractions import Fraction
from typing import NamedTuple

from datamodules.convert.row_problems import ConversionError


class Sampling(NamedTuple):
    """A rule that chooses rows."""

    kind: str = "all"  # all, first, end or random
    amount: Fraction = Fraction(0)  # number of rows, or per cent of them
    is_percent: bool = False
    seed: str = ""  # of random

    @property
    def needs_count(self) -> bool:
        """Whether the number of the file's rows must be known first."""
        return self.kind in ("end", "random") or self.is_percent

    def choose(self, num_rows: int | None) -> Container[int]:
        """Choose rows.

        Args:
            num_rows: Rows of the file; may be None where ``needs_count`` is False.

        Returns:
            The chosen rows' numbers, counted from 0. If it is a ``range``, rows from its ``stop`` need not be read.
        """
        if self.kind == "all":
            return range(1 << 62)
        if num_rows is None:
            return range(int(self.amount))
        count = min(num_rows, math.ceil(self.amount * num_rows / 100) if self.is_percent else int(self.amount))
        if self.kind == "first":
            return range(count)
        if self.kind == "end":
            return range(num_rows - count, num_rows)
        return _RandomRows(num_rows, count, self.seed)


class _RandomRows(Container[int]):
    """A uniformly random choice of ``count`` rows; uses one byte per row."""

    def __init__(self, num_rows: int, count: int, seed: str) -> None:
        generator = random.Random(seed)
        self._is_chosen = bytearray(num_rows)
        for row in range(num_rows):
            # Probability: rows that are still to be chosen / rows that are still to come.
            if generator.random() * (num_rows - row) < count:
                self._is_chosen[row] = 1
                count -= 1

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and bool(self._is_chosen[row])


def parse_sampling(text: object, seed: str) -> Sampling:
    """Read ``all``, ``first:N``, ``end:N`` or ``random:N``, N a number or a percentage such as ``12.5%``.

    Raises:
        ConversionError: It has another form.
    """
    kind, _, number = str(text).partition(":")
    if kind == "all" and not number:
        return Sampling()
    is_percent = number.endswith("%")
    try:
        amount = Fraction(number.removesuffix("%"))
    except (ValueError, ZeroDivisionError):
        amount = Fraction(0)
    whole = is_percent or amount.denominator == 1
    if kind not in ("first", "end", "random") or amount <= 0 or not whole or (is_percent and amount > 100):
        raise ConversionError(
            f"sampling_strategy {str(text)!r} is unknown; expected all, first:N, end:N or random:N with N a positive "
            "number of rows or a percentage such as 25%"
        )
    return Sampling(kind, amount, is_percent, seed)
