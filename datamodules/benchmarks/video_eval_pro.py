"""VideoEval-Pro: questions about long videos, each with options and with a short answer."""

from typing import Literal

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.item import BenchmarkItem, Problem
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import QuestionTable
from datamodules.benchmarks.row_texts import text_of


class VideoEvalPro(QuestionTable):
    """VideoEval-Pro (Ma et al., 2025): long videos, each question with options and with a short answer.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        is_open: Ask for a free answer. The authors let a language model grade it; here it is scored by its words.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.

    Source: https://huggingface.co/datasets/TIGER-Lab/VideoEval-Pro (fields).
    """

    expected_answer: Form = "letter"

    def __init__(
        self,
        questions: str = "test.json",
        videos: str = "videos",
        folder: str = "",
        is_open: bool = False,
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
    ) -> None:
        super().__init__(questions, None, videos, folder, chosen_by, most_items)
        self.is_open = is_open
        self.prompt_name = "the question alone, free answer" if is_open else "options by letter"

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """The type of question."""
        category = text_of(row, ("qa_type", "qa_subtype"))
        return {"type": category} if category else {}

    def select(self, items: list[BenchmarkItem], problems: list[Problem]) -> list[BenchmarkItem]:
        """The questions, without options where the answer is free."""
        return [item._replace(options=(), answer=None) for item in items] if self.is_open else items
