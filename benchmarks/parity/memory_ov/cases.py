"""Finds the recordings that ``meta.json`` describes, and compares what there is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.parity.comparison import CaseResult
from benchmarks.parity.memory_ov.frame_positions import frame_position_cases
from benchmarks.parity.memory_ov.fuser_and_types import fuser_cases
from benchmarks.parity.memory_ov.recorded_pooling import pooling_cases
from benchmarks.parity.memory_ov.recurrence import recurrence_cases
from benchmarks.parity.memory_ov.visual_path import visual_path_cases

_DESCRIBED: dict[str, tuple[str, Callable[..., Iterator[CaseResult]]]] = {
    "memory": ("memory_inputs.safetensors", recurrence_cases),
    "temporal_encoding": ("temporal_encoding.safetensors", frame_position_cases),
    "assembly": ("assembly.safetensors", visual_path_cases),
}
_SELF_EXPLAINING: dict[str, Callable[[Path], Iterator[CaseResult]]] = {
    "fuser.safetensors": fuser_cases,
    "pool.safetensors": pooling_cases,
}


def memory_ov_cases(folder: Path) -> Iterator[CaseResult]:
    """Run the cases of a folder with recordings of the Memory-Augmented VLM code; files may be missing."""
    meta = json.loads((folder / "meta.json").read_text())
    for section, (file, cases) in _DESCRIBED.items():
        if not (folder / file).is_file():
            yield CaseResult(section, (), declined=f"the folder has no {file}")
        elif section not in meta:
            yield CaseResult(file, (), broken=f"meta.json has no {section}, which describes it")
        else:
            yield from cases(folder, meta[section])
    for file, read in _SELF_EXPLAINING.items():
        if (folder / file).is_file():
            yield from read(folder)
        else:
            yield CaseResult(file.partition(".")[0], (), declined=f"the folder has no {file}")
