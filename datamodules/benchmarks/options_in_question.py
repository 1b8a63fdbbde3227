"""LVBench and TimeScope: questions whose options may stand in the text of the question."""

import re
from pathlib import Path
from typing import Any

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.item import Problem
from datamodules.benchmarks.option_texts import OPTION_FIELDS
from datamodules.benchmarks.question_files import FileRow, FileRows
from datamodules.benchmarks.question_table import QuestionTable

_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.+?)\s*$")


class OptionsInQuestion(QuestionTable):
    """Questions whose options stand on lines of their own in the question, such as ``(A) red``: LVBench, TimeScope.

    Options in a field of their own are read as everywhere. The answer is a letter.

    Source: https://huggingface.co/datasets/lmms-lab/LVBench, https://huggingface.co/datasets/Apollo-LMMs/TimeScope.
    """

    expected_answer: Form = "letter"

    def question_rows(self, path: Path) -> FileRows:
        """The rows, with the options in a field of their own."""
        found = super().question_rows(path)
        return FileRows([row._replace(values=_split(row.values)) for row in found.rows], found.problems)

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """The type, and the length of the video where the row names it."""
        found = super().labels(row, answer, problems)
        length = row.values.get("length")
        return found if length in (None, "") else {**found, "length": str(length)}


def _split(values: dict[str, Any]) -> dict[str, Any]:
    """A row whose options are not in its question."""
    text = values.get("question") or values.get("input")
    if not isinstance(text, str) or any(values.get(name) for name in OPTION_FIELDS):
        return values
    lines = text.split("\n")
    options = [match for line in lines if (match := _OPTION_LINE.match(line))]
    others = [line for line in lines if not _OPTION_LINE.match(line)]
    question = "\n".join(others).strip()
    return {**values, "question": question, "options": [match[2] for match in options]}
