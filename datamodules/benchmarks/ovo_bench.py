"""OVO-Bench (Li et al., 2025): questions about what happened before, happens now, or will happen, while a video plays.

Backward and real-time questions have options and one time. Forward ones are asked at several times: how often something
was done so far (REC), whether a step is being done (SSR), whether the video has shown enough to answer (CRR). The
authors report the mean of the tasks' means for each of the three groups, and the mean of the groups.

Source: https://github.com/JoeLeelyf/OVO-Bench, ``data`` (fields), ``utils/OVOBenchScore.py`` (rules).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.benchmarks.answer_values import read_answers
from datamodules.benchmarks.benchmark import Benchmark, ScoredItem, mean_of_groups
from datamodules.benchmarks.clock_times import to_seconds
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.option_texts import read_options
from datamodules.benchmarks.question_files import FileRow, read_file_rows

GROUPS = {
    **dict.fromkeys(("EPM", "ASI", "HLD"), "backward"),
    **dict.fromkeys(("OCR", "ACR", "ATR", "STU", "FPD", "OJR"), "real-time"),
    **dict.fromkeys(("REC", "SSR", "CRR"), "forward"),
}
"""Group of every task."""

_NO_YES = ("No", "Yes")


class OVOBench(Benchmark):
    """Reads ``ovo_bench_new.json``: rows ``id, task, video, realtime, question, options, gt``, or ``test_info``."""

    published_items = 631 + 837 + 1567
    prompt_name = "options by letter; yes or no; a number"

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions; see ``Benchmark``."""
        found = read_file_rows(root / self.questions)
        problems = list(found.problems)
        items: list[BenchmarkItem] = []
        for number, row in enumerate(found.rows):
            try:
                items += self._of_row(row, str(row.values.get("id", number)))
            except ValueError as error:
                problems.append(Problem(row.where, f"{error}; it is left out"))
        return BenchmarkFiles(items, problems + self.count_problems(items, Path(self.questions).name))

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The means of the tasks of every group, and of the groups. Some scorers apply to some tasks only."""
        found: dict[str, float] = {}
        for group in dict.fromkeys(GROUPS.values()):
            of_group = [each for each in scored if each.item.labels["group"] == group]
            if of_group:
                found[f"mean of the tasks' means, {group}"] = mean_of_groups(of_group, "type")[0]
        if len(found) == len(set(GROUPS.values())):
            found["mean of the groups"] = sum(found.values()) / len(found)
        return found

    def _of_row(self, row: FileRow, identity: str) -> Iterator[BenchmarkItem]:
        """The questions of a row.

        Raises:
            ValueError: The row is wrong.
        """
        values = row.values
        task, video = str(values.get("task") or ""), values.get("video")
        if task not in GROUPS:
            raise ValueError(f"its task {task!r} is none of {', '.join(GROUPS)}")
        if not isinstance(video, str) or not video.strip():
            raise ValueError("it names no video")
        plain = BenchmarkItem(
            identity, (MediaPart(video.strip()),), "", labels={"group": GROUPS[task], "type": task}, group=identity
        )
        if GROUPS[task] != "forward":
            yield _with_options(plain, values)
            return
        times = values.get("test_info")
        if not isinstance(times, list) or not times:
            raise ValueError("it has no test_info with the times at which it is asked")
        for number, asked in enumerate(times):
            if not isinstance(asked, dict):
                raise ValueError(f"its test_info {number} is no object")
            timed = plain._replace(id=f"{identity}_{number}", ask_ms=round(1000 * to_seconds(asked.get("realtime"))))
            yield _forward(timed, task, values, asked)


def _with_options(item: BenchmarkItem, values: Mapping[str, Any]) -> BenchmarkItem:
    options = read_options(values).texts
    question = values.get("question")
    if not isinstance(question, str) or not options:
        raise ValueError("it has no question with options")
    [answer] = read_answers([values.get("gt")], [options], "index")
    if answer.option is None:
        raise ValueError(answer.problem)
    return item._replace(
        question=question.strip(),
        options=options,
        answer=answer.option,
        reference=options[answer.option],
        ask_ms=round(1000 * to_seconds(values.get("realtime"))),
    )


def _forward(item: BenchmarkItem, task: str, values: Mapping[str, Any], asked: Mapping[str, Any]) -> BenchmarkItem:
    if task == "REC":
        count = str(asked.get("count", ""))
        if not re.fullmatch(r"\d+", count):
            raise ValueError(f"its count {count!r} is no number")
        question = f"How many times did they {values.get('activity')}? Answer with a number only."
        return item._replace(question=question, reference=count)
    if asked.get("type") not in (0, 1):
        raise ValueError(f"its type {asked.get('type')!r} is neither 0 (no) nor 1 (yes)")
    answer = int(asked["type"])
    if task == "SSR":
        question = f"Is this step being done now: {asked.get('step')}?"
    else:
        question = f"Has the video shown enough to answer this question: {values.get('question')}"
    return item._replace(question=question, options=_NO_YES, answer=answer, reference=_NO_YES[answer])
