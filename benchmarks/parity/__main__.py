"""Compares our parts with recordings of the original code, case by case.

    python -m benchmarks.parity --goldens DIR

DIR has JSON files that list the cases, and safetensors files with inputs, original weights and outputs: of VideoLLaMB
(``bridge.json`` and others), of Memory-Augmented VLM (``meta.json`` and ``segments.json``), or of the field's other
methods (a file for each, such as ``longvlm.json``). An output with a name
like ``hidden.0_every8th`` has the first of every eight tokens. What a recording does not have is not compared. For
every case the largest error, the tolerance and how many recorded numbers were compared are printed. Cases that the
original does not handle properly (several videos joined into one), and parts of it that nothing uses, are declined,
with the reason. Exits with 1 if a case is above its tolerance, raises an error, or is unknown.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.parity.baselines.cases import METHODS, WITHOUT_PART, baseline_cases
from benchmarks.parity.bridge import bridge_cases
from benchmarks.parity.bridge_gradients import gradient_cases
from benchmarks.parity.comparison import CaseResult, Check
from benchmarks.parity.languagebind import languagebind_cases
from benchmarks.parity.memory_ov.cases import memory_ov_cases
from benchmarks.parity.memory_ov.recorded_segments import segment_cases
from benchmarks.parity.projectors import projector_cases
from benchmarks.parity.scene_tilling import scene_tilling_cases
from command_errors import run_and_exit

_Sections = dict[str, tuple[Callable[[Path], Iterator[CaseResult]], ...]]
_OF_VIDEOLLAMB: _Sections = {
    "scene_tiling.json": (scene_tilling_cases,),
    "bridge.json": (bridge_cases, gradient_cases),
    "languagebind.json": (languagebind_cases,),
    "other_projectors.json": (projector_cases,),
}
_OF_MEMORY_AUGMENTED_VLM: _Sections = {
    "meta.json": (memory_ov_cases,),
    "segments.json": (segment_cases,),
}
_OF_OTHER_METHODS: _Sections = {
    f"{method}.json": (partial(baseline_cases, method=method),) for method in sorted({*METHODS, *WITHOUT_PART})
}
_SECTIONS = _OF_VIDEOLLAMB | _OF_MEMORY_AUGMENTED_VLM | _OF_OTHER_METHODS


def compare_folder(folder: Path) -> Iterator[CaseResult]:
    """Run every case of a folder of recordings.

    Args:
        folder: The folder; unknown JSON files in it are declined.

    Raises:
        FileNotFoundError: The folder has no recordings.
    """
    found = sorted(path.name for path in folder.glob("*.json"))
    if not found:
        raise FileNotFoundError(f"no recordings in {folder}: expected some of {', '.join(_SECTIONS)}")
    for name, sections in _SECTIONS.items():
        if name in found:
            for cases in sections:
                yield from cases(folder)
    for name in found:
        if name not in _SECTIONS:
            yield CaseResult(name, (), declined="no section of this program reads it")


def absent_files(folder: Path) -> list[str]:
    """JSON files that a folder lacks of the systems of which it has another one."""
    absent = []
    for system in (_OF_VIDEOLLAMB, _OF_MEMORY_AUGMENTED_VLM):
        missing = [name for name in system if not (folder / name).is_file()]
        absent += missing if len(missing) < len(system) else []
    return absent


def describe(result: CaseResult) -> str:
    """One line of the table."""
    if result.declined is not None:
        return f"declined  {result.name}: {result.declined}"
    if result.broken is not None:
        return f"FAILED    {result.name}: {result.broken}"
    if not result.checks:
        return f"FAILED    {result.name}: nothing was compared"
    worst = max(result.checks, key=_severity)
    verdict = "FAILED  " if result.failed else "ok      "
    return (
        f"{verdict}  {result.name}: {worst.error:.2e} of {worst.tolerance:.1e} in {worst.what} "
        f"({len(result.checks)} comparisons of {result.values:,} values)"
    )


def _severity(check: Check) -> float:
    if check.tolerance == 0.0:
        return float("inf") if check.error else 0.0
    return check.error / check.tolerance


def main(arguments: list[str] | None = None) -> int:
    """Print one line a case; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--goldens", type=Path, required=True, metavar="DIR", help="folder of recordings")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the recordings were made with one")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    results = []
    try:
        for result in compare_folder(given.goldens):
            print(describe(result), flush=True)
            results.append(result)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    absent = absent_files(given.goldens)
    if absent:
        print(f"nothing was compared of {', '.join(absent)}: {given.goldens} does not have them")
    print(f"{sum(result.values for result in results):,} recorded values were compared")
    declined = sum(result.declined is not None for result in results)
    failed = sum(result.failed for result in results)
    print(f"{len(results) - declined - failed} within tolerance, {failed} failed, {declined} declined")
    return 1 if failed else 0


if __name__ == "__main__":
    run_and_exit(main)
