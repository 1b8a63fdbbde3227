"""EgoSchema (Mangalam et al., 2023): five options about egocentric videos of three minutes.

Source: the authors' ``questions.json`` (5,031 questions) and ``subset_answers.json`` (500 of the answers are public).
"""

from collections.abc import Mapping
from typing import Literal

from datamodules.benchmarks.item import BenchmarkItem, Problem
from datamodules.benchmarks.question_table import QuestionTable

VIDEO_S = 180.0
"""Length of every video, in seconds."""


class EgoSchema(QuestionTable):
    """Reads EgoSchema.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        answers: File with the answers of the subset, ``{q_uid: index}``; None: no answers.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the set; another number is a problem.
        subset: Read only the questions whose answers are public.
    """

    def __init__(
        self,
        questions: str = "questions.json",
        answers: str | None = "subset_answers.json",
        videos: str = "videos",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
        published_items: int | None = None,
        subset: bool = False,
    ) -> None:
        super().__init__(
            questions, answers, videos, folder, chosen_by, most_items, published_items, are_answers_public=False
        )
        self.subset = subset

    def select(self, items: list[BenchmarkItem], problems: list[Problem]) -> list[BenchmarkItem]:
        """The subset, or all; every video has the same length."""
        return [
            item._replace(duration_s=item.duration_s or VIDEO_S)
            for item in items
            if item.answer is not None or not self.subset
        ]

    def submission(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """``{q_uid: index}``, which the server takes."""
        return dict(chosen)
