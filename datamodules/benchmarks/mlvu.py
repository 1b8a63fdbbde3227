"""MLVU (Zhou et al., 2024): 2,175 questions of seven tasks about videos of three minutes to two hours.

The authors report the mean of the seven tasks' means. VLMEvalKit reports the share over all questions. Both are given.

Source: https://github.com/JUNJIE99/MLVU, ``evaluation/multiple_choice_evaluation`` (files and folders).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.benchmark import ScoredItem, mean_of_groups
from datamodules.benchmarks.item import BenchmarkItem, MediaPart, Problem, Prompt
from datamodules.benchmarks.question_files import FileRow, FileRows, read_file_rows
from datamodules.benchmarks.question_table import QuestionTable

TASKS = {
    "1_plotQA": "plotQA",
    "2_needle": "needle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}
"""Names of the tasks by the name of their file and of their folder of videos."""


class MLVU(QuestionTable):
    """Reads a folder with one JSON file a task, rows ``video, duration, question, candidates, answer, question_type``.

    A single file is read too. The answer is the text of an option.
    """

    expected_answer: Form = "text"
    prompt_name = "options by letter, told to attend to details"

    def question_rows(self, path: Path) -> FileRows:
        """The rows of all files, with ids, in the order of the tasks."""
        if not path.is_dir():
            return _with_ids(path)
        rows, problems = list[FileRow](), list[Problem]()
        for name in TASKS:
            if not (path / f"{name}.json").is_file():
                problems.append(Problem(f"{name}.json", f"it is not in {path}"))
                continue
            of_task = _with_ids(path / f"{name}.json")
            rows += of_task.rows
            problems += of_task.problems
        if not rows:
            raise ValueError(f"{path} has none of MLVU's files; give the folder with {', '.join(TASKS)} as .json")
        return FileRows(rows, problems)

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """The video, in the folder of its task."""
        task = _file_of(row)
        folder = f"{task}/" if task in TASKS else ""
        return tuple(part._replace(path=f"{folder}{part.path}") for part in super().parts(row, problems))

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """The task."""
        named = super().labels(row, answer, problems).get("type", "")
        of_file = TASKS.get(_file_of(row))
        return {"type": of_file or {"findNeedle": "needle"}.get(named, named) or "(none)"}

    def prompt(self, item: BenchmarkItem, frame_ms: Sequence[Sequence[int]]) -> Prompt:
        """The plain prompt, with a system text as the authors have one."""
        system = (
            "Watch the video closely. Attend to the order of events, to details, and to how people and objects move."
        )
        return super().prompt(item, frame_ms)._replace(system=system)

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The means of the tasks, their mean, and the mean over all questions; in percent."""
        if not scored:
            return {}
        mean, of_tasks = mean_of_groups(scored, "type")
        pooled = sum(each.score for each in scored) / len(scored)
        found = {f"{task}, %": 100 * value for task, value in sorted(of_tasks.items())}
        averages = {"M-Avg, mean of the tasks' means, %": 100 * mean, "M-Avg, over all questions, %": 100 * pooled}
        return {**found, **averages}


def _with_ids(path: Path) -> FileRows:
    found = read_file_rows(path)
    rows = [row._replace(key=f"{path.stem}_{number}") for number, row in enumerate(found.rows)]
    return FileRows(rows, [*found.problems])


def _file_of(row: FileRow) -> str:
    return row.where.split(",")[0].removesuffix(".json")
