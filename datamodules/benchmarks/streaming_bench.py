"""StreamingBench (Lin et al., 2024): questions at times of a video that plays.

Three of its four parts are read: ``real`` (2,500 questions), ``omni`` (1,500, whose authors also give the sound) and
``sqa`` (250, which follow each other; the right answers to the earlier ones are in the prompt). The proactive part asks
again every second until something happens, which no scorer here does.

The authors report two forms: the model sees all of the video so far, or the last 60 seconds.

Source: https://github.com/THUNLP-MT/StreamingBench, ``src/data`` (fields) and ``src/benchmark`` (rules).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.benchmarks.answer_values import read_answers
from datamodules.benchmarks.benchmark import Benchmark, ScoredItem, mean_of_groups, share_of_parsed
from datamodules.benchmarks.clock_times import to_seconds
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart, Problem, Prompt
from datamodules.benchmarks.option_texts import read_options
from datamodules.benchmarks.question_files import FileRow, read_file_rows


class StreamingBench(Benchmark):
    """Reads one part of StreamingBench: rows ``video_path, questions``.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        context_s: Seconds before the question that are shown; None: all of the video so far.
        shows_earlier_answers: Put the earlier questions about a video, with their right answers, in front.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the part; another number is a problem.

    Raises:
        ValueError: ``context_s`` is not above 0.
    """

    def __init__(
        self,
        questions: str,
        videos: str = "videos",
        folder: str = "",
        context_s: float | None = None,
        shows_earlier_answers: bool = False,
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
        published_items: int | None = None,
    ) -> None:
        super().__init__(questions, videos, folder, chosen_by, most_items)
        if context_s is not None and not 0 < context_s < float("inf"):
            raise ValueError(f"context_s is {context_s}; expected seconds above 0, or null for all of the video so far")
        self.context_s = context_s
        self.shows_earlier_answers = shows_earlier_answers
        self.published_items = published_items
        seen = "all of the video so far" if context_s is None else f"the last {context_s:g} s"
        self.prompt_name = f"options by letter, {seen}"

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions; see ``Benchmark``."""
        found = read_file_rows(root / self.questions)
        problems = list(found.problems)
        items: list[BenchmarkItem] = []
        for row in found.rows:
            items += self._of_row(row, problems)
        return BenchmarkFiles(items, problems + self.count_problems(items, Path(self.questions).name))

    def prompt(self, item: BenchmarkItem, frame_ms: Sequence[Sequence[int]]) -> Prompt:
        """The plain prompt; where earlier answers are shown, after them."""
        plain = super().prompt(item, frame_ms)
        earlier = item.facts.get("earlier")
        return plain._replace(text=f"Asked before:\n{earlier}\n\n{plain.text}") if earlier else plain

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The authors' number, which leaves empty answers out, and the mean of the tasks' means."""
        share = share_of_parsed(scored)
        if share is None:
            return {}
        labelled = [each for each in scored if "type" in each.item.labels]
        means = {"mean of the tasks' means": mean_of_groups(labelled, "type")[0]} if labelled else {}
        return {"official, unparsed left out": share, **means}

    def _of_row(self, row: FileRow, problems: list[Problem]) -> Iterator[BenchmarkItem]:
        video, questions = row.values.get("video_path"), row.values.get("questions")
        if not isinstance(video, str) or not video.strip() or not isinstance(questions, list):
            problems.append(Problem(row.where, "it has no video_path with a list of questions; it is left out"))
            return
        name = video.strip().removeprefix("./")
        earlier: list[str] = []
        for number, question in enumerate(questions, start=1):
            where = f"{row.where}, question {number}"
            try:
                item = self._item(question, f"{name} {number}", name)
            except ValueError as error:
                problems.append(Problem(where, f"{error}; it is left out"))
                continue
            if item.answer is None:
                problems.append(Problem(where, f"its answer {question.get('answer')!r} is none of the options"))
            shown = "\n".join(earlier) if self.shows_earlier_answers else ""
            yield item._replace(facts={"earlier": shown})
            earlier.append(f"Question: {item.question} Answer: {item.reference}")

    def _item(self, question: Any, identity: str, video: str) -> BenchmarkItem:
        """One question.

        Raises:
            ValueError: It cannot be asked.
        """
        if not isinstance(question, dict) or not isinstance(question.get("question"), str):
            raise ValueError("it is no question")
        options = read_options(question).texts
        if not options:
            raise ValueError("it has no options; proactive questions are not read")
        asked_s = to_seconds(question.get("time_stamp"))
        [answer] = read_answers([question.get("answer")], [options], "letter")
        category = str(question.get("task_type") or "")
        start_s = 0.0 if self.context_s is None else max(0.0, asked_s - self.context_s)
        return BenchmarkItem(
            id=identity,
            media=(MediaPart(video, round(1000 * start_s) or None),),
            question=question["question"].strip(),
            options=options,
            answer=answer.option,
            reference="" if answer.option is None else options[answer.option],
            labels={"type": category} if category else {},
            ask_ms=round(1000 * (asked_s - start_s)),
        )
