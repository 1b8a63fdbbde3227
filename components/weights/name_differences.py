"""Says how the tensors of a checkpoint differ from those that a model has, with all layers of a tensor in one line."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from components.weights.conversion import Allowances, is_named

Shape = tuple[int | None, ...]
"""Shape of a tensor; None for a size that is not known."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Differences(NamedTuple):
    """Names of tensors, each with its shape."""

    missing: Mapping[str, Shape]
    unknown: Mapping[str, Shape]
    other_shapes: Mapping[str, tuple[Shape, Shape]]  # stored, expected

    def refuse(self, allowed: Allowances, hints: Sequence[str] = ()) -> None:
        """Raise if there is a difference that is not allowed.

        Args:
            allowed: Names that may be missing or unknown. Other shapes are never allowed.
            hints: Possible reasons, for the message.

        Raises:
            ValueError: There is one. The message lists all, so that nothing has to be tried twice.
        """
        missing = {name: shape for name, shape in self.missing.items() if not is_named(name, allowed.missing)}
        unknown = {name: shape for name, shape in self.unknown.items() if not is_named(name, allowed.unknown)}
        if not missing and not unknown and not self.other_shapes:
            return
        lines = [*hints, *_lines("missing", missing.items()), *_lines("unknown", unknown.items())]
        lines += [
            f"{name} has shape {shown(have)}, expected {shown(want)}"
            for name, (have, want) in self.other_shapes.items()
        ]
        raise ValueError(
            f"{len(missing)} missing tensors, {len(unknown)} unknown tensors, {len(self.other_shapes)} of another "
            "shape. Those that you do not need may be missing or unknown if you allow them by name (--allow-missing, "
            "--allow-unknown; * matches any text):\n  " + "\n  ".join(lines)
        )


def fits(shape: Shape, expected: Shape) -> bool:
    """Whether a shape is the expected one, as far as that is known."""
    return len(shape) == len(expected) and all(
        want is None or size == want for size, want in zip(shape, expected, strict=True)
    )


def shown(shape: Shape) -> str:
    """A shape as text, ``?`` where a size is not known."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _lines(problem: str, tensors: Iterable[tuple[str, Shape]]) -> list[str]:
    """One line for all tensors whose names differ in a number alone, such as that of a layer."""
    groups: dict[tuple[str, Shape], list[int]] = {}
    for name, shape in tensors:
        number = _NUMBER.search(name)
        before, after = (name[: number.start()], name[number.end() :]) if number else (name, "")
        key = (f"{before}{{}}{after}" if number else name, shape)
        groups.setdefault(key, []).append(int(number[0]) if number else 0)
    lines = []
    for (name, shape), numbers in groups.items():
        count = f" ({len(numbers)} tensors)" if len(numbers) > 1 else ""
        lines.append(f"{problem} tensor {name.replace('{}', _ranges(numbers))} {shown(shape)}{count}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as text, such as ``0-3, 7``; in braces if there are several."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text
