"""Video-MME (Fu et al., 2024): 2,700 questions about 900 short, medium and long videos, with or without subtitles.

The two are different results. The authors leave answers that cannot be parsed out of the denominator; here they are
wrong, and the official number is given beside it.

Source: https://github.com/MME-Benchmarks/Video-MME, ``evaluation/eval_your_results.py``; lmms-eval 0.7.3 (fields).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.benchmark import ScoredItem, share_of_parsed
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart, Problem, Prompt
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import QuestionTable
from datamodules.benchmarks.row_texts import name_of, text_of
from datamodules.benchmarks.subtitles import read_subtitles, shown_at


class VideoMME(QuestionTable):
    """Reads Video-MME.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        subtitles: Folder of the subtitles, ``ID.srt``; from the benchmark's folder on. None: without subtitles.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the set; another number is a problem.
    """

    expected_answer: Form = "letter"

    def __init__(
        self,
        questions: str = "videomme.json",
        subtitles: str | None = None,
        videos: str = "data",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
        published_items: int | None = None,
    ) -> None:
        super().__init__(questions, None, videos, folder, chosen_by, most_items, published_items)
        self.subtitles = subtitles
        self.prompt_name = "options by letter" + ("" if subtitles is None else ", subtitles before them")
        self._root = Path()

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions; see ``Benchmark``. A video without subtitles is no problem: some have none."""
        self._root = root
        items, problems = super().read(root)
        if self.subtitles is not None and not (root / self.subtitles).is_dir():
            problems = [*problems, Problem(self.subtitles, "this folder of subtitles is not there")]
        return BenchmarkFiles(items, problems)

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """The video by its YouTube id, which is also the name of its subtitles."""
        name = name_of(row, ("videoID", "video_name", "video", "video_id"), problems)
        return () if name is None else (MediaPart(name),)

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """Length class, domain and type of task."""
        names = {"length": "duration", "domain": "domain", "part of domain": "sub_category", "type": "task_type"}
        found = {label: text_of(row, (field,)) for label, field in names.items()}
        return {label: value for label, value in found.items() if value}

    def prompt(self, item: BenchmarkItem, frame_ms: Sequence[Sequence[int]]) -> Prompt:
        """The question, after the subtitles that are shown with one of the frames that the model saw."""
        plain = super().prompt(item, frame_ms)
        if self.subtitles is None or not frame_ms:
            return plain
        path = self._root / self.subtitles / f"{item.media[0].path}.srt"
        lines = shown_at(read_subtitles(path), frame_ms[0]) if path.is_file() else []
        spoken = "\n".join(line.text for line in lines) or "none"
        return plain._replace(text=f"Subtitles of the video:\n{spoken}\n\n{plain.text}")

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The authors' number: answers that cannot be parsed are left out; in percent."""
        share = share_of_parsed(scored)
        return {} if share is None else {"official, unparsed left out, %": 100 * share}
