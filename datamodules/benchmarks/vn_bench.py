"""VNBench: needles in videos, with every question asked several times."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.item import BenchmarkItem, Problem
from datamodules.benchmarks.question_files import FileRows
from datamodules.benchmarks.question_table import QuestionTable


class VNBench(QuestionTable):
    """VNBench (Zhao et al., 2024): retrieval, order and counting of needles that were put into videos.

    Every question is asked with its options in several orders, and is right only if it is right in all of them.

    Source: https://github.com/joez17/VideoNIAH, ``VNBench-main-4try.json`` (fields and rule).
    """

    expected_answer: Form = "text"

    def question_rows(self, path: Path) -> FileRows:
        """The rows, each with an id of its own."""
        found = super().question_rows(path)
        rows = [row._replace(key=f"row {number}") for number, row in enumerate(found.rows, start=1)]
        return FileRows(rows, found.problems)

    def select(self, items: list[BenchmarkItem], problems: list[Problem]) -> list[BenchmarkItem]:
        """The items, those of one question in one group."""
        return [item._replace(group=f"{item.media[0].path} {item.question}") for item in items]

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """Share of the questions that are right in all orders, overall and by type."""
        groups: dict[str, list[ScoredItem]] = {}
        for each in scored:
            groups.setdefault(each.item.group, []).append(each)
        right: dict[str, list[float]] = {"right in all orders": []} if groups else {}
        for group in groups.values():
            all_right = float(all(each.score == 1 for each in group))
            right["right in all orders"].append(all_right)
            category = group[0].item.labels.get("type", "").split("_")[0]
            if category:
                right.setdefault(f"right in all orders, {category}", []).append(all_right)
        return {name: sum(values) / len(values) for name, values in right.items()}
