"""The field's other methods give the numbers of their authors' functions."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.parity.__main__ import describe
from benchmarks.parity.baselines.cases import METHODS, WITHOUT_PART, baseline_cases
from benchmarks.parity.baselines.recorded_case import RecordedCase, recorded_cases
from benchmarks.parity.comparison import CaseResult

FOLDER = Path(__file__).parent / "goldens" / "baselines"
RESULTS = {result.name: result for method in METHODS for result in baseline_cases(FOLDER, method)}


@pytest.mark.parametrize("name", RESULTS)
def test_our_parts_give_the_recorded_numbers(name: str) -> None:
    assert RESULTS[name].declined is None
    assert not RESULTS[name].failed, describe(RESULTS[name])


def test_every_method_has_a_recording() -> None:
    assert {name.split()[0] for name in RESULTS} == METHODS.keys()
    assert not METHODS.keys() & WITHOUT_PART.keys()


def other(value: Any) -> Any:
    """Recorded lists and numbers, each changed."""
    if isinstance(value, dict):
        return {key: other(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*value, -1]
    return value + 1 if isinstance(value, int | float) else value


@pytest.mark.parametrize("method", METHODS)
def test_other_numbers_are_noticed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(folder: Path, name: str) -> list[RecordedCase]:
        cases = list(recorded_cases(folder, name))
        return [
            case._replace(
                outputs={key: each + 1 for key, each in case.outputs.items()}, outputs_json=other(case.outputs_json)
            )
            for case in cases
            if case.outputs or case.outputs_json
        ]

    monkeypatch.setattr("benchmarks.parity.baselines.cases.recorded_cases", changed)
    results: list[CaseResult] = list(baseline_cases(FOLDER, method))
    assert results
    assert all(result.failed for result in results)
