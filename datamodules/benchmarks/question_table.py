"""Reads multiple-choice questions from a table, whatever its fields are called. Most readers build on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.benchmarks.answer_pairing import id_types, identity_of, pair_answers, unique_ids
from datamodules.benchmarks.answer_values import Form, read_answers
from datamodules.benchmarks.benchmark import Benchmark, ScoredItem, mean_of_groups
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.option_texts import read_options
from datamodules.benchmarks.question_files import FileRow, FileRows, read_file_rows
from datamodules.benchmarks.row_texts import milliseconds_of, name_of, seconds_of, text_of

QUESTION_FIELDS = ("question", "query", "q")
VIDEO_FIELDS = ("video_name", "video", "video_path", "video_id", "videoID", "video_idx", "video_uid", "q_uid")
TYPE_FIELDS = ("type", "question_type", "task_type", "category", "question_category")
DURATION_FIELDS = ("duration", "duration_s", "video_duration")
ANSWER_FIELDS = (
    "answer",
    "answer_idx",
    "answer_index",
    "correct_choice",
    "correct_answer",
    "golden_choice_idx",
    "right_answer",
    "truth",
    "label",
    "gt",
)
"""Names of fields, the first that is there."""


class Draft(NamedTuple):
    """A question before its answer is known."""

    row: FileRow
    answer_row: FileRow | None
    item: BenchmarkItem


class QuestionTable(Benchmark):
    """Multiple-choice questions of a table, with their answers in the same file or in another one.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        answers: File of the answers; None: they are in the file of the questions.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the published files; another number is a problem.
        groups: Beginning of a question's type -> name of the group, which is reported too, such as ``{C: causal}``.
        mean_over: Label over whose values the official score is the mean of means, such as ``type``.
        are_answers_public: Whether a question without answer is a problem.
    """

    expected_answer: Form = "index"
    may_name_videos_by_number = False

    def __init__(
        self,
        questions: str,
        answers: str | None = None,
        videos: str = "videos",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
        published_items: int | None = None,
        groups: dict[str, str] | None = None,
        mean_over: str | None = None,
        are_answers_public: bool = True,
    ) -> None:
        super().__init__(questions, videos, folder, chosen_by, most_items)
        self.answers = answers
        self.published_items = published_items
        self.groups = groups or {}
        self.mean_over = mean_over
        self.are_answers_public = are_answers_public

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions; see ``Benchmark``."""
        rows, problems = self.question_rows(root / self.questions)
        ids = [self.identity(row) for row in rows]
        answers: Sequence[FileRow | None] = rows
        if self.answers is not None:
            answer_rows = read_file_rows(root / self.answers)
            answers, found = pair_answers(ids, answer_rows, Path(self.answers).name)
            problems += found + _types_of_ids(rows, answer_rows.rows)
        names, found = unique_ids(ids, rows)
        problems += found
        drafts = []
        for name, row, answer in zip(names, rows, answers, strict=True):
            draft = self._draft(name, row, answer, problems)
            if draft is not None:
                drafts.append(draft)
        items = self.select(self._answered(drafts, problems), problems)
        return BenchmarkFiles(items, problems + self.count_problems(items, Path(self.questions).name))

    def question_rows(self, path: Path) -> FileRows:
        """The rows of the questions, and what is wrong with their file."""
        found = read_file_rows(path)
        return FileRows(found.rows, [*found.problems])

    def identity(self, row: FileRow) -> str | None:
        """The id of a question; None: the row has none."""
        return identity_of(row)

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """What a question shows; empty: it cannot be asked. Adds to ``problems`` why, and what is odd."""
        name = name_of(row, VIDEO_FIELDS, problems, may_be_number=self.may_name_videos_by_number)
        if name is None:
            return ()
        return (MediaPart(name, milliseconds_of(row, "start", problems), milliseconds_of(row, "end", problems)),)

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """Labels of a question: its type, and the group of the type."""
        of_question, of_answer = (text_of(each, TYPE_FIELDS) if each else "" for each in (row, answer))
        if of_question and of_answer and of_question != of_answer:
            problems.append(Problem(row.where, f"its type is {of_question!r}, and {of_answer!r} with the answer"))
        category = of_question or of_answer
        if not category:
            return {}
        group = next((name for start, name in self.groups.items() if category.startswith(start)), None)
        if group is None and self.groups:
            problems.append(Problem(row.where, f"its type {category!r} is in none of the groups"))
        return {"type": category, **({"group": group} if group else {})}

    def complete(self, item: BenchmarkItem, row: FileRow, problems: list[Problem]) -> BenchmarkItem:
        """Add what only this benchmark's rows say about an item, such as when it is asked. Nothing by default."""
        return item

    def select(self, items: list[BenchmarkItem], problems: list[Problem]) -> list[BenchmarkItem]:
        """The items that belong to this set. All by default."""
        return items

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """Scores of the groups, and the mean of means, where the benchmark reports them."""
        found: dict[str, float] = {}
        if self.groups and scored:
            grouped = [each for each in scored if "group" in each.item.labels]
            found |= mean_of_groups(grouped, "group")[1]
        if self.mean_over is not None:
            labelled = [each for each in scored if self.mean_over in each.item.labels]
            if labelled:
                found[f"mean of the means by {self.mean_over}"] = mean_of_groups(labelled, self.mean_over)[0]
        return found

    def _draft(self, name: str, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> Draft | None:
        question = text_of(row, QUESTION_FIELDS)
        options = read_options(row.values)
        problems += [Problem(row.where, what) for what in options.problems]
        if not question:
            given = next((row.values[field] for field in QUESTION_FIELDS if row.values.get(field)), None)
            is_text = given is None or isinstance(given, str)
            wrong = "no question" if is_text else f"a question of type {type(given).__name__}, expected text"
            problems.append(Problem(row.where, f"{name} has {wrong}; it is left out"))
            return None
        if not options.texts:
            problems.append(Problem(row.where, f"{name} has no options; it is left out"))
            return None
        media = self.parts(row, problems)
        if not media:
            problems.append(Problem(row.where, f"{name} names no video; it is left out"))
            return None
        labels = self.labels(row, None if answer is row else answer, problems)
        duration = seconds_of(row, DURATION_FIELDS)
        item = BenchmarkItem(name, media, question, options.texts, labels=labels, duration_s=duration)
        return Draft(row, answer, self.complete(item, row, problems))

    def _answered(self, drafts: Sequence[Draft], problems: list[Problem]) -> list[BenchmarkItem]:
        values = [_answer_of(draft.answer_row) for draft in drafts]
        answers = read_answers(values, [draft.item.options for draft in drafts], self.expected_answer)
        items = []
        for draft, value, answer in zip(drafts, values, answers, strict=True):
            is_missing = value is None or value == ""
            if answer.problem and (self.are_answers_public or not is_missing):
                where = (draft.answer_row or draft.row).where
                problems.append(Problem(where, f"{draft.item.id}: {answer.problem}"))
            reference = "" if answer.option is None else draft.item.options[answer.option]
            items.append(draft.item._replace(answer=answer.option, reference=reference))
            self.compare_answer(items[-1], draft, problems)
        return items

    def compare_answer(self, item: BenchmarkItem, draft: Draft, problems: list[Problem]) -> None:
        """Compare the answer with what else the files say about it: its text, if they have that too."""
        text = text_of(draft.answer_row, ("answer_act", "answer_text")) if draft.answer_row else ""
        if text and item.answer is not None and text.casefold() != item.reference.casefold():
            where = draft.answer_row.where if draft.answer_row else draft.row.where
            problems.append(Problem(where, f"{item.id}: the answer is {item.reference!r}, but its text {text!r}"))


def _answer_of(row: FileRow | None) -> Any:
    if row is None:
        return None
    value = next((row.values[name] for name in ANSWER_FIELDS if row.values.get(name) is not None), None)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _types_of_ids(questions: Sequence[FileRow], answers: Sequence[FileRow]) -> list[Problem]:
    types = id_types(questions) | id_types(answers)
    if len(types) < 2:
        return []
    where = questions[0].where.split(",")[0] if questions else "the questions"
    return [
        Problem(where, f"question ids are of several types ({', '.join(sorted(types))}); they are compared as text")
    ]
