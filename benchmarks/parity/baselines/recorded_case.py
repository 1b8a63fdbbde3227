"""A recorded call of a method's original function, as it is stored."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import Check, largest_error

TOLERANCE = 1e-5
"""Largest absolute error of a number; discrete results must be equal."""

_WHOLE_NUMBERS = "_int8"  # name of an input that is stored as whole numbers of 1/32


class RecordedCase(NamedTuple):
    """One call of an original function."""

    name: str  # of the method and of the case
    options: dict[str, Any]
    inputs: dict[str, Tensor]
    inputs_json: dict[str, Any]  # lists and numbers
    outputs: dict[str, Tensor]
    outputs_json: Any
    raises: str | None  # what the original raised; None if it gave a result
    compare: str  # what may be compared, such as "values"
    seed: int = 0  # of the random numbers that the original drew

    def output_check(self, output: str, ours: Tensor) -> Check:
        """Compare one recorded tensor."""
        theirs = self.outputs[output]
        if not theirs.is_floating_point():
            return Check(output, 0.0 if torch.equal(ours.to(theirs.dtype), theirs) else 1.0, 0.0, theirs.numel())
        return Check(output, largest_error(ours, theirs), TOLERANCE, theirs.numel())


def recorded_cases(folder: Path, method: str) -> Iterator[RecordedCase]:
    """The cases of one method.

    Args:
        folder: Folder of recordings: for each method a JSON file and a safetensors file.
        method: Name of the files.
    """
    recorded = json.loads((folder / f"{method}.json").read_text(encoding="utf-8"))
    path = folder / f"{method}.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    for name, case in recorded["cases"].items():
        yield RecordedCase(
            name=f"{method} {name}",
            options=case.get("options", {}),
            inputs={_plain_name(key): _values(key, each) for key, each in _of(tensors, f"{name}.in.").items()},
            inputs_json=case.get("inputs_json", {}),
            outputs=_of(tensors, f"{name}.out."),
            outputs_json=case.get("out_json"),
            raises=case.get("raises_text", case["raises"]) if case.get("raises") else None,
            compare=case["compare"],
            seed=case.get("seed", 0),
        )


def _of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _plain_name(name: str) -> str:
    return name.removesuffix(_WHOLE_NUMBERS)


def _values(name: str, stored: Tensor) -> Tensor:
    return stored.float() / 32 if name.endswith(_WHOLE_NUMBERS) else stored
