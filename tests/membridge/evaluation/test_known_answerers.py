"""The report on answerers whose scores are known, for every benchmark and every scorer."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from components.model import VideoLanguageModel
from datamodules.benchmarks.benchmark_config import benchmark_names, load_benchmark
from datamodules.benchmarks.item import LETTERS, BenchmarkItem
from membridge.evaluation.asked_item import AskedItem
from membridge.evaluation.benchmark_report import build_report
from membridge.evaluation.benchmark_run import BenchmarkRun
from tests.datamodules.benchmarks.other_question_writers import ALL_WRITERS

Answerer = Callable[[BenchmarkItem], int]  # index of the option that it chooses
CHOICES = {"likelihood", "generated (strict)", "generated (lenient)"}


def always_first(item: BenchmarkItem) -> int:
    return 0


def oracle(item: BenchmarkItem) -> int:
    return 0 if item.answer is None else item.answer


def at_random(item: BenchmarkItem) -> int:
    return zlib.crc32(item.id.encode()) % max(1, len(item.options))


class KnownAnswers(BenchmarkRun):
    """Answers without a model: by the option's letter, or with the reference where the oracle answers freely."""

    answerer: Answerer = staticmethod(always_first)

    def ask_group(self, model: VideoLanguageModel, items: Sequence[BenchmarkItem]) -> list[AskedItem]:
        return [self.known(item) for item in items]

    def known(self, item: BenchmarkItem) -> AskedItem:
        if not item.options:
            return AskedItem(item.reference if self.answerer is oracle else "A")
        chosen = self.answerer(item)
        likelihoods = tuple(-1.0 if index == chosen else -2.0 for index in range(len(item.options)))
        return AskedItem(LETTERS[chosen], likelihoods)


def run_of(name: str, root: Path, answerer: Answerer) -> KnownAnswers:
    ALL_WRITERS[name](root)
    benchmark = load_benchmark(name)
    run = KnownAnswers(benchmark, benchmark.read(root).items, root, root / "out", {"answers": "known"}, timed="clip")
    run.answerer = answerer
    return run


def test_every_benchmark_has_a_writer() -> None:
    assert set(ALL_WRITERS) == set(benchmark_names())


@pytest.mark.parametrize("answerer", [always_first, oracle, at_random])
@pytest.mark.parametrize("name", benchmark_names())
def test_the_numbers_of_the_report_are_those_of_a_count_by_hand(
    name: str, answerer: Answerer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(name, tmp_path, answerer)
    run.answer(None)  # type: ignore[arg-type]
    report = build_report(run.benchmark, run.items, run.answers(), {})
    assert report["without_answer"] == []
    closed = [item for item in run.items if item.options and item.answer is not None]
    free = [item for item in run.items if not item.options and item.reference]
    if closed:
        right = sum(answerer(item) == item.answer for item in closed)
        for scorer in CHOICES:
            overall = report["scores"][scorer]["overall"]
            assert (overall["value"], overall["questions"]) == (right / len(closed), len(closed))
            assert overall["unparsed"] == 0
        for label, values in report["scores"]["likelihood"]["by_label"].items():
            for value, entry in values.items():
                some = [item for item in closed if item.labels.get(label) == value]
                assert entry["questions"] == len(some)
                assert entry["value"] == sum(answerer(item) == item.answer for item in some) / len(some)
    if free:
        expected = 1.0 if answerer is oracle else 0.0
        for scorer in ("exact match", "token F1"):
            assert report["scores"][scorer]["overall"]["value"] == expected
    assert set(report["scores"]) == (CHOICES if closed else set()) | ({"exact match", "token F1"} if free else set())


@pytest.mark.parametrize("name", benchmark_names())
def test_every_official_score_of_the_oracle_is_full(name: str, tmp_path: Path) -> None:
    run = run_of(name, tmp_path, oracle)
    run.answer(None)  # type: ignore[arg-type]
    report = build_report(run.benchmark, run.items, run.answers(), {})
    for of_scorer in report["scores"].values():
        for official, value in of_scorer["official"].items():
            assert value == pytest.approx(100 if official.endswith("%") else 1), official
