"""Which rows of an annotation file a mixture takes.

Source: the mixture YAML of LLaVA-NeXT. As there, a percentage is rounded up and a number beyond the file's end takes
all rows. Unlike there, ``random`` has a seed of its own and keeps the file's order: every run takes the same rows.
"""

import math
import random
from collections.abc import Container
from fractions import Fraction
from typing import NamedTuple

from datamodules.convert.row_problems import ConversionError


class Sampling(NamedTuple):
    """Which rows to take."""

    kind: str = "all"  # all, first, end or random
    amount: Fraction = Fraction(0)  # rows, or per cent of them
    is_percent: bool = False
    seed: str = ""  # of random

    @property
    def needs_count(self) -> bool:
        """Whether the number of the file's rows must be known first."""
        return self.kind in ("end", "random") or self.is_percent

    def choose(self, num_rows: int | None) -> Container[int]:
        """Choose the rows to take.

        Args:
            num_rows: Rows of the file; may be None where ``needs_count`` is False.

        Returns:
            The chosen rows' numbers, counted from 0. Where it is a ``range``, no row from its ``stop`` on is wanted.
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
    """So many rows of a file, every choice equally likely; one byte a row."""

    def __init__(self, num_rows: int, count: int, seed: str) -> None:
        generator = random.Random(seed)
        self._taken = bytearray(num_rows)
        for row in range(num_rows):
            # The rows still to take over the rows still to come.
            if generator.random() * (num_rows - row) < count:
                self._taken[row] = 1
                count -= 1

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and bool(self._taken[row])


def parse_sampling(text: object, seed: str) -> Sampling:
    """Read ``all``, ``first:N``, ``end:N`` or ``random:N``, N a number or a percentage such as ``12.5%``.

    Raises:
        ConversionError: It is none of these.
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
