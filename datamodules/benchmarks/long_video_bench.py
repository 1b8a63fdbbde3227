"""LongVideoBench (Wu et al., 2024): questions that refer to a moment of a video of up to an hour, with its subtitles.

The validation set has 1,337 questions. Three forms are read, which are different results: without subtitles, with the
subtitles as text, and interleaved, where the video is cut and each subtitle follows the part in which it is spoken.

Source: https://github.com/longvideobench/LongVideoBench, ``longvideobench_dataset.py`` (the subtitle's middle, and the
time at which the video begins in them).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from datamodules.benchmarks.benchmark import ANSWER_WITH_LETTER
from datamodules.benchmarks.item import LETTERS, BenchmarkFiles, BenchmarkItem, MediaPart, Problem, Prompt
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import QuestionTable
from datamodules.benchmarks.row_texts import name_of, seconds_of, text_of
from datamodules.benchmarks.subtitles import Subtitle, read_subtitles, shown_at

_MARK = "<video>"


class LongVideoBench(QuestionTable):
    """Reads LongVideoBench.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        subtitles: Folder of the subtitles; from the benchmark's folder on.
        form: ``plain`` shows no subtitles, ``text`` those of the frames that the model saw, ``interleaved`` all of them
            between parts of the video.
        most_parts: Most parts of a video that is interleaved; subtitles of one part come together.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the set; another number is a problem.
    """

    def __init__(
        self,
        questions: str = "lvb_val.json",
        subtitles: str = "subtitles",
        form: Literal["plain", "text", "interleaved"] = "plain",
        most_parts: int = 16,
        videos: str = "videos",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
        published_items: int | None = None,
    ) -> None:
        super().__init__(questions, None, videos, folder, chosen_by, most_items, published_items)
        self.subtitles = subtitles
        self.form = form
        self.most_parts = most_parts
        self.prompt_name = (
            "options by letter"
            + {
                "plain": ", without subtitles",
                "text": ", subtitles before them",
                "interleaved": f", subtitles between at most {most_parts} parts of the video",
            }[form]
        )
        self._root = Path()
        self._lines: dict[str, list[Subtitle]] = {}

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions; see ``Benchmark``. A question whose subtitles are missing is asked without them."""
        self._root, self._lines = root, {}
        return super().read(root)

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """The video; or its parts, each of which ends where its subtitles do."""
        name = name_of(row, ("video_path", "video", "video_id"), problems)
        if name is None:
            return ()
        lines = self._subtitles_of(row, name, problems)
        duration = seconds_of(row, ("duration",))
        if self.form != "interleaved" or not lines or duration is None:
            return (MediaPart(name),)
        ends = _ends_of_parts(lines, round(1000 * duration), self.most_parts)
        return tuple(MediaPart(name, start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """Group of lengths, type of question, topic."""
        names = {"length": "duration_group", "type": "question_category", "topic": "topic_category"}
        found = {label: str(row.values.get(field) or "") for label, field in names.items()}
        return {label: value for label, value in found.items() if value}

    def prompt(self, item: BenchmarkItem, frame_ms: Sequence[Sequence[int]]) -> Prompt:
        """The question, with subtitles before it or between the parts of the video."""
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False))
        question = f"Question: {item.question}\n{listed}\n{ANSWER_WITH_LETTER}"
        choices = tuple(LETTERS[: len(item.options)])
        if self.chosen_by == "text":
            question, choices = f"Question: {item.question}", item.options
        lines = self._lines.get(item.media[0].path, [])
        if self.form == "text" and lines and frame_ms:
            spoken = "\n".join(line.text for line in shown_at(lines, frame_ms[0]))
            return Prompt(f"Subtitles of the video:\n{spoken or 'none'}\n\n{question}", choices)
        if len(item.media) > 1:
            shown = "".join(f"{_MARK}\n{_spoken(lines, part)}" for part in item.media)
            return Prompt(f"{shown}{question}", choices)
        return Prompt(question, choices)

    def _subtitles_of(self, row: FileRow, name: str, problems: list[Problem]) -> list[Subtitle]:
        if self.form == "plain":
            return []
        if name not in self._lines:
            file = text_of(row, ("subtitle_path",)) or f"{Path(name).stem}_en.json"
            first = seconds_of(row, ("starting_timestamp_for_subtitles",)) or 0.0
            try:
                self._lines[name] = read_subtitles(self._root / self.subtitles / file, first)
            except (FileNotFoundError, ValueError) as error:
                problems.append(Problem(row.where, f"{error}; the question is asked without subtitles"))
                self._lines[name] = []
        return self._lines[name]


def _ends_of_parts(lines: Sequence[Subtitle], duration_ms: int, most: int) -> list[int]:
    """Ends of the parts: at the middle of subtitles, at most so many, the last one at the end of the video."""
    if most < 2:
        return [duration_ms]
    middles = sorted({min(line.middle_ms, duration_ms) for line in lines if line.middle_ms > 0})
    every = max(1, -(-len(middles) // (most - 1)))
    chosen = [middle for middle in middles[every - 1 :: every] if middle < duration_ms]
    return [*chosen, duration_ms]


def _spoken(lines: Sequence[Subtitle], part: MediaPart) -> str:
    start, end = part.start_ms or 0, part.end_ms or 0
    found = [line.text for line in lines if (start < line.middle_ms or start == 0) and line.middle_ms <= end]
    return "".join(f"{text}\n" for text in found)
